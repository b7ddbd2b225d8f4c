"""Win rates of two systems on the same prompts, from scores. Headline figures; pure functions.

Within a prompt every joke of one side meets every joke of the other. Scores at most `tie` apart
tie. A prompt's win rate is wins + ties / 2 over its scored pairs; the figure is the mean over
prompts, with an interval that resamples prompts. A system against itself gives 50 % exactly.

A joke without a verdict (None) meets nobody and is counted. A joke that has none to give, because
it is empty or unfinished, is `LOST`: it loses to every scored joke and ties with its like.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from evaluation.intervals import Floats, Interval, mean_interval

Scores = Sequence[Sequence[float | None]]
"""Scores of each prompt's jokes."""

LOST = -math.inf
"""Score of an empty or unfinished joke."""


class Outcomes(NamedTuple):
    """Pairs of each prompt, from the side of system a."""

    wins: Floats  # (P,) pairs
    ties: Floats  # (P,) pairs
    losses: Floats  # (P,) pairs
    unscored: int  # jokes of either side without a verdict

    @property
    def pairs(self) -> Floats:
        """(P,) scored pairs."""
        return self.wins + self.ties + self.losses

    def rates(self, tie_worth: float = 0.5) -> list[float | None]:
        """Win rate of each prompt, ties worth `tie_worth` wins; None without a scored pair."""
        return [
            float((w + tie_worth * t) / n) if n else None
            for w, t, n in zip(self.wins, self.ties, self.pairs, strict=True)
        ]


class WinRate(NamedTuple):
    """System a against system b."""

    rate: Interval  # wins + ties / 2, 0-1, mean over prompts
    win: float  # share of pairs won, mean over prompts
    tie: float
    loss: float
    wtr: Interval  # wins + ties, the papers' figure
    unscored: int  # jokes of either side without a verdict
    detectable: float  # smallest true distance from 50 % found with 80 % power


class Sensitivity(NamedTuple):
    """Win rate, ties half, at other tie thresholds."""

    none: float  # only equal scores tie
    chosen: float
    double: float


def outcomes(a: Scores, b: Scores, tie: float = 0.0) -> Outcomes:
    """Let all jokes of a meet all of b, prompt by prompt.

    Args:
        a: scores of system a, P prompts with any number of jokes each.
        b: of system b, the same prompts in the same order.
        tie: scores at most this far apart tie, in units of the score, >= 0.

    Raises:
        ValueError: other numbers of prompts, tie < 0 or not finite, a score that is NaN or +inf.
    """
    if len(a) != len(b):
        raise ValueError(f"outcomes got {len(a)} prompts of a and {len(b)} of b, must be as many")
    if not 0 <= tie < math.inf:
        raise ValueError(f"tie is {tie}, must be >= 0 and finite")
    wins, ties, losses = np.zeros(len(a)), np.zeros(len(a)), np.zeros(len(a))
    unscored = 0
    for p, (row_a, row_b) in enumerate(zip(a, b, strict=True)):
        x, y = _scored(row_a, "a", p), _scored(row_b, "b", p)
        unscored += len(row_a) - x.size + len(row_b) - y.size
        left, right = x[:, None], y[None, :]
        won, lost = left > right + tie, right > left + tie
        wins[p], losses[p] = won.sum(), lost.sum()
        ties[p] = x.size * y.size - wins[p] - losses[p]
    return Outcomes(wins, ties, losses, unscored)


def win_rate(a: Scores, b: Scores, tie: float, rng: np.random.Generator) -> WinRate | None:
    """Win rate of a against b with its interval; None when no prompt has a scored pair."""
    result = outcomes(a, b, tie)
    rate = mean_interval(result.rates(), rng)
    wtr = mean_interval(result.rates(tie_worth=1.0), rng)
    if rate is None or wtr is None:
        return None
    seen = result.pairs > 0
    win, tied, loss = (
        float((counts[seen] / result.pairs[seen]).mean())
        for counts in (result.wins, result.ties, result.losses)
    )
    return WinRate(rate, win, tied, loss, wtr, result.unscored, smallest_detectable(rate.error))


def sensitivity(a: Scores, b: Scores, tie: float) -> Sensitivity | None:
    """The win rate at no, the chosen and twice the tie threshold; None without a scored pair."""
    rates = []
    for threshold in (0.0, tie, 2 * tie):
        seen = [r for r in outcomes(a, b, threshold).rates() if r is not None]
        if not seen:
            return None
        rates.append(sum(seen) / len(seen))
    return Sensitivity(*rates)


def smallest_detectable(error: float, *, level: float = 0.95, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided test at `level` finds with `power`.

    (z_(1 + level) / 2 + z_power) * standard error,   2.80 errors by default
    """
    z = NormalDist()
    return (z.inv_cdf((1 + level) / 2) + z.inv_cdf(power)) * error


def fit_tie_threshold(scores: Scores, target_tie_share: float) -> float:
    """The smallest threshold at which a system's own jokes tie with each other often enough.

    The critic's scores are real numbers and hardly ever equal, while people and judges call many
    pairs equal; `target_tie_share` is how often they do for two lines sampled alike.

    Args:
        scores: of one system at one temperature; prompts with fewer than two scored jokes are
            left out, the others weigh alike.
        target_tie_share: share of pairs that tie, in [0, 1).

    Returns:
        The threshold, in units of the score; 0 for a share of 0.

    Raises:
        ValueError: the share is out of range, or no prompt has two scored jokes.
    """
    if not 0 <= target_tie_share < 1:
        raise ValueError(f"target_tie_share is {target_tie_share}, must be in [0, 1)")
    gaps, weights = [], []
    for p, row in enumerate(scores):
        x = _scored(row, "of the prompt", p)
        x = x[np.isfinite(x)]
        i, j = np.triu_indices(x.size, k=1)
        gaps.append(np.abs(x[i] - x[j]))
        weights.append(np.full(i.size, 1 / max(i.size, 1)))
    gap, weight = np.concatenate([*gaps, []]), np.concatenate([*weights, []])
    if not gap.size:
        raise ValueError("fit_tie_threshold needs a prompt with two scored jokes, got none")
    if target_tie_share == 0:
        return 0.0
    order = np.argsort(gap)
    reached = np.cumsum(weight[order]) / weight.sum()
    place = int(np.searchsorted(reached, target_tie_share - 1e-12))
    return float(gap[order][min(place, gap.size - 1)])


def _scored(row: Sequence[float | None], side: str, prompt: int) -> Floats:
    scores = np.array([s for s in row if s is not None], dtype=np.float64)
    if np.isnan(scores).any() or (scores == math.inf).any():
        raise ValueError(f"score {side} of prompt {prompt} is NaN or +inf; no verdict is None")
    return scores
