"""Length-controlled win rates from pairwise verdicts: AlpacaEval's minimal GLM with our own fit.

    P(a wins) = sigmoid(theta + phi * tanh(d)),   d = (length a - length b) / sd of it
    LC win rate = mean P with the length term at 0 = sigmoid(theta)

Read: how often a would win against b if both were equally long. theta is what a judge prefers
beside length and phi what it pays for it. Lengths may be words or characters: d has no unit.

What differs from AlpacaEval (tatsu-lab/alpaca_eval, `length_controlled_v1`) and why:

- No instruction term: it is hard-wired to AlpacaEval's own prompts; its author advises to drop it.
- No cross-validated L1 and no rows of gamed baselines, only a ridge of RIDGE, which keeps theta
  finite where every verdict is the same.
- Signs. There, output_1 is the baseline, d = (length baseline - length model) / sd, and a judge
  that likes length has a *negative* coefficient. Here d is a - b and such a judge has phi > 0. With
  a = the model both give the same win rate, and LC(a, b) + LC(b, a) = 1.
- A prompt counts once however many pairs it has, and the interval is a sandwich clustered by
  prompt; AlpacaEval has one pair a prompt and reports the spread of predictions.

Source: Dubois et al. 2024, arXiv:2404.04475, Eq. 2 without the instruction term. Interval: Liang
and Zeger 1986, doi:10.1093/biomet/73.1.13, with the factor G / (G - 1) and Student's t, G prompts.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression

from evaluation.intervals import LEVEL, Floats, Interval, Values, numbers, standard_error

MIN_PROMPTS = 30
"""Fewer prompts do not tell the two coefficients apart."""
RIDGE = 1e-4
"""Pull of theta and phi towards 0, RIDGE / 2 (theta^2 + phi^2) beside a log-likelihood that sums
over prompts: a shift below 1e-5 logits for theta near 0 and 30 prompts."""
NOTABLE = 0.10
"""LC and raw win rates that differ by more than this are remarked upon, as by AlpacaEval."""


class LengthControlled(NamedTuple):
    """The length-controlled win rate of system a against b, and what it was computed from."""

    rate: Interval  # sigmoid(theta): a's win rate at equal lengths, 0-1; `missing` are prompts
    raw: Interval  # mean verdict, ties half, prompts weigh alike, 0-1
    theta: Interval  # logits, what is preferred beside length; > 0: a
    phi: Interval  # logits a unit of tanh(d); > 0: the judge prefers the longer joke
    length_sd: float  # sd of the length difference, in the unit of the lengths
    pairs: int  # verdicts that counted
    unscored: int  # pairs without a verdict, left out
    remarks: tuple[str, ...]  # one line each, for whoever prints the table


def length_controlled(
    verdicts: Values,
    length_a: Sequence[float] | NDArray[Any],
    length_b: Sequence[float] | NDArray[Any],
    prompts: Sequence[Any],
    *,
    level: float = LEVEL,
) -> LengthControlled:
    """Win rate of system a against b with the judge's liking for length taken out.

    Args:
        verdicts: (N,) P(a[i] is funnier) in [0, 1]; 0.5 a tie, None no verdict (left out, counted).
        length_a: (N,) length of a's joke, >= 0, in words or characters.
        length_b: (N,) of b's joke, in the same unit.
        prompts: (N,) prompt ids; pairs of one prompt form a cluster.
        level: confidence of the intervals, in (0, 1).

    Raises:
        ValueError: lengths of the arguments differ, a verdict or length is out of range, fewer than
            MIN_PROMPTS prompts have a verdict, or a is longer than b by the same amount in every
            pair, so that length and preference cannot be told apart.
    """
    y, a, b = numbers(verdicts), numbers(length_a), numbers(length_b)
    _check(y, a, b, prompts, level)
    seen = ~np.isnan(y)
    names, place = np.unique(np.asarray([str(p) for p in prompts]), return_inverse=True)
    cluster = np.unique(place[seen], return_inverse=True)[1]
    n_prompts = int(cluster.max()) + 1 if seen.any() else 0
    if n_prompts < MIN_PROMPTS:
        raise ValueError(f"a length-controlled rate needs {MIN_PROMPTS} prompts, got {n_prompts}")
    y, gap = y[seen], (a - b)[seen]
    weight = 1 / np.bincount(cluster)[cluster]  # a prompt counts once
    sd = _weighted_sd(gap, weight, n_prompts)
    if sd <= 1e-12 and np.abs(gap).max() > 0:
        raise ValueError(
            f"all pairs have the length difference {gap[0]:g}: its effect cannot be told from theta"
        )
    x = np.stack([np.ones_like(y), np.tanh(gap / sd) if sd > 1e-12 else np.zeros_like(y)], axis=1)
    coefficients = fit_soft_logistic(x, y, weight)
    errors = clustered_errors(x, y, weight, cluster, coefficients)
    t = float(stats.t.ppf((1 + level) / 2, n_prompts - 1))
    missing = len(names) - n_prompts
    theta, phi = (
        Interval(float(c), float(c - t * e), float(c + t * e), float(e), n_prompts, missing)
        for c, e in zip(coefficients, errors, strict=True)
    )
    p = _sigmoid(theta.value)
    rate = Interval(p, _sigmoid(theta.low), _sigmoid(theta.high), p * (1 - p) * theta.error,
                    n_prompts, missing)  # fmt: skip
    by_prompt = np.bincount(cluster, weight * y)
    mean, error = float(by_prompt.mean()), standard_error(by_prompt)
    raw = Interval(mean, mean - t * error, mean + t * error, error, n_prompts, missing)
    return LengthControlled(
        rate, raw, theta, phi, sd, int(seen.sum()), int((~seen).sum()),
        _remarks(rate, raw, phi, gap, y),
    )  # fmt: skip


def fit_soft_logistic(x: Floats, y: Floats, weight: Floats) -> Floats:
    """Logistic regression on soft labels: each row counts y times as a win, 1 - y times as a loss.

        max over c of sum_i w_i (y_i log p_i + (1 - y_i) log(1 - p_i)) - RIDGE / 2 |c|^2,
        p = sigmoid(x c)

    Args:
        x: (N, C) covariates, the intercept among them.
        y: (N,) labels in [0, 1].
        weight: (N,) weights >= 0.

    Returns:
        (C,) coefficients, logits a unit of x.
    """
    if (y == y[0]).all() and y[0] in (0.0, 1.0):
        # scikit-learn wants both classes; a loss of weight 0 is one and changes nothing.
        classes, rows, weights = np.array([y[0], 1 - y[0]]), x[[0, 0]], np.zeros(2)
        rows, classes = np.concatenate([x, rows]), np.concatenate([y, classes])
        weights = np.concatenate([weight, weights])
    else:
        rows = np.concatenate([x, x])
        classes = np.repeat([1.0, 0.0], len(y))
        weights = np.concatenate([weight * y, weight * (1 - y)])
    model = LogisticRegression(
        C=1 / RIDGE, fit_intercept=False, solver="newton-cholesky", tol=1e-10, max_iter=200
    )
    fitted: Floats = model.fit(rows, classes, sample_weight=weights).coef_[0]
    return fitted


def clustered_errors(
    x: Floats, y: Floats, weight: Floats, cluster: NDArray[np.int64], coefficients: Floats
) -> Floats:
    """Standard errors of `fit_soft_logistic`, robust to any dependence within a cluster.

        V = H^-1 (G / (G - 1) * sum_g u_g u_g^T) H^-1,   u_g = sum over pairs of g of w (y - p) x

    Args:
        x: (N, C) covariates.
        y: (N,) labels in [0, 1].
        weight: (N,) weights.
        cluster: (N,) cluster numbers 0 to G - 1, each present, G > 1.
        coefficients: (C,) the fit.

    Returns:
        (C,) standard errors.
    """
    p = 1 / (1 + np.exp(-x @ coefficients))
    n = int(cluster.max()) + 1
    scores = np.stack([np.bincount(cluster, c, minlength=n) for c in (weight * (y - p) * x.T)])
    curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(x.shape[1])
    bread = np.linalg.inv(curvature)
    errors: Floats = np.sqrt(np.diag(bread @ (n / (n - 1) * scores @ scores.T) @ bread))
    return errors


def _check(y: Floats, a: Floats, b: Floats, prompts: Sequence[Any], level: float) -> None:
    if not y.size == a.size == b.size == len(prompts):
        raise ValueError(
            f"{y.size} verdicts, {a.size} lengths a, {b.size} lengths b, {len(prompts)} prompts: "
            "must be as many"
        )
    bad = (y < 0) | (y > 1)
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(f"verdict {i} is {y[i]:g}, must be in [0, 1] or None")
    for name, lengths in (("a", a), ("b", b)):
        bad = ~(lengths >= 0)
        if bad.any():
            i = int(bad.argmax())
            raise ValueError(f"length {name} of pair {i} is {lengths[i]:g}, must be >= 0")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, must be in (0, 1)")


def _weighted_sd(gap: Floats, weight: Floats, n_prompts: int) -> float:
    """The sd with n - 1, a prompt counted once; pandas' own for one pair a prompt."""
    mean = weight @ gap / n_prompts
    return float(np.sqrt(weight @ (gap - mean) ** 2 / (n_prompts - 1)))


def _remarks(
    rate: Interval, raw: Interval, phi: Interval, gap: Floats, y: Floats
) -> tuple[str, ...]:
    remarks = []
    if abs(rate.value - raw.value) > NOTABLE:
        remarks.append(
            f"length control moves the win rate from {100 * raw.value:.1f} % to "
            f"{100 * rate.value:.1f} %: the judge's liking for length "
            f"(phi {phi.value:+.2f}) carries much of the verdict"
        )
    if (gap > 0).all() or (gap < 0).all():
        side = "longer" if gap[0] > 0 else "shorter"
        remarks.append(f"a is {side} in every pair: the rate at equal lengths is extrapolated")
    if np.isin(y, (0.0, 1.0)).all() and (abs(phi.value) > 6 or abs(rate.value - 0.5) > 0.4999):
        remarks.append("verdicts are separated perfectly: coefficients are held by the ridge alone")
    return tuple(remarks)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
