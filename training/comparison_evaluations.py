"""Evaluations of a comparison's runs, each a process of evaluate.py.

One a run while developing; on held-out prompts one for all that is new, since every look is
recorded. No torch here.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.compare_figures import BEST_OF_4
from evaluation.ladder import BASELINE
from training.comparison import REPORT, Settings, is_code, read_json
from training.comparison_runs import Record, Runner, last_line
from training.presets import SAMPLES_ITS_OWN
from training.workers import HERE, STOPPED

NAME = "references"
"""Folder of the evaluation of what is no run."""
RESULTS = "results.json"
EVALUATION = "evaluate-"
"""Begins the names of evaluations in a comparison's record."""
TRUST = "--trust-critic"
TUNED = "-tuned"
"""A run's lines at its best decoding, which stand for the method."""
LAST = "-last"
"""A run's last checkpoint."""
TUNED_ONLY = ("--decoding", "tuned")
"""Of an evaluation that needs no sampled lines: nobody picks the best of them."""
LAST_LOOK = ("--no-gap", "--no-kl")
"""Of held-out prompts, where both would be told of the report prompts again."""


class Call(NamedTuple):
    """One call of evaluate.py."""

    folder: Path
    arguments: tuple[str, ...]
    runs: tuple[str, ...]


def evaluation_calls(
    settings: Settings, folders: Mapping[str, Path], root: Path, split: str
) -> list[Call]:
    """The calls that are still to be made on a split.

    Args:
        settings: of the comparison.
        folders: finished runs by name.
        root: the comparison's folder.
        split: one of `settings.splits`.
    """
    home = root / "evaluations" / split
    known = {
        name for file in home.glob(f"*/{RESULTS}") for name in systems_of(read_json(file), file)
    }
    new = {
        run: [s for s in _systems_of(run, folder, split) if not {s[0], s[0] + TUNED} & known]
        for run, folder in folders.items()
    }
    new = {run: systems for run, systems in new.items() if systems}
    shared = _shared(settings, split)
    picker = _train_critic(settings)

    def trust(runs: Iterable[str]) -> tuple[str, ...]:
        needed = any(_needs_trust(folders[run]) for run in runs)
        return (TRUST,) if needed and TRUST not in shared else ()

    if split != REPORT:
        if not new and BASELINE in known:
            return []
        taken = len(list(home.glob("*/")))
        systems = [f"{name}={place}" for mine in new.values() for name, place in mine]
        told = (*shared, *trust(new), *picker, *TUNED_ONLY, *LAST_LOOK)
        arguments = (*systems, BEST_OF_4, *told)
        return [Call(home / f"look-{taken}", arguments, tuple(new))]
    calls = []
    wanted: tuple[str, ...] = (BEST_OF_4,)
    if settings.pool:
        wanted = tuple(dict.fromkeys((BEST_OF_4, f"best-of-{settings.pool}", "--rate-pool")))
    if not set(wanted) - {"--rate-pool"} <= known:
        references = (*wanted, *shared, *picker, *_references_of(settings))
        calls.append(Call(home / NAME, references, ()))
    for run, mine in new.items():
        first = mine[0][0]  # the run's own, unless it has been evaluated
        picks = first == run and run.rpartition("-s")[0] in SAMPLES_ITS_OWN
        named = [f"{name}={place}" for name, place in mine]
        arguments = (*named, *shared, *trust([run]), *(() if picks else TUNED_ONLY))
        calls.append(Call(home / first, arguments, (run,)))
    return calls


def _systems_of(run: str, folder: Path, split: str) -> list[tuple[str, str]]:
    """(system, place) of a finished run: its best checkpoint, and its last one if that is another.

    The best one within the bounds may be the start; where training led shows in the last one. That
    is a question of developing: held-out prompts judge what would be used, the best one.
    """
    results = read_json(folder / RESULTS)
    systems = [(run, str(folder))]
    if split == REPORT and results["best_step"] != results["last_step"]:
        systems.append((run + LAST, f"{folder}@last"))
    return systems


