"""How far a critic can be trusted: its scores against labels, and what moves it that should not.

Everything works on flat arrays over N jokes: `score` (the critic's, NaN = no verdict), `label` (a
rating, 0-10), `prompt` (any hashable id; jokes of one id are compared with each other). Jokes
without a score are left out and counted. Intervals resample prompts (see `intervals`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.correlation import correlation, ranks, spearman
from evaluation.intervals import (
    Floats,
    Interval,
    Values,
    numbers,
    ratio_interval,
    statistic_interval,
)

AMUSING = 4.0
"""The rating from which a joke counts as amusing."""

_EPS = 1e-9  # labels are means of ratings: a gap of one point may be 1 - 1e-16

Ids = Sequence[Any] | NDArray[Any]
Mask = Sequence[bool] | NDArray[np.bool_]


class PairCounts(NamedTuple):
    """Pairs of jokes of one prompt that labels order, by prompt; P prompts in sorted order."""

    right: Floats  # (P,) pairs that the critic orders as the labels do, equal scores half
    total: Floats  # (P,) pairs


class Accuracy(NamedTuple):
    """How often a critic orders a pair as the labels do."""

    interval: Interval | None  # share of pairs, 0-1; None without pairs
    pairs: int
    unscored: int  # jokes left out: no score
    over_baseline: Interval | None  # accuracy minus the baseline's on the same pairs


class Slope(NamedTuple):
    """A within-prompt regression of a value on one covariate."""

    slope: Interval | None  # units of the value a unit of the covariate
    correlation: float  # within prompts, -1 to 1; NaN where either does not vary


class PickBest(NamedTuple):
    """Ratings of the joke a critic picks for each prompt, beside chance and the ceiling."""

    mean: float  # mean label of the picked joke; equal scores share the pick
    amusing: float  # share of picks with label >= 4
    chance: float  # mean label of all jokes, prompts weighted alike
    chance_amusing: float
    ceiling: float  # mean of each prompt's best label
    ceiling_amusing: float
    prompts: int


class SourceOrder(NamedTuple):
    """Whether a critic orders the sources of jokes as the labels do."""

    spearman: float  # rank correlation of the sources' means; NaN below three sources
    means: dict[str, tuple[float, float, int]]  # source: mean score, mean label, jokes


def pair_counts(
    score: Values,
    label: Values,
    prompt: Ids,
    *,
    gap: float = 1.0,
    better: float = -np.inf,
    worse: float = -np.inf,
    keep: Mask | None = None,
) -> PairCounts:
    """Count pairs by prompt, one of a pair at least `gap` points above the other.

    Args:
        score: (N,) the critic's.
        label: (N,) ratings; NaN leaves a joke out.
        prompt: (N,) ids.
        gap: smallest difference of labels, points, > 0.
        better: smallest label of the better joke.
        worse: smallest label of the worse joke.
        keep: (N,) jokes that may take part, e.g. those that keep the fact.

    Raises:
        ValueError: lengths differ or gap <= 0.
    """
    if gap <= 0:
        raise ValueError(f"gap is {gap}, must be > 0: equal labels order no pair")
    s, y, groups = _arrays(score, label, prompt)
    use = ~np.isnan(s) & ~np.isnan(y) & _mask(keep, s.size)
    right, total = np.zeros(len(groups)), np.zeros(len(groups))
    for k, members in enumerate(groups):
        i = members[use[members]]
        dy, ds = y[i, None] - y[None, i], s[i, None] - s[None, i]
        ordered = (dy >= gap - _EPS) & (y[i, None] >= better - _EPS) & (y[None, i] >= worse - _EPS)
        right[k] = ((ds > 0) & ordered).sum() + 0.5 * ((ds == 0) & ordered).sum()
        total[k] = ordered.sum()
    return PairCounts(right, total)


def pair_accuracy(
    score: Values,
    label: Values,
    prompt: Ids,
    rng: np.random.Generator,
    *,
    baseline: Values | None = None,
    gap: float = 1.0,
    better: float = -np.inf,
    worse: float = -np.inf,
    keep: Mask | None = None,
) -> Accuracy:
    """Accuracy on pairs with an interval over prompts; options as in `pair_counts`.

    With a `baseline` (another score of the same jokes, say likelihood) both are compared on jokes
    that both scored, and the difference has an interval of its own, from the same resamples.
    """
    s = numbers(score)
    may = _mask(keep, s.size)
    other = None if baseline is None else numbers(baseline)
    if other is not None:
        if other.shape != s.shape:
            raise ValueError(f"baseline has {other.size} scores, the critic {s.size}")
        may = may & ~np.isnan(other)
    options = {"gap": gap, "better": better, "worse": worse}
    own = pair_counts(s, label, prompt, keep=may, **options)
    over = None
    if other is not None:
        base = pair_counts(other, label, prompt, keep=may & ~np.isnan(s), **options)
        over = ratio_interval(own.right - base.right, own.total, rng)
    return Accuracy(
        interval=ratio_interval(own.right, own.total, rng),
        pairs=int(own.total.sum()),
        unscored=int(np.isnan(s).sum()),
        over_baseline=over,
    )


def accuracy_table(
    score: Values,
    label: Values,
    prompt: Ids,
    rng: np.random.Generator,
    *,
    fact: Values | None = None,
    baseline: Values | None = None,
    keep: Mask | None = None,
) -> dict[str, Accuracy]:
    """The accuracies every critic is reported with.

    Args:
        score: (N,) the critic's.
        label: (N,) ratings.
        prompt: (N,) ids.
        rng: source of the resamples.
        fact: (N,) share of readings that say the fact is kept; "both keep fact" needs it above .5.
        baseline: (N,) another score, to report the difference to.
        keep: (N,) jokes that may take part.

    Returns:
        By name: "1+ points", "2+ points", "both >= 2", "better >= 4", "both keep fact".
    """
    n = len(label)

    def one(extra: Mask | None = None, **options: float) -> Accuracy:
        both = _mask(keep, n) & _mask(extra, n)
        return pair_accuracy(score, label, prompt, rng, baseline=baseline, keep=both, **options)

    table = {
        "1+ points": one(),
        "2+ points": one(gap=2.0),
        "both >= 2": one(worse=2.0),
        "better >= 4": one(better=AMUSING),
    }
    if fact is not None:
        table["both keep fact"] = one(numbers(fact) > 0.5)
    return table


def within_prompt_slopes(
    value: Values,
    covariates: Mapping[str, Values],
    prompt: Ids,
    rng: np.random.Generator,
    *,
    resamples: int = 500,
) -> dict[str, Slope]:
    """Slope of a value on each covariate alone, inside prompts: all is centred by prompt first.

    Run it on scores and on labels: a critic is biased where its slope differs from the labels'.

    Args:
        value: (N,) scores or labels.
        covariates: by name, (N,) e.g. length in words, recall.
        prompt: (N,) ids.
        rng: source of the resamples.
        resamples: bootstrap samples.
    """
    out = {}
    for name, covariate in covariates.items():
        y, x, groups = _arrays(value, covariate, prompt)
        use = ~np.isnan(y) & ~np.isnan(x)
        xy, xx, yy = (np.zeros(len(groups)) for _ in range(3))
        for k, members in enumerate(groups):
            i = members[use[members]]
            if i.size:
                cy, cx = y[i] - y[i].mean(), x[i] - x[i].mean()
                xy[k], xx[k], yy[k] = (cx * cy).sum(), (cx * cx).sum(), (cy * cy).sum()
        xx[xx < _EPS] = 0.0
        spread = np.sqrt(xx.sum() * yy.sum())
        out[name] = Slope(
            ratio_interval(np.where(xx > 0, xy, 0.0), xx, rng, resamples=resamples),
            float(xy.sum() / spread) if spread > _EPS else float("nan"),
        )
    return out


def source_order(score: Values, label: Values, source: Sequence[str]) -> SourceOrder:
    """Mean score and mean label of each source of jokes, and the rank correlation of the two."""
    s, y = numbers(score), numbers(label)
    if not s.size == y.size == len(source):
        raise ValueError(
            f"{s.size} scores, {y.size} labels, {len(source)} sources: must be as many"
        )
    names = np.asarray(source, dtype=object)
    use = ~np.isnan(s) & ~np.isnan(y)
    means = {}
    for name in sorted(set(source)):
        i = use & (names == name)
        if i.any():
            means[name] = (float(s[i].mean()), float(y[i].mean()), int(i.sum()))
    rho = float("nan")
    if len(means) >= 3:
        rho = correlation(
            ranks(np.array([m[0] for m in means.values()])),
            ranks(np.array([m[1] for m in means.values()])),
        )
    return SourceOrder(rho, means)


def pick_best(score: Values, label: Values, prompt: Ids, *, keep: Mask | None = None) -> PickBest:
    """Let the critic pick a joke of every prompt that has at least two scored jokes.

    Raises:
        ValueError: no prompt has two scored jokes.
    """
    s, y, groups = _arrays(score, label, prompt)
    use = ~np.isnan(s) & ~np.isnan(y) & _mask(keep, s.size)
    rows = []
    for members in groups:
        i = members[use[members]]
        if i.size < 2:
            continue
        top, fun = y[i][s[i] == s[i].max()], y[i] >= AMUSING - _EPS
        rows.append(
            (
                top.mean(),
                (top >= AMUSING - _EPS).mean(),
                y[i].mean(),
                fun.mean(),
                y[i].max(),
                float(fun.any()),
            )
        )
    if not rows:
        raise ValueError("no prompt has two scored jokes: there is nothing to pick from")
    mean, amusing, chance, chance_amusing, ceiling, ceiling_amusing = np.mean(rows, axis=0)
    return PickBest(
        float(mean),
        float(amusing),
        float(chance),
        float(chance_amusing),
        float(ceiling),
        float(ceiling_amusing),
        prompts=len(rows),
    )


def spearman_interval(
    score: Values, label: Values, prompt: Ids, rng: np.random.Generator, *, resamples: int = 500
) -> Interval | None:
    """`spearman` with prompts resampled."""
    s, y, groups = _arrays(score, label, prompt)

    def statistic(rows: NDArray[np.int64]) -> float:
        i = np.concatenate([groups[k] for k in rows])
        return spearman(s[i], y[i])

    return statistic_interval(statistic, len(groups), rng, resamples=resamples)


def _arrays(a: Values, b: Values, prompt: Ids) -> tuple[Floats, Floats, list[NDArray[np.int64]]]:
    """Both values as floats, and the joke numbers of each prompt."""
    x, y = numbers(a), numbers(b)
    if not x.size == y.size == len(prompt):
        raise ValueError(f"{x.size} and {y.size} values, {len(prompt)} prompt ids: must be as many")
    _, group = np.unique(np.asarray([str(i) for i in prompt]), return_inverse=True)
    order = np.argsort(group, kind="stable")
    edges = np.flatnonzero(np.diff(group[order])) + 1
    return x, y, np.split(order, edges) if order.size else []


def _mask(keep: Mask | None, n: int) -> NDArray[np.bool_]:
    mask = np.ones(n, dtype=bool) if keep is None else np.asarray(keep, dtype=bool)
    if mask.shape != (n,):
        raise ValueError(f"mask has shape {mask.shape}, must be ({n},)")
    return mask
