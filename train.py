"""Train a small language model to be funny, and show what became of it.

    python train.py --algo ppo
    python train.py --algo sft
    python train.py --resume last

The command line is read here, without torch; `training.run` joins the parts.
"""

import contextlib
import functools
import io
import itertools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from agents.configs import FREE_ON_RESUME, PPOConfig, RunConfig, SFTConfig
from agents.feedback_configs import (
    BRIOConfig,
    BrioDPOConfig,
    OfflineDPOConfig,
    SelfDistilConfig,
    SFTMoreConfig,
)
from agents.preference_configs import OnlineDPOConfig
from training.run_folder import (
    find_run,
    new_folder,
    package_version,
    read_config,
    write_config,
)


@dataclass(frozen=True)
class PPORun:
    """Proximal policy optimisation against a critic."""

    run: RunConfig = field(default_factory=RunConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)


@dataclass(frozen=True)
class OnlineDPORun:
    """Direct preference optimisation on pairs of the student's own jokes."""

    run: RunConfig = field(default_factory=RunConfig)
    online_dpo: OnlineDPOConfig = field(default_factory=OnlineDPOConfig)


@dataclass(frozen=True)
class OfflineDPORun:
    """Direct preference optimisation on pairs gathered once, or given (TRL's DPOTrainer)."""

    run: RunConfig = field(default_factory=RunConfig)
    dpo: OfflineDPOConfig = field(default_factory=OfflineDPOConfig)


@dataclass(frozen=True)
class BRIORun:
    """Ranking of the student's own jokes, with imitation of the teacher's."""

    run: RunConfig = field(default_factory=RunConfig)
    brio: BRIOConfig = field(default_factory=BRIOConfig)


@dataclass(frozen=True)
class BrioDPORun:
    """Teacher over student jokes by ranking, then online DPO."""

    run: RunConfig = field(default_factory=RunConfig)
    brio_dpo: BrioDPOConfig = field(default_factory=BrioDPOConfig)


@dataclass(frozen=True)
class SelfDistilRun:
    """Imitation of the student's own best jokes: rejection-sampling fine-tuning."""

    run: RunConfig = field(default_factory=RunConfig)
    sd: SelfDistilConfig = field(default_factory=SelfDistilConfig)


@dataclass(frozen=True)
class SFTMoreRun:
    """More imitation of the teacher's jokes, without a critic: the fair control."""

    run: RunConfig = field(default_factory=RunConfig)
    sft_more: SFTMoreConfig = field(default_factory=SFTMoreConfig)


@dataclass(frozen=True)
class SFTRun:
    """Imitation of the teacher's jokes: makes a start student."""

    run: RunConfig = field(default_factory=RunConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)


RUNS: dict[str, type[Any]] = {
    "ppo": PPORun,
    "online-dpo": OnlineDPORun,
    "dpo": OfflineDPORun,
    "brio": BRIORun,
    "brio-dpo": BrioDPORun,
    "sd": SelfDistilRun,
    "sft-more": SFTMoreRun,
    "sft": SFTRun,
}
STUDENTS = (
    "start          the shipped adapter on smollm2-135m: imitation of the corpus' train jokes",
    "smollm2-135m   the bare instruct model; fetched once",
    "FOLDER         an adapter (PEFT) or a Hugging Face model",
    "FILE.gguf      a GGUF file, dequantised",
    "OWNER/NAME     a model of the Hugging Face hub",
)
NO_CODE = ("fake", "local", "openai")
"""Kinds of critic that import nothing a run folder could bring along."""
EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130

HELP = """\
usage: python train.py [--algo NAME] [OPTIONS]

  --algo NAME          ppo (default), online-dpo, dpo, brio, brio-dpo, sd, sft-more or sft;
                       `--algo NAME --help` shows its options
  --resume RUN|last    continue a run folder, bit for bit
  --trust-critic       with --resume: import the modules that the run folder names
  --config FILE        options from JSON, e.g. {"updates": 40}; the command line wins
  --dry-run            what the run would cost, then stop
  --list WHAT          algos, critics or students
  --version            the version
  -v, -q               more (every metric of an update) or less on the terminal
  -h, --help           this, and the options of the algorithm
"""