def _shared(settings: Settings, split: str) -> list[str]:
    options = settings.options
    trains = str(options.get("critic", "embedded"))
    out = ["--split", split, "--critic", settings.critic]
    out += ["--size", str(settings.size)] if settings.size else []
    for key in ("threads", "device"):
        out += [f"--{key}", str(options[key])] if key in options else []
    if "select_critic" in options:
        out += ["--select-critic", str(options["select_critic"])]
    if split != REPORT:
        out += ["--reason", settings.reason]
    elif options.get("report_prompts"):
        out += ["--prompts", str(options["report_prompts"])]
    if any(is_code(str(c)) for c in (trains, options.get("select_critic", ""), *settings.critics)):
        out.append(TRUST)
    return out


def _train_critic(settings: Settings) -> list[str]:
    """Who picks best-of-N; a run's own lines are scored by the critic that trained it."""
    options = settings.options
    out = ["--train-critic", str(options.get("critic", "embedded"))]
    for value in options.get("critic_arg", ()):
        out += ["--train-critic-arg", str(value)]
    return out


def _needs_trust(folder: Path) -> bool:
    """Whether a run's training critic is code or a server; the plan named it, so it is trusted."""
    options = read_json(folder / "config.json")["options"]
    return any(is_code(str(part.get("critic", ""))) for part in options.values())


def _references_of(settings: Settings) -> list[str]:
    """What evaluate.py would else read from a run."""
    out = []
    for key in ("student", "max_tokens"):
        if key in settings.options:
            out += [f"--{key.replace('_', '-')}", str(settings.options[key])]
    return out


class Evaluations:
    """The evaluations of one sitting; each is made once, also where several ask for it at once.

    Args:
        settings: of the comparison.
        root: the comparison's folder.
        record: where failures are noted; a failed evaluation is tried again in the next sitting.
        run: runs a process.
        say: told of each.
    """

    def __init__(
        self,
        settings: Settings,
        root: Path,
        record: Record,
        run: Runner,
        say: Callable[[str], None],
    ) -> None:
        self.settings, self.root, self.record = settings, root, record
        self._run, self._say = run, say
        self._claimed: set[Path] = set()
        self._lock = threading.Lock()

    def open(self, folders: Mapping[str, Path], splits: Sequence[str]) -> list[Call]:
        """Claim what is still to be evaluated of these runs on these splits."""
        with self._lock:
            calls = [
                call
                for split in splits
                for call in evaluation_calls(self.settings, folders, self.root, split)
                if call.folder not in self._claimed
            ]
            self._claimed |= {call.folder for call in calls}
        return calls

    def make(self, call: Call) -> None:
        """Make one call."""
        done = evaluate(call, self.root, self.record, self._run)
        told = "done" if done else "failed"
        self._say(f"evaluation {call.folder.parent.name}/{call.folder.name}  {told}")


def evaluate(call: Call, root: Path, record: Record, run: Runner) -> bool:
    """Make one call; returns whether it gave results. Failures are noted with the runs."""
    label = f"{EVALUATION}{call.folder.parent.name}-{call.folder.name}"
    log = root / "logs" / f"{label}.log"
    script = str(HERE / "evaluate.py")
    status = run([sys.executable, script, *call.arguments, "--out", str(call.folder)], log)
    done = status == 0 and (call.folder / RESULTS).exists()
    state, reason = "done", ""
    if not done:
        told = "told to end" if status in STOPPED else last_line(log)
        state, reason = "not evaluated", told or f"exit status {status}"
    for name in call.runs or (label,):
        record.add(name, state, reason)
    return done


def systems_of(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Systems of a results file by name.

    Raises:
        ValueError: damaged, or without systems.
    """
    try:
        return {s["name"]: s for s in content["systems"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} has no list of systems: {error!r}") from error
