"""Correlations of plain arrays, and what two critics share beyond the label. No intervals here."""

from typing import NamedTuple

import numpy as np

from evaluation.intervals import Floats, Values, numbers

_EPS = 1e-9


class ErrorCorrelation(NamedTuple):
    """Whether two critics err alike."""

    partial: float  # correlation of the scores once the label's share is taken out of each
    residual: float  # correlation of score - label; shrunk critics share the label's own spread


def spearman(score: Values, label: Values) -> float:
    """Rank correlation over all jokes with both; NaN where either does not vary."""
    s, y = both(score, label)
    return correlation(ranks(s), ranks(y))


def error_correlation(a: Values, b: Values, label: Values) -> ErrorCorrelation:
    """Whether critics a and b (N,) err alike on labelled jokes; above .6 they are not independent.

    The figure to read is `partial`: each score minus its linear regression on the label. A critic
    that shrinks to the mean errs by -label for all jokes, so `residual` is high for any two.
    """
    x, y, z = numbers(a), numbers(b), numbers(label)
    if not x.size == y.size == z.size:
        raise ValueError(f"{x.size} and {y.size} scores, {z.size} labels: must be as many")
    use = ~(np.isnan(x) | np.isnan(y) | np.isnan(z))
    x, y, z = x[use], y[use], z[use]
    return ErrorCorrelation(
        partial=correlation(_without(x, z), _without(y, z)),
        residual=correlation(x - z, y - z),
    )


def both(a: Values, b: Values) -> tuple[Floats, Floats]:
    """The two values of every joke that has both; ValueError where there are not as many."""
    x, y = numbers(a), numbers(b)
    if x.size != y.size:
        raise ValueError(f"{x.size} and {y.size} values: must be as many")
    use = ~np.isnan(x) & ~np.isnan(y)
    return x[use], y[use]


def ranks(values: Floats) -> Floats:
    """Ranks from 1, equal values share their mean rank."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    shared: Floats = (last - (count - 1) / 2.0)[place]
    return shared


def correlation(a: Floats, b: Floats) -> float:
    """Pearson correlation, -1 to 1; NaN for fewer than two or where either does not vary."""
    if a.size < 2:
        return float("nan")
    x, y = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / spread if spread > _EPS else float("nan")


def _without(values: Floats, label: Floats) -> Floats:
    """What is left of `values` after the linear regression on `label`."""
    x = label - label.mean()
    spread = float((x * x).sum())
    centred: Floats = values - values.mean()
    if spread <= _EPS:
        return centred
    left: Floats = centred - x * (float((x * centred).sum()) / spread)
    return left
