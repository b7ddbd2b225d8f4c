"""One scale for all systems: Bradley-Terry strengths from who beats whom, ties half.

    P(i beats j) = sigmoid(s_i - s_j),   s of the reference system = 0

    max over s of  sum_ij w_ij log sigmoid(s_i - s_j),   w_ij = wins of i over j in prompts

Every pair of systems that met gets PRIOR wins each way, so a strength stays finite where one side
wins every time. Intervals resample prompts whole; the same resamples for all systems.

Sources: Bradley and Terry 1952, doi:10.2307/2334029; ties as half a win for each side and bootstrap
intervals as in Chatbot Arena, Chiang et al. 2024, arXiv:2403.04132. The fit is Newton's method.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.intervals import LEVEL, Floats, Interval, Values, numbers

PRIOR = 0.5
"""Wins each way that every pair which met is given, in prompts."""
RESAMPLES = 1000
_STEPS, _LARGEST_STEP, _CLOSE = 50, 2.0, 1e-9


class Strength(NamedTuple):
    """A system's place on the scale."""

    system: str
    strength: Interval  # logits above the reference; 0.0 with a width of 0 for the reference itself
    beats_reference: float  # sigmoid(strength): the win rate that the scale predicts, 0-1


def bradley_terry(
    rates: Mapping[tuple[str, str], Values],
    reference: str,
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> list[Strength]:
    """Fit strengths, strongest first.

    Args:
        rates: (a, b) -> (P,) win rate of a against b on each prompt, ties half, in [0, 1]; None
            where a prompt has no scored pair. Each pair of systems once, in either order.
        reference: the system of strength 0.
        rng: source of the resamples.
        resamples: bootstrap samples, > 1.
        level: share of resamples inside an interval, in (0, 1).

    Returns:
        Every system that is joined to the reference by pairs with a verdict; [] without any.

    Raises:
        ValueError: other numbers of prompts, a rate outside [0, 1], a pair that stands twice, a
            system against itself, or resamples or level out of range.
    """
    if resamples < 2:
        raise ValueError(f"resamples is {resamples}, must be at least 2")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, must be in (0, 1)")
    wins, names = _wins(rates)
    joined = _joined(wins.sum(axis=0), names, reference)
    if len(joined) < 2:
        return []
    keep = [names.index(n) for n in joined]  # the reference is the first
    wins = wins[:, keep][:, :, keep]
    prompts = len(wins)
    value = fit_strengths(wins.sum(axis=0)[None])[0]
    flat = wins.reshape(prompts, -1)
    counts = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    draws = fit_strengths((counts @ flat).reshape(resamples, len(keep), len(keep)))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    error = draws.std(axis=0, ddof=1)
    found = []
    for i, name in enumerate(joined):
        met = wins[:, i].sum(axis=1) + wins[:, :, i].sum(axis=1) > 0
        seen = int(met.sum())
        at, least, most, spread = (float(x[i]) for x in (value, low, high, error))
        interval = Interval(at, least, most, spread, seen, prompts - seen)
        found.append(Strength(name, interval, float(1 / (1 + np.exp(-value[i])))))
    return sorted(found, key=lambda s: -s.strength.value)


def fit_strengths(wins: Floats) -> Floats:
    """Maximum-likelihood strengths of R tournaments at once.

    Args:
        wins: (R, S, S) wins of i over j, >= 0; system 0 is the reference.

    Returns:
        (R, S) logits, column 0 is 0.
    """
    met = (wins + wins.transpose(0, 2, 1)) > 0
    wins = wins + PRIOR * met
    games = wins + wins.transpose(0, 2, 1)
    strengths = np.zeros(wins.shape[:2])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(strengths[:, None, :] - strengths[:, :, None]))  # i beats j
        gradient = (wins - games * p).sum(axis=2)
        weight = games * p * (1 - p)
        hessian = np.einsum("rij,jk->rjk", weight, np.eye(weight.shape[1])) - weight
        # A system that met nobody in a resample keeps strength 0 instead of a singular matrix.
        hessian += 1e-9 * np.eye(weight.shape[1])
        step = np.linalg.solve(hessian[:, 1:, 1:], gradient[:, 1:, None])[:, :, 0]
        strengths[:, 1:] += np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
        if np.abs(step).max(initial=0.0) < _CLOSE:
            break
    return strengths


def _wins(rates: Mapping[tuple[str, str], Values]) -> tuple[Floats, list[str]]:
    """(P, S, S) wins of row over column on each prompt, and the systems."""
    names = list(dict.fromkeys(name for pair in rates for name in pair))
    prompts = {len(values) for values in rates.values()}
    if len(prompts) > 1:
        raise ValueError(f"pairs have {sorted(prompts)} prompts, must all have the same")
    wins = np.zeros((max(prompts, default=0), len(names), len(names)))
    for (a, b), values in rates.items():
        if a == b or ((b, a) in rates):
            raise ValueError(f"{a!r} against {b!r}: each pair of two systems stands once")
        rate = numbers(values)
        seen = ~np.isnan(rate)
        if ((rate[seen] < 0) | (rate[seen] > 1)).any():
            raise ValueError(f"a win rate of {a!r} against {b!r} is outside [0, 1]")
        i, j = names.index(a), names.index(b)
        wins[seen, i, j], wins[seen, j, i] = rate[seen], 1 - rate[seen]
    return wins, names


def _joined(wins: NDArray[np.float64], names: Sequence[str], reference: str) -> list[str]:
    """The reference and all that met it, directly or by way of others; [] if it met nobody."""
    if reference not in names:
        return []
    met = (wins + wins.T) > 0
    reached = [names.index(reference)]
    for i in reached:
        reached += [int(j) for j in np.flatnonzero(met[i]) if j not in reached]
    return [names[i] for i in reached] if len(reached) > 1 else []
