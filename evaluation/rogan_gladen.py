"""What a critic's win rate would be by the judges whose votes it was checked against.

A critic is a test with errors. With q its win rate for system a on all pairs (ties half), and on
the pairs that judges voted on

    se = E[c | judges prefer a],   sp = E[1 - c | judges prefer b],   c = the critic's verdict

the win rate by the judges is

    p = (q + sp - 1) / (se + sp - 1)                                 Rogan and Gladen 1978

Ties of either are half a verdict for each side; then q = p se + (1 - p)(1 - sp) still holds
exactly on the voted pairs. The errors must be the same on pairs that nobody voted on.

Sources: Rogan and Gladen 1978, doi:10.1093/oxfordjournals.aje.a112510; the interval is Lang and
Reiczigel 2014, doi:10.1016/j.prevetmed.2013.09.015; the use for language-model judges is Lee et al.
2025, arXiv:2511.21140. Fractional verdicts vary less than the binomial that the interval assumes,
so it is too wide rather than too narrow.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

from evaluation.intervals import LEVEL, Values, numbers

LEAST = 5.0
"""Votes for either side, below which a critic's errors are not known well enough."""
INFORMED = 0.1
"""se + sp - 1 from which a critic says enough about the judges to be corrected."""


class Corrected(NamedTuple):
    """The win rate of a against b by the judges, estimated through the critic."""

    rate: float  # p, 0-1, cut at 0 and 1
    low: float  # Lang and Reiczigel's interval, cut at 0 and 1
    high: float
    critic: float  # q, the critic's own win rate on all pairs, ties half
    sensitivity: float  # se
    specificity: float  # sp
    pairs: int  # with a verdict of the critic
    voted: int  # of these with votes


class NotCorrected(NamedTuple):
    """Why there is no corrected rate."""

    reason: str


def rogan_gladen(
    verdicts: Values, votes: Values, *, level: float = LEVEL
) -> Corrected | NotCorrected:
    """Correct a critic's win rate by votes on some or all of its pairs.

    Args:
        verdicts: (N,) the critic, P(a is funnier) in [0, 1], 0.5 a tie; None no verdict.
        votes: (N,) the judges on the same pairs: 1 a, 0 b, 0.5 a tie, means of several between;
            None where nobody voted.
        level: confidence, in (0, 1).

    Raises:
        ValueError: lengths differ, a value outside [0, 1], or the level out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, must be in (0, 1)")
    c, v = numbers(verdicts), numbers(votes)
    if c.size != v.size:
        raise ValueError(f"{c.size} verdicts and {v.size} votes, must be as many")
    for name, values in (("verdict", c), ("vote", v)):
        if ((values < 0) | (values > 1)).any():
            raise ValueError(f"a {name} is outside [0, 1]")
    judged = c == c  # NaN is no verdict
    both = judged & (v == v)
    for_a, for_b = float(v[both].sum()), float((1 - v[both]).sum())
    if min(for_a, for_b) < LEAST:
        return NotCorrected(
            f"{for_a:g} votes for one side and {for_b:g} for the other, {LEAST:g} of each needed"
        )
    se = float((c[both] * v[both]).sum()) / for_a
    sp = float(((1 - c[both]) * (1 - v[both])).sum()) / for_b
    if se + sp - 1 < INFORMED:
        return NotCorrected(
            f"the critic hardly agrees with the judges: sensitivity {se:.2f} + specificity "
            f"{sp:.2f} - 1 is below {INFORMED:g}"
        )
    n, q = int(judged.sum()), float(c[judged].mean())
    p = corrected_rate(q, se, sp)
    low, high = lang_reiczigel(q, n, se, for_a, sp, for_b, level=level)
    return Corrected(_cut(p), low, high, q, se, sp, n, int(both.sum()))


def corrected_rate(q: float, se: float, sp: float) -> float:
    """(q + sp - 1) / (se + sp - 1), Rogan and Gladen 1978; not cut.

    Raises:
        ValueError: se + sp = 1, a test that says nothing.
    """
    if se + sp == 1:
        raise ValueError(f"sensitivity {se} + specificity {sp} is 1: the test says nothing")
    return (q + sp - 1) / (se + sp - 1)


def lang_reiczigel(
    q: float, n: float, se: float, n_se: float, sp: float, n_sp: float, *, level: float = LEVEL
) -> tuple[float, float]:
    """Interval of the corrected rate when se and sp are estimates too, cut at 0 and 1.

        p' + dp -+ z sqrt( (q'(1-q')/n' + p'^2 se'(1-se')/n_se' + (1-p')^2 sp'(1-sp')/n_sp')
                           / (se' + sp' - 1)^2 )
        dp = 2 z^2 (p' se'(1-se')/n_se' - (1-p') sp'(1-sp')/n_sp')

    with q' = (n q + z^2/2) / n', n' = n + z^2, and se', sp' with one success and one failure added.

    Args:
        q: the test's rate on `n` pairs.
        n: pairs tested.
        se: sensitivity, estimated on `n_se` pairs.
        n_se: pairs that truly go to a.
        sp: specificity, estimated on `n_sp` pairs.
        n_sp: pairs that truly go to b.
        level: confidence.

    Returns:
        Lower and upper end.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    q, n = (n * q + z**2 / 2) / (n + z**2), n + z**2
    se, n_se = (n_se * se + 1) / (n_se + 2), n_se + 2
    sp, n_sp = (n_sp * sp + 1) / (n_sp + 2), n_sp + 2
    youden = se + sp - 1
    if youden <= 0:
        return 0.0, 1.0
    p = _cut((q + sp - 1) / youden)
    of_se, of_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    shift = 2 * z**2 * (p * of_se - (1 - p) * of_sp)
    spread = q * (1 - q) / n + p**2 * of_se + (1 - p) ** 2 * of_sp
    width = z * math.sqrt(spread) / youden
    return _cut(p + shift - width), _cut(p + shift + width)


def mean_votes(votes: Sequence[str]) -> float:
    """The mean of votes "a" (1), "b" (0) and "tie" (0.5) on one pair.

    Raises:
        ValueError: no vote, or one that is none of the three.
    """
    worth = {"a": 1.0, "b": 0.0, "tie": 0.5}
    wrong = [vote for vote in votes if vote not in worth]
    if wrong or not votes:
        raise ValueError(f"vote is {wrong[0] if wrong else 'missing'!r}, allowed are a, b, tie")
    return sum(worth[vote] for vote in votes) / len(votes)


def _cut(x: float) -> float:
    return min(max(x, 0.0), 1.0)
