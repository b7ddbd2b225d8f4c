"""Train a small language model to be funny, and show what became of it.

    python train.py --algo ppo
    python train.py --algo sft --out-adapter my-start
    python train.py --resume last

Option values, environment, student, critics and agent are joined here; each lives in its own file.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agents.configs import FREE_ON_RESUME, PPOConfig, RunConfig, SFTConfig

ALGOS = {"ppo": PPOConfig, "sft": SFTConfig}
STUDENTS = ("start", "smollm2-135m", "FOLDER", "FILE.gguf", "OWNER/NAME")
EXIT_BAD_INPUT, EXIT_STOPPED = 2, 3
CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class PPORun:
    """python train.py --algo ppo"""

    run: RunConfig = field(default_factory=RunConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)


@dataclass(frozen=True)
class SFTRun:
    """python train.py --algo sft"""

    run: RunConfig = field(default_factory=RunConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)


RUNS = {"ppo": PPORun, "sft": SFTRun}


@dataclass(frozen=True)
class Command:
    """What the command line asks for, before the options of the algorithm."""

    algo: str = "ppo"
    resume: str = ""
    config: str = ""
    dry_run: bool = False
    list: str = ""
    version: bool = False
    verbose: bool = False
    quiet: bool = False


HELP = """\
usage: python train.py [--algo ppo|sft] [OPTIONS]

  --algo NAME          ppo (default) or sft; `--algo NAME --help` shows the options of NAME
  --resume RUN|last    continue a run folder, bit for bit
  --config FILE        options from JSON, e.g. {"updates": 40}; the command line wins
  --dry-run            what the run would cost, then stop
  --list WHAT          algos, critics or students
  --version            the version
  -v, -q               more or less on the terminal
  -h, --help           this, and the options of the algorithm
