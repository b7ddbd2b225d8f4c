"""From the runs of a comparison to its report: evaluations, and what stands in their results.

Evaluations are processes of evaluate.py, one a run while developing; on held-out prompts one for
all that is new, since every look is recorded. No torch here.
"""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.best_of import best_line
from evaluation.compare_figures import (
    BEST_OF_4,
    Comparison,
    Evaluated,
    MethodRuns,
    SeedRun,
    Trial,
    read_system,
)
from evaluation.contrasts import BestOfN, best_of_n_curve
from evaluation.ladder import BASELINE, COPY
from models.sources import MANIFEST as ADAPTER_MANIFEST
from rewards.text import recall, words
from training.comparison import REPORT, PlannedRun, Settings, find, is_code, read_json
from training.comparison_runs import Record, Runner, best_look, last_line, looks
from training.presets import MAIN, SAMPLES_ITS_OWN, Study
from training.workers import HERE, STOPPED

REFERENCES = ("start", BASELINE, BEST_OF_4, COPY, "light")
"""In the order of the tables."""
NAME = "references"
RESULTS = "results.json"
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
    known = {name for file in home.glob(f"*/{RESULTS}") for name in _systems(file)}
    new = {
        run: [s for s in _systems_of(run, folder, split) if not {s[0], s[0] + TUNED} & known]
        for run, folder in folders.items()
    }
    new = {run: systems for run, systems in new.items() if systems}
    shared = _shared(settings, split)
    picker = _train_critic(settings)
    if split != REPORT:
        if not new and BASELINE in known:
            return []
        taken = len(list(home.glob("*/")))
        systems = [f"{name}={place}" for mine in new.values() for name, place in mine]
        arguments = (*systems, BEST_OF_4, *shared, *picker, *TUNED_ONLY, *LAST_LOOK)
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
        trust = () if TRUST in shared or not _needs_trust(folders[run]) else (TRUST,)
        arguments = (*named, *shared, *trust, *(() if picks else TUNED_ONLY))
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
    label = f"evaluate-{call.folder.parent.name}-{call.folder.name}"
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


