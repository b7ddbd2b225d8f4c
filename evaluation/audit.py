"""What is known of a critic after it answered labelled pairs: pure functions over flat arrays.

Everything works on N pairs (a, b) of one prompt: `p` (the critic's P(a funnier), None = no
verdict; a hard verdict is 1, 0.5 or 0), `label` (1: a is labelled funnier, 0: b) and `prompt` (any
id). A pair without a verdict is left out and counted. Intervals resample prompts (`intervals`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.bias import Ids
from evaluation.calibration import Reliability, reliability
from evaluation.intervals import (
    Floats,
    Interval,
    Values,
    mean_interval,
    numbers,
    ratio_interval,
    statistic_interval,
)

Ints = NDArray[np.int64]

RESAMPLES = 1000

WARMTH = {
    "greedy": 5.0,
    "best-of-8": 4.0,
    "t0.6": 3.0,
    "t0.7": 2.5,
    "t0.8": 2.0,
    "t1.0": 1.0,
}
"""What a reader who only knew the decoding would say of a student's line: colder is better."""

STUDENTS = ("student2-", "student", "rl1-")
"""Beginnings of the sources of student lines; all others were written by another hand."""

ONE_TEMPERATURE = "start lines, one temperature"
GROUPS = (
    ONE_TEMPERATURE,
    "start lines, mixed decoding",
    "RL lines against RL or start lines",
    "first student's lines",
    "student lines against other hands' lines",
    "other hands' lines",
)
"""Groups of the corpus' pairs by who wrote the two lines, see `pair_group`."""


class Agreement(NamedTuple):
    """How often a critic prefers the line that is labelled funnier."""

    accuracy: Interval | None  # share of pairs, ties half; None without pairs
    kappa: Interval | None  # Cohen's, chance-corrected, with "tie" as a third answer
    pairs: int  # with a verdict
    unscored: int  # without


class OrderEffects(NamedTuple):
    """What the order of showing does, over pairs with a verdict in both."""

    flip_rate: Interval | None  # share of pairs whose winner changes with the order
    first_slot: Interval | None  # share of questions won by the line shown first, ties half
    one_order: Interval | None  # accuracy with a shown first
    averaged: Interval | None  # accuracy after both orders, of the same pairs


class PairSlope(NamedTuple):
    """Regression of a preference on a difference (a minus b) of one covariate, through 0."""

    critic: Interval | None  # probability a unit of the covariate
    labels: Interval | None  # the same of the labels, on the same pairs
    excess: Interval | None  # critic minus labels
    spread: float  # standard deviation of the difference, units of the covariate
    bias: float | None  # critic's slope beyond the span from 0 to the labels', times spread


class Favour(NamedTuple):
    """How a source's lines fare against other sources' in the critic's eyes and in the labels'."""

    critic: Interval | None  # share of pairs won
    labels: Interval | None
    excess: Interval | None  # critic minus labels: self-preference, if the source is the critic
    pairs: int


class Noise(NamedTuple):
    """Two answers to the same questions."""

    changed: Interval | None  # share of pairs with another winner the second time
    difference: float | None  # mean |p - p'|, probability
    pairs: int


class Cost(NamedTuple):
    """What a verdict takes; money and tokens are None where the critic does not say."""

    verdicts: int
    seconds: float  # wall clock a verdict, calls of many at once divided by their number
    tokens: float | None  # a verdict
    money: float | None  # a verdict, in the unit of the critic's prices
    failures: Mapping[str, int]  # cause: verdicts missing for it


def decoding_label(source: str) -> float:
    """The warmth of the decoding that a source's name ends with (`WARMTH`); 0 if it names none."""
    return next((value for end, value in WARMTH.items() if source.endswith(end)), 0.0)


def pair_group(source_a: str, source_b: str) -> str:
    """Which of `GROUPS` a pair of the corpus' sources belongs to."""
    sources = (source_a, source_b)
    own = [s.startswith(STUDENTS) for s in sources]
    if not any(own):
        return GROUPS[5]
    if not all(own):
        return GROUPS[4]
    if any(s.startswith("rl1") for s in sources):
        return GROUPS[2]
    if "student" in sources:
        return GROUPS[3]
    return GROUPS[0] if source_a == source_b == "student2-t0.7" else GROUPS[1]


