"""Statistics of a comparison of methods: contrasts, Holm, best-of-N curves. Pure functions.

The prompts are the clusters: a prompt that is drawn again brings its jokes by all seeds along.
Seeds are taken as they are, so every interval and test is conditional on these seeds; the seeds'
own figures are returned beside the mean. None is "no verdict" and never becomes a number.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.intervals import (
    LEVEL,
    RESAMPLES,
    Floats,
    Interval,
    Values,
    mean_interval,
    mean_over_seeds,
    numbers,
    prompt_means,
)
from evaluation.win_rate import Scores, outcomes, smallest_detectable

EVEN = 0.5
FLIPS = 9_999
"""Random sign patterns of a test; its p-values are multiples of 1 / (FLIPS + 1)."""
_CHUNK = 2_000_000  # signs drawn at once


class Side(NamedTuple):
    """One side of a contrast: the seeds of a method, or a reference, which has one."""

    scores: Sequence[Scores]  # (S, P, J) report scores of each seed's jokes
    ratings: Sequence[Values]  # (S, P) mean rating of each seed's jokes


class Contrast(NamedTuple):
    """Method a against b on the same prompts."""

    name: str
    win: Interval | None  # win rate of a, ties half, mean over pairs of seeds and over prompts
    difference: Interval | None  # mean rating of a minus that of b, points
    by_seed: tuple[float | None, ...]  # win rate of each seed of a against all seeds of b
    p: float | None  # two-sided, of a win rate of 50 %
    adjusted: float | None  # the same after Holm; of a primary contrast it is p
    detectable: float | None  # smallest true distance from 50 % found with 80 % power

    @property
    def verdict(self) -> str:
        """Which side is better at level .05, or that it is open."""
        if self.win is None or self.adjusted is None:
            return "no verdict"
        if self.adjusted >= 1 - LEVEL or self.win.value == EVEN:
            return "open"
        return "better" if self.win.value > EVEN else "worse"


def contrast(name: str, a: Side, b: Side, tie: float, rng: np.random.Generator) -> Contrast:
    """Every seed of a meets every seed of b, prompt by prompt.

        rate_p = mean over pairs of seeds of (wins + ties / 2) / pairs of jokes   on prompt p
        T      = |sum over prompts of (rate_p - 1/2)|,   under random signs: `sign_flip_p`

    Args:
        name: of the contrast.
        a: the method spoken of; at least one seed, each with the same P prompts.
        b: what it is held against.
        tie: scores at most this far apart tie, points, >= 0.
        rng: source of resamples and signs.

    Raises:
        ValueError: a side without seeds, or other numbers of prompts.
    """
    _check(name, a, b)
    rates = [
        over_seeds([outcomes(own, other, tie).rates() for other in b.scores]) for own in a.scores
    ]
    win = mean_over_seeds(rates, rng)
    gaps = [
        None if x is None or y is None else x - y
        for x, y in zip(over_seeds(a.ratings), over_seeds(b.ratings), strict=True)
    ]
    pooled = numbers(over_seeds(rates))
    p = sign_flip_p(pooled[~np.isnan(pooled)] - EVEN, rng)
    return Contrast(
        name,
        win,
        mean_interval(gaps, rng),
        tuple(_mean(row) for row in rates),
        p,
        p,
        None if win is None else smallest_detectable(win.error),
    )


def holm_adjusted(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The contrasts of one family with their Holm-adjusted p-values."""
    return [
        c._replace(adjusted=p)
        for c, p in zip(contrasts, holm([c.p for c in contrasts]), strict=True)
    ]


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment. Holm 1979, Scandinavian Journal of Statistics 6(2), 65-70.

        p~_(i) = max over j <= i of min(1, (m - j + 1) p_(j)),   p_(1) <= ... <= p_(m)

    Args:
        p: p-values of the m tests that were planned. A missing one stays missing and counts in m:
            a run that failed makes no other test easier.

    Raises:
        ValueError: a p-value outside 0..1.
    """
    known = [(x, i) for i, x in enumerate(p) if x is not None]
    for x, _ in known:
        if not 0 <= x <= 1:
            raise ValueError(f"p is {x}, must lie in 0..1")
    out: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (x, i) in enumerate(sorted(known)):
        highest = max(highest, min(1.0, (len(p) - rank) * x))
        out[i] = highest
    return out


def sign_flip_p(values: Values, rng: np.random.Generator, *, flips: int = FLIPS) -> float | None:
    """Two-sided p-value of a mean of 0 when each value might as well have had the other sign.

        p = share of sign patterns s with |sum s_i v_i| >= |sum v_i|

    All patterns where there are at most `flips` of them; else a random sample that counts the
    observed pattern too: (1 + extreme) / (1 + flips). Fisher 1935, The Design of Experiments, sec.
    21; Phipson & Smyth 2010, doi:10.2202/1544-6115.1585.

    Args:
        values: (N,) one number a cluster; None is left out.
        rng: source of the signs.
        flips: sign patterns, >= 1.

    Returns:
        The p-value; None without a value.
    """
    array = numbers(values)
    array = array[~np.isnan(array)]
    n = array.size
    if n == 0:
        return None
    seen = abs(array.sum()) - 1e-9 * np.abs(array).sum()  # sums of equal terms, in any order
    if 2**n <= flips:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ array) >= seen).mean())
    extreme = 0
    rows = max(1, _CHUNK // n)
    for done in range(0, flips, rows):
        signs = 1 - 2 * rng.integers(2, size=(min(rows, flips - done), n), dtype=np.int8)
        extreme += int((np.abs(signs @ array) >= seen).sum())
    return (1 + extreme) / (1 + flips)


# ---- best of N


def best_of_n(
    picking: Sequence[float | None], reported: Sequence[float | None], sizes: Sequence[int]
) -> list[float | None]:
    """Exact expectation of the report rating of the line that the training critic picks of N.

    N of the pool's M lines are drawn without replacement; the one with the highest picking score
    is kept. With the lines in ascending order of that score, rank i = 1 ... M, it is the line of
    rank i when the other N - 1 are among the i - 1 below it:

        E_N = sum over i of  C(i - 1, N - 1) / C(M, N) * r_(i)

    Lines with equal scores share the mean of their weights (a fair coin picks among them). A line
    without a picking score stands below all. Where a line has no report rating, the expectation is
    over the lines that have one: sum of weight * rating / sum of weight.

    Args:
        picking: (M,) scores by the training critic of one prompt's pool; None or -inf: not picked
            unless there is nothing else.
        reported: (M,) ratings by the report critic.
        sizes: values of N, each in 1..M.

    Returns:
        One expectation for each N; None where no line that could be picked has a rating.

    Raises:
        ValueError: other lengths, or an N out of range.
    """
    m = len(picking)
    if len(reported) != m:
        raise ValueError(f"best_of_n got {m} picking scores and {len(reported)} ratings")
    for n in sizes:
        if not 1 <= n <= m:
            raise ValueError(f"N is {n}, must lie in 1..{m}, the lines of the pool")
    scores = np.array([-math.inf if s is None else s for s in picking], dtype=np.float64)
    if np.isnan(scores).any():
        raise ValueError("a picking score is NaN; no verdict is None")
    rated = numbers(reported)
    known = ~np.isnan(rated)
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.concatenate([[0], np.cumsum(count)])
    out: list[float | None] = []
    for n in sizes:
        reached = np.concatenate([[0.0], np.cumsum(_rank_weights(m, n))])
        weight = ((reached[ends[1:]] - reached[ends[:-1]]) / count)[place]  # shared among ties
        total = float(weight[known].sum())
        out.append(float((weight * np.where(known, rated, 0)).sum() / total) if total else None)
    return out


@lru_cache(maxsize=256)
def _rank_weights(m: int, n: int) -> tuple[float, ...]:
    """C(i - 1, n - 1) / C(m, n) for i = 1 ... m; whole numbers until the division."""
    whole = math.comb(m, n)
    return tuple(math.comb(i - 1, n - 1) / whole for i in range(1, m + 1))


class BestOfN(NamedTuple):
    """The best-of-N curve of one pool of lines a prompt."""

    sizes: tuple[int, ...]  # N, ascending
    by_prompt: Floats  # (P, len(sizes)) expected report rating, NaN without a verdict

    @property
    def means(self) -> Floats:
        """(len(sizes),) mean over the prompts that have all sizes."""
        means: Floats = self.by_prompt[~np.isnan(self.by_prompt).any(axis=1)].mean(axis=0)
        return means


def best_of_n_curve(
    picking: Sequence[Sequence[float | None]], reported: Sequence[Sequence[float | None]]
) -> BestOfN:
    """`best_of_n` of every prompt for N = 1 ... the smallest pool.

    Raises:
        ValueError: other numbers of prompts, or no prompts.
    """
    if len(picking) != len(reported) or not picking:
        raise ValueError(f"best_of_n_curve got {len(picking)} and {len(reported)} prompts")
    sizes = tuple(range(1, min(map(len, picking)) + 1))
    rows = [numbers(best_of_n(s, r, sizes)) for s, r in zip(picking, reported, strict=True)]
    return BestOfN(sizes, np.stack(rows))


class NEquivalent(NamedTuple):
    """How many lines of the start student the training critic must choose among to do as well.

    1 may mean "no better than one line", infinity "better than the whole pool".
    """

    value: float
    low: float
    high: float


def n_equivalent(
    ratings: Values,
    curve: BestOfN,
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> NEquivalent | None:
    """Where the best-of-N curve first reaches a method's mean rating; linear in log2 N between.

    Args:
        ratings: (P,) mean rating of the method on each prompt of the curve, over its seeds.
        curve: of the start student.
        rng: source of the resamples: prompts, for method and curve together.
        resamples: bootstrap samples, > 1.
        level: share of resamples inside the interval, in (0, 1).

    Returns:
        N with its interval; None when no prompt has both figures.

    Raises:
        ValueError: another number of prompts.
    """
    own = numbers(ratings)
    if own.size != len(curve.by_prompt):
        raise ValueError(f"{own.size} ratings for a curve of {len(curve.by_prompt)} prompts")
    seen = ~np.isnan(own) & ~np.isnan(curve.by_prompt).any(axis=1)
    n = int(seen.sum())
    if n == 0:
        return None
    own, rows = own[seen], curve.by_prompt[seen]

    def reached(index: NDArray[np.int64]) -> float:
        return _crossing(float(own[index].mean()), rows[index].mean(axis=0), curve.sizes)

    draws = np.array([reached(rng.integers(n, size=n)) for _ in range(resamples)])
    # ends among the values that occurred: between a number and infinity there is no mean
    low = np.quantile(draws, (1 - level) / 2, method="lower")
    high = np.quantile(draws, (1 + level) / 2, method="higher")
    return NEquivalent(reached(np.arange(n)), float(low), float(high))


def _crossing(target: float, means: Floats, sizes: Sequence[int]) -> float:
    above = np.flatnonzero(means >= target)
    if not above.size:
        return math.inf
    k = int(above[0])
    if k == 0:
        return float(sizes[0])
    share = (target - means[k - 1]) / (means[k] - means[k - 1])
    low, high = math.log2(sizes[k - 1]), math.log2(sizes[k])
    return float(2 ** (low + share * (high - low)))


# ---- means


def over_seeds(rows: Sequence[Values]) -> list[float | None]:
    """(P,) the mean over seeds of each prompt's value, over the seeds that have one."""
    return prompt_means(list(zip(*rows, strict=True)))


def _mean(row: Sequence[float | None]) -> float | None:
    return prompt_means([row])[0]


def _check(name: str, a: Side, b: Side) -> None:
    sizes = {len(row) for side in (a, b) for part in side for row in part}
    if not all(side.scores and side.ratings for side in (a, b)) or len(sizes) != 1:
        raise ValueError(
            f"{name}: {len(a.scores)} and {len(b.scores)} seeds on {sorted(sizes)} prompts, "
            f"need at least one seed a side and the same prompts"
        )
