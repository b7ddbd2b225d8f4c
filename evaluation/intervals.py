"""Intervals over prompts: the prompt is the cluster, its jokes are not independent draws.

Percentile bootstrap with prompts resampled whole (Efron & Tibshirani 1993, ch. 13); every random
number comes from the generator that is passed in. A prompt without a verdict is `None`: it is left
out and counted, never a zero.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Values = Sequence[float | None] | NDArray[Any]

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 4_000_000  # numbers drawn at once: bounds memory to some 30 MB


class Interval(NamedTuple):
    """An estimate, its bootstrap interval and what it rests on."""

    value: float  # the estimate on the prompts as they are
    low: float  # lower end of the interval
    high: float  # upper end
    error: float  # standard error, in the unit of the value
    prompts: int  # prompts that counted
    missing: int  # prompts left out: no verdict


def numbers(values: Values) -> Floats:
    """Floats of `values`, None as NaN: inside arrays NaN means "no verdict" and nothing else.

    Raises:
        ValueError: an infinite value.
    """
    array = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    if np.isinf(array).any():
        raise ValueError(f"value {int(np.isinf(array).argmax())} is infinite, verdicts are finite")
    return array


def mean_interval(
    values: Values,
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval | None:
    """The mean over prompts of one value a prompt.

    Args:
        values: (P,) one number a prompt, None without a verdict.
        rng: source of the resamples.
        resamples: bootstrap samples, > 1.
        level: share of resamples inside the interval, in (0, 1).

    Returns:
        The interval; None when no prompt has a value.
    """
    array = numbers(values)
    seen = ~np.isnan(array)
    return ratio_interval(
        np.where(seen, array, 0.0), seen.astype(float), rng, resamples=resamples, level=level
    )


def ratio_interval(
    numerator: Values,
    denominator: Values,
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval | None:
    """A share pooled over prompts, e.g. right pairs / pairs: sum(numerator) / sum(denominator).

    Args:
        numerator: (P,) one sum a prompt.
        denominator: (P,) its weight, >= 0; a prompt of weight 0 is missing.
        rng: source of the resamples.
        resamples: bootstrap samples, > 1.
        level: share of resamples inside the interval, in (0, 1).

    Returns:
        The interval; None when all weights are 0.

    Raises:
        ValueError: lengths differ, a weight is negative or NaN, or options are out of range.
    """
    _check(resamples, level)
    top, weight = numbers(numerator), numbers(denominator)
    if top.shape != weight.shape:
        raise ValueError(f"{top.size} numerators and {weight.size} denominators, must be as many")
    if not (weight >= 0).all():
        raise ValueError("a denominator is negative or missing, must be >= 0")
    seen = weight > 0
    top, weight = top[seen], weight[seen]
    n = int(seen.sum())
    if n == 0:
        return None
    value = float(top.sum() / weight.sum())
    draws = np.concatenate(
        [top[i].sum(axis=1) / weight[i].sum(axis=1) for i in _resamples(n, resamples, rng)]
    )
    return _interval(value, draws, level, n, int((~seen).sum()))


def statistic_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    prompts: int,
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval | None:
    """Any statistic of a set of prompts.

    Args:
        statistic: given prompt numbers in [0, prompts), repeats allowed, returns a number; NaN
            where it is not defined on them.
        prompts: how many prompts there are.
        rng: source of the resamples.
        resamples: bootstrap samples, > 1.
        level: share of resamples inside the interval, in (0, 1).

    Returns:
        The interval over the resamples where the statistic is defined; None where it is not
        defined on all prompts, or on fewer than half of the resamples.
    """
    _check(resamples, level)
    if prompts == 0:
        return None
    value = float(statistic(np.arange(prompts)))
    draws = np.array(
        [statistic(row) for part in _resamples(prompts, resamples, rng) for row in part]
    )
    draws = draws[~np.isnan(draws)]
    if np.isnan(value) or draws.size < resamples / 2:
        return None
    return _interval(value, draws, level, prompts, 0)


def paired_difference(
    a: Values,
    b: Values,
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval | None:
    """Mean of a - b over the prompts that have both; `error` is the paired standard error.

        error = sd(a_i - b_i) / sqrt(n),   sd with n - 1; 0 for a single prompt

    Args:
        a: (P,) one number a prompt, None without a verdict.
        b: (P,) of the same prompts in the same order.
        rng: source of the resamples.
        resamples: bootstrap samples, > 1.
        level: share of resamples inside the interval, in (0, 1).

    Returns:
        The interval; None when no prompt has both.

    Raises:
        ValueError: lengths differ.
    """
    left, right = numbers(a), numbers(b)
    if left.shape != right.shape:
        raise ValueError(f"{left.size} values a and {right.size} values b, must be as many")
    difference = left - right
    interval = mean_interval(difference, rng, resamples=resamples, level=level)
    return interval and interval._replace(error=standard_error(difference))


def standard_error(values: Values) -> float:
    """Standard error of the mean of the values that are there; 0 for fewer than two."""
    array = numbers(values)
    array = array[~np.isnan(array)]
    return float(array.std(ddof=1) / np.sqrt(array.size)) if array.size > 1 else 0.0


def prompt_means(values: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean of each prompt's jokes over those with a verdict; None where no joke has one."""
    scored = [[v for v in row if v is not None] for row in values]
    return [sum(row) / len(row) if row else None for row in scored]


def mean_over_seeds(
    values: Sequence[Sequence[float | None]],
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval | None:
    """The mean over runs and prompts, with prompts resampled and the seeds as they are.

    The interval speaks of these runs on other prompts; the spread between seeds is shown beside it.

    Args:
        values: one list a seed, (P,) each, of the same prompts in the same order.
        rng: source of the resamples.
        resamples: bootstrap samples, > 1.
        level: share of resamples inside the interval, in (0, 1).

    Raises:
        ValueError: seeds with different numbers of prompts.
    """
    sizes = {len(row) for row in values}
    if len(sizes) > 1:
        raise ValueError(f"seeds have {sorted(sizes)} prompts, must all have the same")
    by_prompt = prompt_means(list(zip(*values, strict=True)))
    return mean_interval(by_prompt, rng, resamples=resamples, level=level)


def _check(resamples: int, level: float) -> None:
    if resamples < 2:
        raise ValueError(f"resamples is {resamples}, must be at least 2")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, must be in (0, 1)")


def _resamples(n: int, resamples: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Prompt numbers of each bootstrap sample, rows of length n, in chunks that fit in memory."""
    rows = max(1, _CHUNK // n)
    return [
        rng.integers(n, size=(min(rows, resamples - start), n))
        for start in range(0, resamples, rows)
    ]


def _interval(value: float, draws: Floats, level: float, n: int, missing: int) -> Interval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), float(draws.std(ddof=1)), n, missing)
