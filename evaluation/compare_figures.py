"""The rows and contrasts that follow from what a comparison of methods measured.

A method that failed is a row that says so. Pure functions; `compare_report` lays their results out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.bounds import FIGURES, PREFIXES, broken_bounds
from evaluation.compare_types import Comparison, Evaluated, Look, MethodRuns, SeedRun
from evaluation.contrasts import (
    BestOfN,
    Contrast,
    NEquivalent,
    Side,
    contrast,
    holm_adjusted,
    n_equivalent,
    over_seeds,
)
from evaluation.intervals import Interval, mean_interval, mean_over_seeds
from evaluation.ladder import BASELINE, COPY, LENGTH_RATIO, RECALL_RISE, phrase_mark

START, BEST_OF_4 = "start", "best-of-4"
LAST = ", last"
"""Of a row: the last checkpoints instead of the best within the bounds."""
RIVALS = (START, BASELINE, BEST_OF_4)
"""References that every method is held against."""
TEST = "test"
"""The split that decides the primary contrast where it has been looked at, else the first one."""
COPY_RATING, COPY_AMUSING = 2.0, 0.0
"""A plain copy, by the definition of the scale."""
SEED = 5_001
"""Of all resamples: the same prompts for every figure, so that their ends compare."""


@dataclass(frozen=True)
class Row:
    """One line of a table of results; None where there is no figure."""

    system: str
    seeds: str
    judged: str
    rating: Interval | None
    by_seed: tuple[float | None, ...]
    wins: Mapping[str, Interval | None]
    amusing: Interval | None
    fact: Interval | None
    words: float | None
    recall: float | None
    kl: float | None
    gap: float | None
    n: NEquivalent | None
    marks: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Figures:
    """What a comparison says."""

    rows: Mapping[str, tuple[Row, ...]]  # by split
    primary: Contrast | None  # on `primary_split`
    primary_split: str
    primary_elsewhere: Mapping[str, Contrast]  # on other splits, and of last checkpoints
    secondary: tuple[Contrast, ...]


def figures(c: Comparison) -> Figures:
    """Rows and contrasts.

    Raises:
        ValueError: a split without start-tuned, or systems with other prompts or in another order.
    """
    for split in c.splits:
        _check_prompts(c, split)
    first = c.splits[0]
    decides = TEST if TEST in c.splits else first
    contrasts = {s: _between(c, *c.primary, s) for s in c.splits} if c.primary[0] else {}
    primary = contrasts.pop(decides, None)
    if c.primary[0]:
        a, b = c.primary
        ends = _between(c, a + LAST, b + LAST, first)
        contrasts |= {first + LAST: ends} if ends.win is not None else {}
    secondary = holm_adjusted([_between(c, a, b, first) for a, b in _secondary(c)])
    rows = {split: tuple(_rows(c, split)) for split in c.splits}
    return Figures(rows, primary, decides, contrasts, tuple(secondary))


def _check_prompts(c: Comparison, split: str) -> None:
    references = c.references.get(split, {})
    if not any(split in r.systems for m in c.methods for r in m.runs):
        return  # nothing to hold against anything: the rows say why
    if BASELINE not in references:
        raise ValueError(f"split {split} has no {BASELINE}, the reference that all are held to")
    wanted = references[BASELINE].prompts
    named = dict(references)
    named |= {r.name: r.systems[split] for m in c.methods for r in m.runs if split in r.systems}
    for name, system in named.items():
        if system.prompts != wanted:
            raise ValueError(
                f"{name} was evaluated on {len(system.prompts)} prompts of {split}, not on the "
                f"{len(wanted)} of {BASELINE} in their order: they must not meet in one table"
            )


def _secondary(c: Comparison) -> list[tuple[str, str]]:
    """Planned contrasts of the Holm family; those that failed stay in it."""
    trained = [m.name for m in c.methods if m.runs]
    pairs = [(name, rival) for name in trained for rival in (BASELINE, BEST_OF_4)]
    pairs += [(f"{name} + {BEST_OF_4}", BEST_OF_4) for name in c.with_best_of]
    if {"dpo", "sft-more"} <= set(trained):
        pairs.append(("dpo", "sft-more"))
    return pairs


def _side(c: Comparison, name: str, split: str) -> Side | None:
    references = c.references.get(split, {})
    if name in references:
        return references[name].side
    plus, last = name.endswith(f" + {BEST_OF_4}"), name.endswith(LAST)
    base = name.removesuffix(f" + {BEST_OF_4}").removesuffix(LAST)
    for method in c.methods:
        if method.name == base:
            systems = method.ended(split) if last else method.evaluated(split)
            if plus:
                systems = [r.with_best_of_4 for r in method.runs if r.with_best_of_4 is not None]
            return Side([s.scores for s in systems], [s.ratings for s in systems])
    return None


def _between(c: Comparison, a: str, b: str, split: str) -> Contrast:
    name, left, right = f"{a} against {b}", _side(c, a, split), _side(c, b, split)
    if left is None or right is None or not (left.scores and right.scores):
        return Contrast(name, None, None, (), None, None, None)
    return contrast(name, left, right, c.tie, np.random.default_rng(SEED))


# ---- rows


def _rows(c: Comparison, split: str) -> list[Row]:
    references = c.references.get(split, {})
    out = [_row(c, split, name, [system]) for name, system in references.items()]
    if split == c.splits[0] and c.curve is not None:
        out += [_curve_row(c.curve, n) for n in (16, 64) if n in c.curve.sizes]
    for method in c.methods:
        if method.runs:
            out.append(_row(c, split, method.name, method.evaluated(split), method))
            ended = method.ended(split)
            best = method.evaluated(split)
            if len(ended) == len(best) and [*map(id, ended)] != [*map(id, best)]:
                out.append(_row(c, split, method.name + LAST, ended))
        if method.name in c.with_best_of and split == c.splits[0]:
            picked = [r.with_best_of_4 for r in method.runs if r.with_best_of_4 is not None]
            out.append(_row(c, split, f"{method.name} + {BEST_OF_4}", picked))
    return out


def _row(
    c: Comparison,
    split: str,
    name: str,
    systems: Sequence[Evaluated],
    method: MethodRuns | None = None,
) -> Row:
    planned = method.runs if method else ()
    ours = method is not None or name.endswith(LAST)
    lost = [r for r in planned if split not in r.systems]
    note = method.note if method else ""
    if lost:
        told = "; ".join(f"{r.name} {r.state}{': ' if r.reason else ''}{r.reason}" for r in lost)
        note = f"{note}; {told}" if note else told
    reasons = dict.fromkeys(x for s in systems for x in (s.labels, s.reason) if x)
    note = "; ".join([*filter(None, [note]), *reasons])
    rng = np.random.default_rng
    ratings = [s.ratings for s in systems]
    rating = mean_over_seeds(ratings, rng(SEED)) if systems else None
    amusing = mean_over_seeds([s.amusing for s in systems], rng(SEED)) if systems else None
    words = mean([x for s in systems for x in s.words])
    recall = mean([x for s in systems for x in s.recall])
    on_curve = c.curve if split == c.splits[0] and systems else None
    judged = sorted({r.judged for r in planned if r.judged is not None})
    return Row(
        name,
        f"{len(systems)} of {len(planned)}" if planned else "-",
        ", ".join(map(str, judged)) or "-",
        rating,
        tuple(mean(r) for r in ratings),
        {rival: _between(c, name, rival, split).win for rival in RIVALS},
        amusing,
        mean_over_seeds([s.fact for s in systems], rng(SEED)) if systems else None,
        words,
        recall,
        mean([s.kl for s in systems]),
        mean([s.gap for s in systems]),
        None if on_curve is None else n_equivalent(over_seeds(ratings), on_curve, rng(SEED)),
        tuple(_marks(c, split, rating, amusing, words, recall, systems, planned)) if ours else (),
        note,
    )


def _curve_row(curve: BestOfN, n: int) -> Row:
    column = curve.by_prompt[:, curve.sizes.index(n)]
    rating = mean_interval(column, np.random.default_rng(SEED))
    return Row(f"best-of-{n}", "-", "-", rating, (), {}, None, None, None, None, None, None,
               NEquivalent(n, n, n), (), "expected, by order statistics")  # fmt: skip


def _marks(
    c: Comparison,
    split: str,
    rating: Interval | None,
    amusing: Interval | None,
    words: float | None,
    recall: float | None,
    systems: Sequence[Evaluated],
    runs: Sequence[SeedRun],
) -> list[str]:
    """Reasons to doubt a method."""
    references = c.references.get(split, {})
    base = mean(references[BASELINE].words) if BASELINE in references else None
    out = []
    if words is not None and base and not LENGTH_RATIO[0] <= words / base <= LENGTH_RATIO[1]:
        out.append(f"length {words / base:.2f} of {BASELINE}'s")
    then = mean(references[BASELINE].recall) if BASELINE in references else None
    if recall is not None and then is not None and recall - then > RECALL_RISE:
        out.append(f"recall + {recall - then:.2f} of {BASELINE}'s")
    taken = [s.phrase for s in systems if s.phrase is not None and phrase_mark(s.phrase)]
    if taken:
        worst = max(taken, key=lambda phrase: phrase.share)
        share = "" if len(systems) == 1 else f" ({len(taken)} of {len(systems)} seeds)"
        out.append(phrase_mark(worst) + share)
    copy = references.get(COPY)
    for name, own, theirs, usual in (
        ("rating", rating, None if copy is None else mean(copy.ratings), COPY_RATING),
        ("amusing share", amusing, None if copy is None else mean(copy.amusing), COPY_AMUSING),
    ):
        if own is not None and own.value <= (usual if theirs is None else theirs):
            out.append(f"loses to copy on {name}")
    unchanged = [str(r.seed) for r in runs if r.best_step == 0]
    if unchanged:
        out.append(f"no look was better within the bounds, seed {', '.join(unchanged)}: the start")
    return out


def mean(values: Sequence[float | None]) -> float | None:
    """Of the values that are there; None without any."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def equal_seconds(c: Comparison) -> tuple[float | None, dict[str, float | None]]:
    """The shortest run's seconds, and each method's best select rating by then, over its start.

    Of looks within the bounds, as the best checkpoint is; the start always is. An update is taken
    to last as long as any other of its run, which does not hold for a method that judges all its
    jokes in the first one: it has no figure.
    """
    known = [r.seconds for m in c.methods for r in m.runs if r.seconds]
    if not known:
        return None, {}
    limit = min(known)
    gains: dict[str, float | None] = {}
    for method in c.methods:
        rises = []
        for run in method.runs if not method.judges_first else ():
            if not run.seconds or not run.looks or run.looks[0].rating is None:
                continue
            last = max(look.step for look in run.looks)
            allowed = last * limit / run.seconds
            reached = [
                look.rating
                for look in run.looks
                if look.rating is not None and look.step <= allowed and _within(look, run.looks[0])
            ]
            rises.append(max(reached) - run.looks[0].rating)
        if method.runs:
            gains[method.name] = mean(rises)
    return limit, gains


def _within(look: Look, start: Look) -> bool:
    """Whether a look kept the bounds; one without figures of its lines is not doubted."""
    told = {key: value for key, value in look.told.items() if value is not None}
    then = {key: value for key, value in start.told.items() if value is not None}
    wanted = {f"{prefix}/{name}" for prefix in PREFIXES for name in FIGURES}
    if look is start or not (wanted <= set(told) and wanted <= set(then)):
        return True
    return not any(broken_bounds(told, then, prefix) for prefix in PREFIXES)