def preference(a: Values, b: Values) -> Floats:
    """(N,) 1 where a is above b, 0 below, 0.5 equal; NaN where either has no value."""
    x, y = numbers(a), numbers(b)
    if x.shape != y.shape:
        raise ValueError(f"{x.size} values a and {y.size} values b, must be as many")
    return np.where(np.isnan(x) | np.isnan(y), np.nan, 0.5 + 0.5 * np.sign(x - y))


def agreement(p: Values, label: Values, prompt: Ids, rng: np.random.Generator) -> Agreement:
    """Accuracy and kappa of `p` (N,) against `label` (N,)."""
    said, truth, group, n_prompts = _pairs(p, label, prompt)
    use = ~np.isnan(said)
    kappa = None
    if use.any():
        # One 3 x 3 table a prompt: the critic's answer (b, tie, a) by the label's.
        tables = np.zeros((n_prompts, 3, 3))
        answer = (1 + np.sign(said[use] - 0.5)).astype(int)
        wanted = (1 + np.sign(truth[use] - 0.5)).astype(int)
        np.add.at(tables, (group[use], answer, wanted), 1.0)
        kappa = statistic_interval(
            lambda rows: _kappa(tables[rows].sum(axis=0)), n_prompts, rng, resamples=RESAMPLES
        )
    return Agreement(
        _share(_right(said, truth), group, n_prompts, rng),
        kappa,
        pairs=int(use.sum()),
        unscored=int((~use).sum()),
    )


def over(
    p: Values, baseline: Values, label: Values, prompt: Ids, rng: np.random.Generator
) -> Interval | None:
    """Accuracy of `p` minus the baseline's, on the pairs that both decided or tied."""
    said, truth, group, n = _pairs(p, label, prompt)
    other = numbers(baseline)
    if other.shape != said.shape:
        raise ValueError(f"{said.size} verdicts and {other.size} of the baseline, must be as many")
    return _share(_right(said, truth) - _right(other, truth), group, n, rng)


def order_effects(
    first: Values, second: Values, mean: Values, label: Values, prompt: Ids,
    rng: np.random.Generator,
) -> OrderEffects:  # fmt: skip
    """What the order does to a critic that compares.

    Args:
        first: (N,) P(a funnier), a shown first.
        second: (N,) P(a funnier), b shown first.
        mean: (N,) both orders averaged.
        label: (N,) 1 or 0.
        prompt: (N,) ids.
        rng: source of the resamples.
    """
    ab, truth, group, n = _pairs(first, label, prompt)
    ba, averaged = numbers(second), numbers(mean)
    both = ~np.isnan(ab) & ~np.isnan(ba)
    missing = np.where(both, 0.0, np.nan)
    # The first slot wins both ways or loses both ways: the winner changed with the order.
    flips = ((ab - 0.5) * (0.5 - ba) > 0).astype(float) + missing
    first_slot = (preference(ab, np.full_like(ab, 0.5)) + preference(1 - ba, 0 * ba + 0.5)) / 2
    return OrderEffects(
        _share(flips, group, n, rng),
        _share(first_slot + missing, group, n, rng),
        _share(_right(ab, truth) + missing, group, n, rng),
        _share(_right(averaged, truth) + missing, group, n, rng),
    )


def pair_slope(
    p: Values, label: Values, difference: Values, prompt: Ids, rng: np.random.Generator
) -> PairSlope:
    """How much a preference follows a covariate, beside how much the labels' does.

        slope = sum (p - 0.5) d / sum d^2,   d = covariate of a - covariate of b

    Through 0, since exchanging a and b turns the sign of both. A critic that errs at random has a
    smaller slope than the labels, which is no bias; `bias` is what lies outside of [0, labels].

    Args:
        p: (N,) P(a funnier).
        label: (N,) 1 or 0.
        difference: (N,) d.
        prompt: (N,) ids.
        rng: source of the resamples.
    """
    said, truth, group, n = _pairs(p, label, prompt)
    d = numbers(difference)
    use = ~np.isnan(said) & ~np.isnan(d)
    d, said, truth, group = d[use], said[use], truth[use], group[use]

    def slope(value: Floats) -> Interval | None:
        top = np.bincount(group, value * d, n)
        return ratio_interval(top, np.bincount(group, d * d, n), rng, resamples=RESAMPLES)

    own, labels = slope(said - 0.5), slope(truth - 0.5)
    spread = float(np.sqrt((d * d).mean())) if d.size else 0.0
    bias = 0.0 if d.size and spread == 0 else None  # what never varies decides nothing
    if own is not None and labels is not None:
        span = sorted((0.0, labels.value))
        bias = (own.value - min(max(own.value, span[0]), span[1])) * spread
    return PairSlope(own, labels, slope(said - truth), spread, bias)


