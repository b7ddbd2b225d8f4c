"""What stands in an evaluation: runs, students, files of jokes, and the names of the ladder.

Nothing here writes or rates a joke: this module reads what a system is and refuses what must not
meet, so that bad input is answered before any weights are loaded.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from envs.prompts import Prompt, corpus_prompts, load_prompts, normal, refuse_shared
from models.adapters import CONFIG_FILE as ADAPTER_CONFIG
from rewards.embedded import KINDS, check_roles, manifest_of
from rewards.from_file import members
from rewards.types import Unfinished
from training.checkpoint import ADAPTER, checkpoints
from training.loop import CHECKPOINTS
from training.run_folder import CONFIG_FILE, read_config
from training.selection import Groups

START, START_TUNED, COPY, LIGHT, TEACHER = "start", "start-tuned", "copy", "light", "teacher"
REFERENCES = (START, START_TUNED, COPY, LIGHT, TEACHER)
SPLITS = {
    "report": "report",
    "test": "test-everyday",
    "headline": "test-headline",
    "summary": "test-summary",
}
"""--split: role of the prompts in data/roles.json. All but the first are held out."""
NO_CRITIC = ("sft", "sft-more")
"""Algorithms that learn from no critic: theirs has trained nobody."""

_BEST_OF = re.compile(r"best-of-(\d+)")
_LABEL = re.compile(r"[\w.+-]+")


@dataclass(frozen=True)
class System:
    """One system as the command line names it."""

    name: str
    kind: Literal["reference", "run", "student", "jokes"]
    path: Path = Path()
    checkpoint: str = "best"
    """Of a run: best, last, or step-NNNNNN."""

    @property
    def best_of(self) -> int:
        """N of best-of-N, else 0."""
        found = _BEST_OF.fullmatch(self.name) if self.kind == "reference" else None
        return int(found[1]) if found else 0


@dataclass(frozen=True)
class Run:
    """A run folder and the checkpoint of it that is meant."""

    system: System
    algo: str
    options: Mapping[str, Any]
    """`RunConfig` as stored."""
    max_tokens: int | None
    adapter: Path

    @property
    def train_critic(self) -> tuple[str, tuple[str, ...]] | None:
        """Spec and arguments of the critic that trained it; None where there was none."""
        if self.algo in NO_CRITIC:
            return None
        return str(self.options["critic"]), tuple(self.options.get("critic_arg", ()))


def parse_systems(texts: Sequence[str]) -> list[System]:
    """Read SYSTEM arguments, each if wished with a name of one's own: NAME=SYSTEM.

    Raises:
        ValueError: neither a run, a student, a file of jokes nor a name of the ladder; or two
            systems of one name.
    """
    systems = [parse_system(text) for text in texts]
    names = [s.name for s in systems]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two systems are called {name!r}; name one with NAME=SYSTEM")
    return systems


def parse_system(text: str) -> System:
    """Read one SYSTEM argument (see `parse_systems`)."""
    label, equals, rest = text.partition("=")
    if not (equals and _LABEL.fullmatch(label) and not Path(text).exists()):
        label, rest = "", text
    found = _BEST_OF.fullmatch(rest)
    if rest in REFERENCES or found:
        if found and not 2 <= int(found[1]) <= 256:
            raise ValueError(f"{rest}: N must lie in 2..256")
        if label:
            raise ValueError(f"{text!r}: a name of the ladder cannot be renamed")
        return System(rest, "reference")
    if label and (label in REFERENCES or _BEST_OF.fullmatch(label)):
        raise ValueError(f"{text!r}: {label!r} is a name of the ladder")
    place, _, checkpoint = rest.partition("@")
    path = Path(place).expanduser()
    name = label or path.resolve().name
    if _is_run(path):
        suffix = "" if label or not checkpoint else f"@{checkpoint}"
        return System(name + suffix, "run", path, checkpoint or "best")
    if checkpoint:
        raise ValueError(f"SYSTEM {rest!r}: {place} is not a run folder, so it has no checkpoints")
    if path.is_file() and path.suffix == ".jsonl":
        return System(label or path.stem, "jokes", path)
    if path.is_dir() and any((path / f).exists() for f in (ADAPTER_CONFIG, CONFIG_FILE)):
        return System(name, "student", path)
    raise ValueError(
        f"SYSTEM {rest!r} is neither a run folder, a student folder, a .jsonl file of jokes nor "
        f"one of {', '.join(REFERENCES)}, best-of-N"
    )


def _is_run(path: Path) -> bool:
    """Whether the folder's config.json is a run's; a Hugging Face model has one too."""
    if not (path / CONFIG_FILE).exists():
        return False
    try:
        return {"algo", "options"} <= set(read_config(path))
    except ValueError:
        return not (path / "tokenizer.json").exists()  # a damaged run: refused when it is read


def read_run(system: System) -> Run:
    """Find the checkpoint that is meant.

    Raises:
        ValueError: a damaged or half-finished run, or a checkpoint that is not there.
    """
    folder = system.path
    config = read_config(folder)
    algo, options = str(config["algo"]), config["options"]
    own = options.get(algo.replace("-", "_"), {})
    if algo == "sft":  # imitation keeps no checkpoints
        adapter = folder / ADAPTER
        if not (folder / "results.json").exists():
            raise ValueError(f"{folder} is half-finished: start its imitation again")
    else:
        adapter = _checkpoint(system, own.get("updates")) / ADAPTER
    if not (adapter / ADAPTER_CONFIG).exists():
        raise ValueError(f"{folder}: {adapter.relative_to(folder)} holds no adapter")
    limit = own.get("max_tokens")
    return Run(system, algo, options["run"], None if limit is None else int(limit), adapter)


def _checkpoint(system: System, updates: Any) -> Path:
    folder, wanted = system.path, system.checkpoint
    there = {f.name: f for f in checkpoints(folder / CHECKPOINTS)}
    if wanted == "last" and there:
        return there[max(there)]
    if wanted == "best":
        results = folder / "results.json"
        if not results.exists():
            done = int(max(there).removeprefix("step-")) if there else 0
            raise ValueError(
                f"{folder} is half-finished (update {done} of {updates}): continue it with "
                f"train.py --resume {folder}, or name a checkpoint: {folder}@last"
            )
        try:
            wanted = f"step-{json.loads(results.read_text())['best_step']:06d}"
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{results} is damaged: {error!r}") from error
    if wanted not in there:
        kept = ", ".join(sorted(there)) or "none"
        raise ValueError(f"{folder} has no checkpoint {wanted!r}; it has {kept}")
    return there[wanted]


def check_meeting(runs: Sequence[Run], critic: str) -> None:
    """Refuse runs that must not meet, and a critic that must not report on them.

    Raises:
        ValueError: runs of different students, or a critic that some run has seen or that shares
            labels with one.
    """
    for run in runs:
        first = runs[0]
        if run.options["student"] != first.options["student"]:
            raise ValueError(
                f"runs of different students do not meet: {first.system.name} began as "
                f"{first.options['student']!r}, {run.system.name} as {run.options['student']!r}"
            )
        seen = {"it trained with": run.train_critic and run.train_critic[0]}
        seen["its checkpoints were picked by"] = run.options["select_critic"]
        terms = [term.partition("=")[0] for term in run.options["reward"].split(",")]
        if critic in terms:
            seen["its reward has the term"] = critic
        for how, whole in seen.items():
            for spec in members(whole, run.system.name) if whole else ():
                if spec in members(critic):
                    raise ValueError(
                        f"--critic {critic} must be one that no run has seen: {run.system.name}: "
                        f"{how} {whole}"
                    )
                if spec in KINDS and critic in KINDS:
                    check_roles(manifest_of(spec), manifest_of(critic))


def refuse_modules(runs: Sequence[Run], typed: Sequence[str], trusted: bool) -> None:
    """A run folder may come from anyone: code and servers it names are used only if told so.

    Args:
        runs: of the evaluation.
        typed: critics that the command line names itself.
        trusted: --trust-critic.

    Raises:
        ValueError: a run names one that nobody typed.
    """
    for run in runs:
        asked = [run.train_critic[0]] if run.train_critic else []
        for spec in (*asked, str(run.options["select_critic"])):
            if ":" in spec and not spec.startswith("fake:") and spec not in typed and not trusted:
                raise ValueError(
                    f"{run.system.path} names the critic {spec!r}, which would be imported or "
                    "asked; add --trust-critic if you trust it"
                )


def common(runs: Sequence[Run], option: str, values: Sequence[Any], hint: str) -> Any:
    """The one value that all runs share; None without runs.

    Raises:
        ValueError: they differ.
    """
    distinct = list(dict.fromkeys(values))
    if len(distinct) > 1:
        shown = ", ".join(
            f"{run.system.name}: {value!r}" for run, value in zip(runs, values, strict=True)
        )
        raise ValueError(f"runs differ in {option} ({shown}); {hint}")
    return distinct[0] if distinct else None


def evaluation_prompts(runs: Sequence[Run], split: str, file: Path | None) -> list[Prompt]:
    """The sentences to evaluate on: none that a run has learned from or was selected on.

    Raises:
        ValueError: an unknown split, runs that report on different files, or shared prompts.
    """
    if split not in SPLITS:
        raise ValueError(f"--split is {split!r}, allowed are {', '.join(SPLITS)}")
    if file is not None and split != "report":
        raise ValueError(f"--prompts {file} and --split {split} exclude each other")
    if split == "report" and file is None:
        files = [run.options["report_prompts"] for run in runs]
        told = common(runs, "their report prompts", files, "name a file with --prompts")
        file = Path(told) if told else None
    prompts = corpus_prompts(SPLITS[split]) if file is None else load_prompts(file)
    learned = {run.options["prompts"] for run in runs} or {""}
    selected = {run.options["select_prompts"] for run in runs} or {""}
    for role, files_of in (("rl", learned), ("select", selected)):
        for name in sorted(files_of):
            seen = load_prompts(Path(name)) if name else corpus_prompts(role)
            refuse_shared(**{role: seen, "evaluated": prompts})
    return prompts


def select_prompts(runs: Sequence[Run], size: int) -> list[str]:
    """Sentences that decoding is tuned on: the runs' own, else the corpus'."""
    files = [run.options["select_prompts"] for run in runs]
    told = common(runs, "their select prompts", files, "evaluate them apart")
    found = load_prompts(Path(told)) if told else corpus_prompts("select")
    return [p.text for p in found[:size]]


def read_jokes(path: Path, prompts: Sequence[Prompt]) -> tuple[Groups, str]:
    """Read a file of jokes: JSONL of `prompt` and `joke` or `jokes`.

    `prompt` is a sentence or the id of one; `finished` false marks lines that were cut; `source`
    says who wrote them, as in data/judgments.jsonl. Lines of one prompt add up.

    Returns:
        Lines of each of `prompts`, and the source where every line has the same, else "".

    Raises:
        ValueError: file, line number and what is wrong; or prompts without a joke.
    """
    place = {normal(p.text): i for i, p in enumerate(prompts)}
    place |= {p.id: i for i, p in enumerate(prompts)}
    jokes: Groups = [[] for _ in prompts]
    sources = set()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        prompt, lines, finished, source = _joke_record(line, f"{path}:{number}")
        at = place.get(prompt, place.get(normal(prompt)))
        if at is not None:
            jokes[at] += [joke if finished else Unfinished(joke) for joke in lines]
            sources.add(source)
    missing = [p.id for p, row in zip(prompts, jokes, strict=True) if not row]
    if missing:
        shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise ValueError(
            f"{path} has no joke for {len(missing)} of {len(prompts)} prompts: {shown}"
        )
    return jokes, sources.pop() if len(sources) == 1 else ""


def _joke_record(line: str, where: str) -> tuple[str, list[str], bool, str]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error.msg}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a {type(record).__name__}, need an object")
    prompt = record.get("prompt", record.get("id"))
    lines = record.get("jokes", [record["joke"]] if "joke" in record else None)
    if not isinstance(prompt, str):
        raise ValueError(f"{where}: no field 'prompt' with a sentence")
    if not isinstance(lines, list) or not lines or not all(isinstance(j, str) for j in lines):
        raise ValueError(f"{where}: need 'joke', a string, or 'jokes', a list of strings")
    finished = record.get("finished", True)
    if not isinstance(finished, bool):
        raise ValueError(f"{where}: finished is {finished!r}, need true or false")
    return prompt, lines, finished, str(record.get("source", ""))