"""


class Refused(Exception):
    """Bad input: one line, exit 2, nothing written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        return _main(list(sys.argv[1:] if arguments is None else arguments))
    except (Refused, ValueError, FileNotFoundError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _main(arguments: list[str]) -> int:
    command, rest = read_command(arguments)
    if command.version:
        print(f"punchline {_version()}")
        return 0
    if command.list:
        print("\n".join(_listed(command.list)))
        return 0
    if command.algo not in ALGOS:
        raise Refused(f"--algo is {command.algo!r}, allowed are {', '.join(ALGOS)}")
    if command.resume:
        folder, stored = _stored_run(command)
        options = read_options(stored["algo"], rest, stored["options"])
        _refuse_changes(stored, options)
        command = replace(command, algo=stored["algo"])
    else:
        folder, options = None, read_options(command.algo, rest, _config_file(command.config))
    _fix_threads(options.run.threads)
    from training.run import dry_run, run_ppo, run_sft  # torch from here on
    from models.sources import WeightsError

    try:
        if command.dry_run:
            print(dry_run(command.algo, options))
            return 0
        folder = folder or _new_folder(command.algo, options.run)
        describe = lambda: _write_config(folder, command.algo, options)  # noqa: E731
        run = {"ppo": run_ppo, "sft": run_sft}[command.algo]
        return run(options, folder, describe, resume=bool(command.resume), quiet=command.quiet)
    except WeightsError as error:
        raise Refused(str(error)) from error
    except KeyboardInterrupt:
        print(f"stopped; continue with: python train.py --resume {folder}", file=sys.stderr)
        return 130


def read_command(arguments: list[str]) -> tuple[Command, list[str]]:
    """Split what concerns every run from the options of the algorithm, which stay in order."""
    values: dict[str, Any] = {}
    rest: list[str] = []
    switches = {"--dry-run": "dry_run", "--version": "version", "-v": "verbose",
                "--verbose": "verbose", "-q": "quiet", "--quiet": "quiet"}  # fmt: skip
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.partition("=")
        if name in ("--algo", "--resume", "--config", "--list"):
            if not equals and not queue:
                raise Refused(f"{name} needs a value")
            values[name[2:]] = value if equals else queue.pop(0)
        elif word in switches:
            values[switches[word]] = True
        else:
            rest.append(word)
    return Command(**values), rest


def read_options(algo: str, rest: Sequence[str], given: dict[str, Any]) -> Any:
    """The run's options: defaults, then a file's or a stored run's, then the command line's."""
    import tyro

    default = _with_values(RUNS[algo](), given)
    if "-h" in rest or "--help" in rest:
        print(HELP)
    parser = tyro.conf.OmitArgPrefixes[RUNS[algo]]
    return tyro.cli(parser, args=list(rest), default=default, prog=f"train.py --algo {algo}")


def _with_values(options: Any, given: dict[str, Any]) -> Any:
    """Put a flat or a stored mapping of values into the nested options."""
    flat = dict(given)
    for part in ("run", *ALGOS):
        flat |= flat.pop(part, {}) if isinstance(flat.get(part), dict) else {}
    parts = {}
    for f in fields(options):
        inner = getattr(options, f.name)
        names = {g.name for g in fields(inner)}
        mine = {k: flat.pop(k) for k in list(flat) if k in names}
        mine = {k: tuple(v) if isinstance(v, list) else v for k, v in mine.items()}
        parts[f.name] = replace(inner, **mine)
    if flat:
        raise Refused(f"--config has the unknown option {sorted(flat)[0]!r}")
    return replace(options, **parts)


def _config_file(name: str) -> dict[str, Any]:
    if not name:
        return {}
    try:
        content = json.loads(Path(name).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise Refused(f"--config {name}: {error}") from error
    if not isinstance(content, dict):
        raise Refused(f"--config {name} must hold one JSON object")
    return {k.replace("-", "_"): v for k, v in content.items()}


# ---- run folders


def _new_folder(algo: str, run: RunConfig) -> Path:
    name = "".join(c if c.isalnum() or c in "-." else "-" for c in Path(run.student).name)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = Path(run.out) / f"{algo}-{name}-s{run.seed}-{stamp}"
    number = 2
    while folder.exists():
        folder = folder.with_name(f"{algo}-{name}-s{run.seed}-{stamp}-{number}")
        number += 1
    return folder


def _stored_run(command: Command) -> tuple[Path, dict[str, Any]]:
    folder = Path(command.resume)
    if command.resume == "last":
        runs = sorted(Path("runs").glob(f"*/{CONFIG_FILE}"), key=lambda f: f.stat().st_mtime)
        if not runs:
            raise Refused("--resume last: there is no run in runs/")
        folder = runs[-1].parent
    file = folder / CONFIG_FILE
    if not file.exists():
        raise Refused(f"--resume {command.resume}: {folder} is not a run folder")
    try:
        stored: dict[str, Any] = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise Refused(f"--resume {command.resume}: {file} is damaged: {error}") from error
    return folder, stored


def _refuse_changes(stored: dict[str, Any], options: Any) -> None:
    """Only what changes no number may differ on resume."""
    now = json.loads(json.dumps(asdict(options)))
    for part, values in now.items():
        for name, value in values.items():
            before = stored["options"][part].get(name)
            if value != before and name not in FREE_ON_RESUME:
                raise Refused(
                    f"--{name.replace('_', '-')} is {value!r} but the run began with {before!r}; "
                    f"on --resume only {', '.join(FREE_ON_RESUME)} may differ"
                )


def _write_config(folder: Path, algo: str, options: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    packages = ("torch", "transformers", "peft", "trl", "gymnasium", "numpy", "safetensors")
    content = {
        "algo": algo,
        "options": asdict(options),
        "version": _version(),
        "commit": _commit(),
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in packages},
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    scratch = folder / ".config.json"
    scratch.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(scratch, folder / CONFIG_FILE)


def _version(package: str = "punchline-rl") -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    import subprocess

    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _listed(what: str) -> list[str]:
    if what == "algos":
        return list(ALGOS)
    if what == "students":
        return list(STUDENTS)
    if what == "critics":
        from rewards.build import critic_kinds

        return critic_kinds()
    raise Refused(f"--list is {what!r}, allowed are algos, critics, students")


def _fix_threads(threads: int) -> None:
    """A fixed number, before torch loads: a resumed run must add in the same order."""
    n = threads or os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(n)
    os.environ["OMP_DYNAMIC"] = os.environ["MKL_DYNAMIC"] = "FALSE"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


if __name__ == "__main__":
    sys.exit(main())