def _systems(file: Path) -> dict[str, Any]:
    """Systems of a results file by name.

    Raises:
        ValueError: damaged, or without systems.
    """
    content = read_json(file)
    try:
        return {s["name"]: s for s in content["systems"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} has no list of systems: {error!r}") from error


# ---- collecting


def collect(
    settings: Settings,
    study: Study,
    plan: Sequence[PlannedRun],
    record: Record,
    root: Path,
    trials: Sequence[PlannedRun] = (),
) -> Comparison:
    """What there is so far, as the report takes it.

    Args:
        settings: of the comparison.
        study: its methods.
        plan: runs that are compared.
        record: what became of them.
        root: the comparison's folder.
        trials: of tuning.

    Raises:
        ValueError: runs or evaluations that must not meet, or damaged files.
    """
    systems: dict[str, dict[str, Any]] = {}
    ties: dict[Path, float] = {}
    pool: Any = None
    texts: dict[str, list[str]] = {}
    for split in settings.splits:
        found: dict[str, Any] = {}
        for file in sorted((root / "evaluations" / split).glob(f"*/{RESULTS}")):
            content = read_json(file)
            if content.get("critic") != settings.critic:
                raise ValueError(
                    f"{file} was judged by {content.get('critic')!r}, this comparison reports by "
                    f"{settings.critic!r}: such figures must not meet"
                )
            ties[file] = float(content.get("tie") or 0.0)
            gaps = {g["system"]: g.get("gap") for g in content.get("over_optimisation", ())}
            new = {k: v for k, v in _systems(file).items() if k not in found}
            found |= {k: v | {"gap": gaps.get(k)} for k, v in new.items()}
            if split == settings.splits[0] and file.parent.name == NAME:
                pool = content.get("pool")
            texts.setdefault(split, [p["text"] for p in content.get("prompts", ())])
        systems[split] = found
    if len(set(ties.values())) > 1:
        raise ValueError(f"evaluations with other tie thresholds must not meet: {_shown(ties)}")
    _refuse_other_bases(plan)
    seeds = {run.name: _seed_run(run, settings, systems, texts, record) for run in plan}
    methods = tuple(
        MethodRuns(m.name, m.note, tuple(seeds[r.name] for r in plan if r.method == m.name))
        for m in study.methods
    )
    references = {
        split: {n: read_system(found[n], split) for n in REFERENCES if n in found}
        for split, found in systems.items()
    }
    own = [m.name for m in study.methods if m.algo and m.name in SAMPLES_ITS_OWN]
    return Comparison(
        study=study.name,
        question=study.question,
        primary=study.primary,
        splits=settings.splits,
        methods=methods,
        references=references,
        critic=settings.critic,
        tie=next(iter(ties.values()), 0.0),
        budget=settings.budget,
        curve=_curve(pool),
        with_best_of=tuple(own) if study.name == MAIN else (),
        trials=tuple(_trial(run, record) for run in trials),
    )


def _trial(run: PlannedRun, record: Record) -> Trial:
    """What became of a tuning trial."""
    found = find(run)
    options = ", ".join(f"{name} {value}" for name, value in run.tried.items())
    chosen = record.tuned.get(run.method) == dict(run.tried)
    if found is None or not found.done:
        return Trial(run.method, options, None, None, chosen)
    best = int(read_json(found.folder / RESULTS)["best_step"])
    return Trial(run.method, options, best, best_look(found.folder), chosen)


def _seed_run(
    run: PlannedRun,
    settings: Settings,
    systems: Mapping[str, Mapping[str, Any]],
    texts: Mapping[str, Sequence[str]],
    record: Record,
) -> SeedRun:
    entry = record.runs.get(run.name, {})
    found = find(run)
    seed = int(run.options["seed"])
    if found is None or not found.done:
        state = entry.get("state", "planned")
        return SeedRun(run.name, seed, state, entry.get("reason", ""))
    results = read_json(found.folder / RESULTS)
    seen = looks(found.folder)
    mine = _read(run.name, systems)
    same = results["best_step"] == results["last_step"]
    ended = mine if same else _read(run.name + LAST, systems)
    first = settings.splits[0]
    picked = None
    sampled = systems[first].get(run.name)
    if run.method in SAMPLES_ITS_OWN and sampled and sampled.get("train_scores"):
        picked = pick_best(sampled, texts[first])
    missing = [s for s in settings.splits if s not in mine]
    state = "not evaluated" if missing else "done"
    return SeedRun(
        run.name,
        seed,
        state,
        entry.get("reason", "") if missing else "",
        judged=int(results["judged_jokes"]),
        selecting=_selecting(run, len(seen)),
        seconds=record.seconds(run.name),
        best_step=int(results["best_step"]),
        looks=tuple(seen),
        systems=mine,
        ended=ended,
        with_best_of_4=picked,
    )


def _read(name: str, systems: Mapping[str, Mapping[str, Any]]) -> dict[str, Evaluated]:
    """A run's lines at its best decoding, by split."""
    return {
        split: read_system(_own(name, there), f"{split}, {name}")
        for split, there in systems.items()
        if _own(name, there)
    }


def _own(name: str, systems: Mapping[str, Any]) -> Any:
    return systems.get(name + TUNED) or systems.get(name)


def _selecting(run: PlannedRun, seen: int) -> int:
    """Jokes that the select critic judged: at each look sampled ones and one at tuned decoding."""
    size = int(run.options.get("select_size", 48))
    return (seen * (int(run.options.get("select_jokes", 2)) + 1) + 1) * size


def pick_best(record: Mapping[str, Any], texts: Sequence[str], n: int = 4) -> Evaluated:
    """Of each prompt's first n lines the one that the training critic scores highest.

    Where no verdict says which, the prompt has no rating.
    """
    places = [
        best_line(scores[:n], lost[:n])
        for scores, lost in zip(record["train_scores"], record["lost"], strict=True)
    ]
    at = [place or 0 for place in places]
    lines = [row[i] for row, i in zip(record["jokes"], at, strict=True)]
    picked = [
        None if place is None else row[place]
        for row, place in zip(record["scores"], places, strict=True)
    ]
    gone = [
        place is not None and row[place] for row, place in zip(record["lost"], places, strict=True)
    ]
    unknown: list[float | None] = [None] * len(at)
    return read_system(
        {
            "name": f"{record['name']} + best-of-{n}",
            "prompts": record["prompts"],
            "rating": [0.0 if lost else s for s, lost in zip(picked, gone, strict=True)],
            "amusing": unknown,
            "fact": unknown,
            "words": [float(len(words(line))) for line in lines],
            "recall": [recall(t, line) for t, line in zip(texts, lines, strict=True)],
            "scores": [[s] for s in picked],
            "lost": [[lost] for lost in gone],
            "decoding": f"{record.get('decoding', '')}, training critic picks",
        },
        "picked",
    )


def _curve(pool: Any) -> BestOfN | None:
    if not pool or not pool.get("ratings"):
        return None
    return best_of_n_curve(pool["train_scores"], pool["ratings"])


def _refuse_other_bases(plan: Sequence[PlannedRun]) -> None:
    """Runs whose adapters belong to other base weights must not meet.

    Raises:
        ValueError: with both runs.
    """
    first: tuple[str, str] | None = None
    for run in plan:
        found = find(run)
        files = (
            sorted(found.folder.glob(f"checkpoints/*/adapter/{ADAPTER_MANIFEST}")) if found else []
        )
        if not files:
            continue
        base = str(read_json(files[-1]).get("base_sha256"))
        first = first or (run.name, base)
        if base != first[1]:
            raise ValueError(
                f"{first[0]} was trained on a base with hash {first[1][:12]}, {run.name} on "
                f"{base[:12]}: such runs must not meet"
            )


def _shown(ties: Mapping[Path, float]) -> str:
    return ", ".join(f"{file.parent.name} {tie:g}" for file, tie in ties.items())