def favours(
    p: Values,
    label: Values,
    sources: Sequence[tuple[str, str]],
    prompt: Ids,
    rng: np.random.Generator,
) -> dict[str, Favour]:
    """For each source, its share of wins against other sources by critic and by labels.

    Args:
        p: (N,) P(a funnier).
        label: (N,) 1 or 0.
        sources: (N,) of a and of b; pairs of one source, or without one, take no part.
        prompt: (N,) ids.
        rng: source of the resamples.
    """
    said, truth, group, n = _pairs(p, label, prompt)
    won = preference(said, np.full_like(said, 0.5))
    out = {}
    for name in sorted({s for pair in sources for s in pair if s}):
        side = np.array([(a == name) - float(b == name) if a and b else 0.0 for a, b in sources])
        use = (side != 0) & ~np.isnan(won)
        if not use.any():
            continue
        # From the source's own side: 1 - won where it is b.
        critic = np.where(use, np.where(side > 0, won, 1 - won), np.nan)
        labels = np.where(use, np.where(side > 0, truth, 1 - truth), np.nan)
        out[name] = Favour(
            _share(critic, group, n, rng),
            _share(labels, group, n, rng),
            _share(critic - labels, group, n, rng),
            int(use.sum()),
        )
    return out


def repeat_noise(first: Values, again: Values, prompt: Ids, rng: np.random.Generator) -> Noise:
    """Compare two answers (N,) to the same pairs; pairs without both are left out."""
    x, y, group, n = _pairs(first, again, prompt)
    changed = np.where(np.isnan(x - y), np.nan, np.sign(x - 0.5) != np.sign(y - 0.5))
    both = ~np.isnan(x - y)
    return Noise(
        _share(changed, group, n, rng),
        float(np.abs(x - y)[both].mean()) if both.any() else None,
        int(both.sum()),
    )


def preference_reliability(p: Values, label: Values) -> Reliability | None:
    """Reliability of P(a funnier); each pair counts from both its sides. None without verdicts."""
    said, truth = numbers(p), numbers(label)
    use = ~np.isnan(said)
    if not use.any():
        return None
    both = np.concatenate([said[use], 1 - said[use]])
    return reliability(both, np.concatenate([truth[use], 1 - truth[use]]))


def clustered_mean(values: Values, prompt: Ids, rng: np.random.Generator) -> Interval | None:
    """Mean over pairs with prompts resampled whole; None without values."""
    x, _, group, n = _pairs(values, np.zeros(len(prompt)), prompt)
    return _share(x, group, n, rng)


def _pairs(p: Values, label: Values, prompt: Ids) -> tuple[Floats, Floats, Ints, int]:
    """Verdicts, labels, the number of each pair's prompt, and how many prompts there are."""
    said, truth = numbers(p), numbers(label)
    if not said.size == truth.size == len(prompt):
        raise ValueError(
            f"{said.size} verdicts, {truth.size} labels, {len(prompt)} prompt ids: must be as many"
        )
    ids, group = np.unique(np.asarray([str(i) for i in prompt], dtype=object), return_inverse=True)
    return said, truth, group.astype(np.int64), len(ids)


def _right(p: Floats, label: Floats) -> Floats:
    """1 where p and label are on one side of 0.5, 0.5 for a tie, 0 else; NaN without a verdict."""
    right: Floats = 0.5 + 0.5 * np.sign(p - 0.5) * np.sign(label - 0.5)
    return right


def _share(values: Floats, group: Ints, n: int, rng: np.random.Generator) -> Interval | None:
    """Mean over the pairs that have a value, prompts resampled."""
    if not n:
        return mean_interval([], rng)
    use = ~np.isnan(values)
    top = np.bincount(group[use], values[use], n)
    weight = np.bincount(group[use], minlength=n)
    return ratio_interval(top, weight, rng, resamples=RESAMPLES)


def _kappa(table: Floats) -> float:
    """Cohen's kappa of a table of counts; NaN where chance alone would agree always.

    kappa = (observed - expected) / (1 - expected). Cohen 1960, doi:10.1177/001316446002000104
    """
    total = table.sum()
    expected = float((table.sum(axis=0) * table.sum(axis=1)).sum()) / total**2
    observed = float(np.trace(table)) / total
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")
