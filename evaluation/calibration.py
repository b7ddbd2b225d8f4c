"""Whether a probability means what it says: reliability and discrimination. Pure functions."""

from typing import NamedTuple

import numpy as np

from evaluation.correlation import both, ranks
from evaluation.intervals import Values


class Reliability(NamedTuple):
    """Calibration of a probability against what happened."""

    ece: float  # expected calibration error: mean |probability - share| over bins, by count
    bins: list[tuple[float, float, int]]  # mean probability, share that happened, count


def reliability(probability: Values, happened: Values, *, bins: int = 10) -> Reliability:
    """Bin probabilities in equal steps of [0, 1] and compare each bin with what happened.

    Args:
        probability: (N,) 0-1.
        happened: (N,) 0-1; a share where several readings disagree.
        bins: number of bins.

    Raises:
        ValueError: values outside [0, 1], or none at all.
    """
    p, y = both(probability, happened)
    if not p.size:
        raise ValueError("reliability needs at least one probability with an outcome")
    if min(p.min(), y.min()) < 0 or max(p.max(), y.max()) > 1:
        raise ValueError("probabilities and outcomes must be in [0, 1]")
    place = np.minimum((p * bins).astype(int), bins - 1)
    rows = [
        (float(p[place == k].mean()), float(y[place == k].mean()), int((place == k).sum()))
        for k in range(bins)
        if (place == k).any()
    ]
    ece = sum(n * abs(mean - share) for mean, share, n in rows) / p.size
    return Reliability(float(ece), rows)


def auc(score: Values, happened: Values) -> float:
    """P(a joke where it happened scores above one where it did not), equal scores half.

    The Mann-Whitney statistic, the area under the ROC curve. `happened` counts as true above .5.

    Raises:
        ValueError: only one of the two outcomes occurs.
    """
    s, y = both(score, happened)
    true = y > 0.5
    n, m = int(true.sum()), int((~true).sum())
    if not n or not m:
        raise ValueError(f"auc needs both outcomes, got {n} true and {m} false")
    return float((ranks(s)[true].sum() - n * (n + 1) / 2) / (n * m))