@dataclass(frozen=True)
class Command:
    """What the command line asks for, beside the options of the algorithm."""

    algo: str = "ppo"
    resume: str = ""
    config: str = ""
    trust_critic: bool = False
    dry_run: bool = False
    list: str = ""
    version: bool = False
    verbose: bool = False
    quiet: bool = False


WITH_VALUE = {"--algo": "algo", "--resume": "resume", "--config": "config", "--list": "list"}
SWITCHES = {
    "--trust-critic": "trust_critic",
    "--dry-run": "dry_run",
    "--version": "version",
    "-v": "verbose",
    "--verbose": "verbose",
    "-q": "quiet",
    "--quiet": "quiet",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Bad input is one line and status 2."""
    try:
        return _main(list(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, FileNotFoundError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _main(arguments: list[str]) -> int:
    command, rest = read_command(arguments)
    if command.version:
        print(f"punchline {package_version()}")
        return 0
    if command.list:
        print("\n".join(_listed(command.list)))
        return 0
    if command.algo not in RUNS:
        raise ValueError(f"--algo is {command.algo!r}, allowed are {', '.join(RUNS)}")
    if command.resume:
        folder = find_run(command.resume)
        stored = read_config(folder)
        algo = str(stored["algo"])
        options = read_options(algo, rest, stored["options"])
        _refuse_changes(stored["options"], options)
        if not command.trust_critic:
            _refuse_modules(stored["options"]["run"], rest)
    else:
        algo = command.algo
        options = read_options(algo, rest, _config_file(command.config))
        folder = new_folder(algo, options.run)
    _fix_threads(options.run.threads)
    from models.sources import WeightsError  # torch from here on
    from training.run import dry_run, run_online, run_sft

    try:
        if command.dry_run:
            print(dry_run(algo, options, folder))
            return 0
        run = run_sft if algo == "sft" else functools.partial(run_online, algo)
        return run(
            options,
            folder,
            lambda: write_config(folder, algo, options),
            resume=bool(command.resume),
            talk=2 if command.verbose else 0 if command.quiet else 1,
        )
    except WeightsError as error:
        raise ValueError(str(error)) from error
    except KeyboardInterrupt:
        print(f"stopped; continue with: python train.py --resume {folder}", file=sys.stderr)
        return EXIT_INTERRUPTED


def read_command(arguments: list[str]) -> tuple[Command, list[str]]:
    """Split what concerns every run from the options of the algorithm, which keep their order.

    Raises:
        ValueError: an option without its value.
    """
    values: dict[str, Any] = {}
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.partition("=")
        if name in WITH_VALUE:
            if not equals and not queue:
                raise ValueError(f"{name} needs a value")
            values[WITH_VALUE[name]] = value if equals else queue.pop(0)
        elif word in SWITCHES:
            values[SWITCHES[word]] = True
        else:
            rest.append(word)
    return Command(**values), rest


def read_options(algo: str, rest: Sequence[str], given: dict[str, Any]) -> Any:
    """The run's options: defaults, then a file's or a stored run's, then the command line's.

    Raises:
        ValueError: an unknown option, or a value of the wrong kind or out of range.
        SystemExit: help was shown.
    """
    import tyro

    default = _with_values(RUNS[algo](), given)
    if "-h" in rest or "--help" in rest:
        print(HELP)
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(
                RUNS[algo],
                args=list(rest),
                default=default,
                prog=f"train.py --algo {algo}",
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise ValueError(_first_paragraph(told.getvalue())) from end


def _first_paragraph(box: str) -> str:
    """What is wrong, without the frame and the hints that tyro draws around it.

    The frame is of box characters, or of hyphens where the terminal has none.
    """
    lines = iter([line.strip("│ ") for line in box.splitlines()])
    next((line for line in lines if line.startswith(("╭", "---"))), None)
    text = itertools.takewhile(lambda line: not line.startswith(("──", "---", "╰")), lines)
    fault = " ".join(text)
    for part in ("run", *RUNS):  # of a check in the options' own class
        fault = fault.removeprefix(f"Error parsing {part.replace('-', '_')}: ")
    return fault or box.strip()


def _with_values(options: Any, given: dict[str, Any]) -> Any:
    """Put a flat or a stored mapping of values into the nested options."""
    flat: dict[str, Any] = {}
    for name, value in given.items():
        if name in {part.name for part in fields(options)} and isinstance(value, dict):
            flat |= value
        else:
            flat[name.replace("-", "_")] = value
    parts = {}
    for part in fields(options):
        inner = getattr(options, part.name)
        names = {f.name for f in fields(inner)}
        mine = {k: flat.pop(k) for k in list(flat) if k in names}
        mine = {k: tuple(v) if isinstance(v, list) else v for k, v in mine.items()}
        for name, value in mine.items():
            _check_kind(name, value, getattr(inner, name))
        parts[part.name] = replace(inner, **mine)
    if flat:
        raise ValueError(f"--config has the unknown option {sorted(flat)[0]!r}")
    return replace(options, **parts)


def _check_kind(name: str, value: Any, usual: Any) -> None:
    """Refuse a value of another kind than the default's; where that is None, numbers are wanted."""
    kinds: tuple[type, ...] = (type(usual),)
    if usual is None or isinstance(usual, float):
        kinds = (*kinds, int, float)
    if type(value) not in kinds:
        wanted = " or ".join(dict.fromkeys(k.__name__ for k in kinds))
        raise ValueError(f"--config: {name} is {value!r}, must be {wanted}")


def _config_file(name: str) -> dict[str, Any]:
    if not name:
        return {}
    try:
        content = json.loads(Path(name).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"--config {name}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"--config {name} must hold one JSON object")
    return content


def _refuse_changes(stored: dict[str, Any], options: Any) -> None:
    """Only what changes no number may differ on resume."""
    now = json.loads(json.dumps(asdict(options)))
    usual = json.loads(json.dumps(asdict(type(options)())))  # of options younger than the run
    for part, values in now.items():
        for name, value in values.items():
            before = stored[part].get(name, usual[part][name])
            if value != before and name not in FREE_ON_RESUME:
                raise ValueError(
                    f"--{name.replace('_', '-')} is {value!r} but the run began with {before!r}; "
                    f"on --resume only {', '.join(FREE_ON_RESUME)} may differ"
                )


def _refuse_modules(stored: dict[str, Any], rest: Sequence[str]) -> None:
    """A run folder may come from anyone: its code is imported only if the user names it too."""
    specs = [stored[name] for name in ("critic", "select_critic", "report_critic")]
    specs += [term.partition("=")[0] for term in stored["reward"].split(",")]
    typed = " ".join(rest)
    for spec in specs:
        if ":" in spec and spec.partition(":")[0] not in NO_CODE and spec not in typed:
            raise ValueError(
                f"--resume: the run folder names {spec!r}, code that would be imported; "
                f"add --trust-critic if you trust it"
            )


def _listed(what: str) -> list[str]:
    if what == "algos":
        return list(RUNS)
    if what == "students":
        return list(STUDENTS)
    if what == "critics":
        from rewards.build import critic_kinds

        return critic_kinds()
    raise ValueError(f"--list is {what!r}, allowed are algos, critics, students")


def _fix_threads(threads: int) -> None:
    """A fixed number, before torch loads: a resumed run must add in the same order.

    Other libraries' switches that must be set as early stand here too.
    """
    n = threads or os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(n)
    os.environ["OMP_DYNAMIC"] = os.environ["MKL_DYNAMIC"] = "FALSE"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers report their use


if __name__ == "__main__":
    sys.exit(main())
