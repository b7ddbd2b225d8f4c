"""What stands in the runs and evaluations of a comparison, for its report. No torch here."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.best_of import best_line
from evaluation.compare_figures import BEST_OF_4
from evaluation.compare_types import (
    Comparison,
    Evaluated,
    MethodRuns,
    SeedRun,
    Trial,
    read_system,
)
from evaluation.contrasts import BestOfN, best_of_n_curve
from evaluation.diversity import Phrase, commonest_own_phrase
from evaluation.ladder import BASELINE, COPY
from models.sources import MANIFEST as ADAPTER_MANIFEST
from rewards.build import CONTROL_CRITIC
from rewards.embedded import KINDS, manifest_of
from rewards.from_file import members
from rewards.text import recall, words
from training.comparison import PlannedRun, Settings, find, read_json
from training.comparison_evaluations import EVALUATION, LAST, NAME, RESULTS, TUNED, systems_of
from training.comparison_runs import Record, best_look, looks
from training.presets import MAIN, SAMPLES_ITS_OWN, Study

REFERENCES = ("start", BASELINE, BEST_OF_4, COPY, "light")
"""In the order of the tables."""


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
    accuracy: dict[str, Any] = {}
    warnings: dict[str, None] = {}
    for split in settings.splits:
        found: dict[str, Any] = {}
        files = sorted((root / "evaluations" / split).glob(f"*/{RESULTS}"))
        contents = {file: read_json(file) for file in files}
        usual = _usual_critic(contents.values())
        for file, content in contents.items():
            if content.get("critic") != settings.critic:
                raise ValueError(
                    f"{file} was judged by {content.get('critic')!r}, this comparison reports by "
                    f"{settings.critic!r}: such figures must not meet"
                )
            warnings |= dict.fromkeys(content.get("warnings") or ())
            if content.get("accuracy"):
                accuracy[split] = content["accuracy"]
            ties[file] = float(content.get("tie") or 0.0)
            texts.setdefault(split, [p["text"] for p in content.get("prompts", ())])
            for name, system in systems_of(content, file).items():
                if name not in found:
                    found[name] = system | {"phrase": _phrase(texts[split], system)}
            for g in content.get("over_optimisation", ()):
                if g.get("gap") and (g["system"] not in REFERENCES or g["critic"] == usual):
                    found[g["system"]].setdefault("gap", g["gap"])
            if split == settings.splits[0] and file.parent.name == NAME:
                pool = content.get("pool")
        systems[split] = found
    if len(set(ties.values())) > 1:
        raise ValueError(f"evaluations with other tie thresholds must not meet: {_shown(ties)}")
    _refuse_other_bases(plan)
    seeds = {run.name: _seed_run(run, settings, systems, texts, record) for run in plan}
    methods = tuple(
        MethodRuns(
            m.name, m.note, tuple(seeds[r.name] for r in plan if r.method == m.name), m.judges_first
        )
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
        warnings=tuple(warnings),
        accuracy=accuracy,
        missing=tuple(_failed_evaluations(record)),
        with_best_of=tuple(own) if study.name == MAIN else (),
        trials=tuple(_trial(run, record) for run in trials),
    )


def _phrase(texts: Sequence[str], system: Mapping[str, Any]) -> Phrase | None:
    """The commonest one of a system's lines."""
    return commonest_own_phrase(texts, system["jokes"]) if _of_these(texts, system) else None


def _of_these(texts: Sequence[str], system: Mapping[str, Any]) -> bool:
    """Whether a line stands for each prompt; where none does, systems are refused as they meet."""
    return len(system.get("jokes") or ()) == len(texts)


def _usual_critic(evaluations: Iterable[Mapping[str, Any]]) -> str | None:
    """The critic that trained most runs: references have their gap by it."""
    critics = [
        {g["critic"] for g in e.get("over_optimisation", ()) if g.get("gap")} for e in evaluations
    ]
    counted = Counter(name for names in critics for name in sorted(names))
    return counted.most_common(1)[0][0] if counted else None


def _failed_evaluations(record: Record) -> list[str]:
    """Evaluations of no run: without them references are missing, and nobody would say why."""
    return [
        f"{name} ({entry.get('reason') or entry.get('state')})"
        for name, entry in record.runs.items()
        if name.startswith(EVALUATION) and entry.get("state") != "done"
    ]


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
    scored = sampled and sampled.get("train_scores") and _of_these(texts[first], sampled)
    if run.method in SAMPLES_ITS_OWN and sampled and scored:
        picked = pick_best(sampled, texts[first])
    missing = [s for s in settings.splits if s not in mine]
    source = entry.get("taken_from", "")
    state = "not evaluated" if missing else "done"
    return SeedRun(
        run.name,
        seed,
        state,
        entry.get("reason", "") if missing else source and f"taken from {source}",
        judged=int(results["judged_jokes"]),
        labels=_labels(results, found.folder),
        selecting=_selecting(run, len(seen)),
        seconds=record.seconds(run.name),
        best_step=int(results["best_step"]),
        looks=tuple(seen),
        systems=mine,
        ended=ended,
        with_best_of_4=picked,
    )


def _labels(results: Mapping[str, Any], folder: Path) -> int | None:
    """Judged lines behind a run: of its given pairs, or those that its critic was fitted on."""
    if "labels" in results:
        return int(results["labels"])
    if not results["judged_jokes"]:
        return 0
    parts = read_json(folder / "config.json")["options"].values()
    specs = [name for part in parts if "critic" in part for name in members(str(part["critic"]))]
    counts = [_lines_behind(spec) for spec in specs]
    known = [n for n in counts if n is not None]
    return max(known, default=0) if len(known) == len(counts) else None


def _lines_behind(spec: str) -> int | None:
    """Of one critic; nobody knows what a foreign one is made of."""
    return int(manifest_of(spec)["lines"]) if spec in KINDS else {CONTROL_CRITIC: 0}.get(spec)


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
