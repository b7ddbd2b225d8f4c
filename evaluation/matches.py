"""Two systems on the same prompts: every figure of one pair, whatever kind of critic judged.

A critic that scores lets all lines of one system meet all of the other; one that only compares is
asked about given lines, and its probabilities become wins, ties and losses here. Both end as the
outcomes of `evaluation.win_rate`, so that tables read the same.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evaluation.intervals import Interval, mean_interval, paired_difference
from evaluation.ladder import is_lost, lost_scores
from evaluation.length_control import LengthControlled, length_controlled
from evaluation.win_rate import LOST, Outcomes, Scores, WinRate, outcomes, smallest_detectable
from rewards.text import words

Jokes = Sequence[Sequence[str]]

TIE_BAND = 1e-6
"""A judge's probability this near to 0.5 is a tie."""


class Match(NamedTuple):
    """System a against system b."""

    outcomes: Outcomes  # pairs of each prompt
    verdicts: list[list[float | None]]  # P prompts: 1, 0.5 or 0 of each pair, from a's side
    lengths: list[list[tuple[int, int]]]  # words of a's and b's line of each pair


class Gap(NamedTuple):
    """How much more a run wins by the critic that trained it: over-optimisation, if above 0."""

    train: float  # win rate by the training critic, 0-1
    report: float  # by the reporting critic, on the same prompts
    gap: Interval  # train - report, paired by prompt


def score_match(jokes_a: Jokes, jokes_b: Jokes, a: Scores, b: Scores, tie: float) -> Match:
    """Let all scored lines of a meet all of b; an empty or unfinished line loses.

    Args:
        jokes_a: lines of a on P prompts; none where it has no line for a prompt.
        jokes_b: of b.
        a: scores of a's lines, same shape; None without a verdict.
        b: of b's.
        tie: scores at most this far apart tie.

    Raises:
        ValueError: as `win_rate.outcomes`.
    """
    left, right = lost_scores(jokes_a, a, LOST), lost_scores(jokes_b, b, LOST)
    verdicts: list[list[float | None]] = []
    lengths = []
    for row_a, row_b, x, y in zip(jokes_a, jokes_b, left, right, strict=True):
        verdicts.append([_score_verdict(p, q, tie) for p in x for q in y])
        lengths.append([(len(words(j)), len(words(k))) for j in row_a for k in row_b])
    return Match(outcomes(left, right, tie), verdicts, lengths)


def judge_match(
    jokes_a: Sequence[str | None],
    jokes_b: Sequence[str | None],
    preferences: Sequence[float | None],
) -> Match:
    """Outcomes of one line a prompt and side, by a critic that compares.

    Args:
        jokes_a: (P,) lines of a; None where it has none.
        jokes_b: (P,) of b.
        preferences: (P,) P(a is funnier) after both orders; None without a verdict.
    """
    verdicts: list[list[float | None]] = []
    lengths: list[list[tuple[int, int]]] = []
    for x, y, p in zip(jokes_a, jokes_b, preferences, strict=True):
        if x is None or y is None:
            verdicts.append([])
            lengths.append([])
            continue
        verdicts.append([_judge_verdict(x, y, p)])
        lengths.append([(len(words(x)), len(words(y)))])
    counts = np.array(
        [[sum(v == worth for v in row) for worth in (1.0, 0.5, 0.0)] for row in verdicts], float
    ).reshape(len(verdicts), 3)
    unscored = 2 * sum(v is None for row in verdicts for v in row)
    return Match(Outcomes(counts[:, 0], counts[:, 1], counts[:, 2], unscored), verdicts, lengths)


def match_rate(match: Match, rng: np.random.Generator) -> WinRate | None:
    """Win rate of a with its interval over prompts; None when no prompt has a scored pair."""
    result = match.outcomes
    seed = int(rng.integers(2**63))  # the same resamples for both figures
    rate = mean_interval(result.rates(), np.random.default_rng(seed))
    wtr = mean_interval(result.rates(tie_worth=1.0), np.random.default_rng(seed))
    if rate is None or wtr is None:
        return None
    seen = result.pairs > 0
    win, tie, loss = (
        float((counts[seen] / result.pairs[seen]).mean())
        for counts in (result.wins, result.ties, result.losses)
    )
    return WinRate(rate, win, tie, loss, wtr, result.unscored, smallest_detectable(rate.error))


def match_length_controlled(match: Match) -> LengthControlled | str:
    """The win rate at equal lengths, or why there is none."""
    pairs = [
        (verdict, x, y, p)
        for p, (row, sizes) in enumerate(zip(match.verdicts, match.lengths, strict=True))
        for verdict, (x, y) in zip(row, sizes, strict=True)
    ]
    if not pairs:
        return "no pair has a verdict"
    verdicts, a, b, prompts = zip(*pairs, strict=True)
    try:
        return length_controlled(verdicts, a, b, prompts)
    except ValueError as error:  # too few prompts, or length and preference cannot be told apart
        return str(error)


def over_optimisation(train: Match, report: Match, rng: np.random.Generator) -> Gap | None:
    """Win rate by the training critic minus by the reporting critic, on prompts that both judged.

    Returns:
        The gap; None without a prompt that both have verdicts on.
    """
    both = [
        (x, y)
        for x, y in zip(train.outcomes.rates(), report.outcomes.rates(), strict=True)
        if x is not None and y is not None
    ]
    if not both:
        return None
    by_train, by_report = [x for x, _ in both], [y for _, y in both]
    gap = paired_difference(by_train, by_report, rng)
    if gap is None:
        return None
    return Gap(sum(by_train) / len(both), sum(by_report) / len(both), gap)


def halves(jokes: Jokes, scores: Scores) -> tuple[tuple[Jokes, Scores], tuple[Jokes, Scores]]:
    """One system's lines as two systems: its first and its second half on every prompt.

    They were made alike, so their win rate is 50 % but for chance: the control of a whole table.

    Raises:
        ValueError: a prompt with fewer than two lines.
    """
    if min(map(len, jokes), default=0) < 2:
        raise ValueError("halves need at least two lines on every prompt")
    cut = [len(row) // 2 for row in jokes]
    first = [row[:k] for row, k in zip(jokes, cut, strict=True)]
    second = [row[k : 2 * k] for row, k in zip(jokes, cut, strict=True)]
    first_scores = [row[:k] for row, k in zip(scores, cut, strict=True)]
    second_scores = [row[k : 2 * k] for row, k in zip(scores, cut, strict=True)]
    return (first, first_scores), (second, second_scores)


def best_of_n_kl(n: int) -> float:
    """Nats that best-of-n lies from what it picks of, at most: log n - (n - 1) / n.

    Exact only where no joke is likely to be drawn twice; that it is an upper bound is shown by
    Beirami et al. 2024, arXiv:2401.01879.

    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}, must be >= 1")
    return math.log(n) - (n - 1) / n


def _score_verdict(a: float | None, b: float | None, tie: float) -> float | None:
    if a is None or b is None:
        return None
    return 1.0 if a > b + tie else 0.0 if b > a + tie else 0.5


def _judge_verdict(a: str, b: str, p: float | None) -> float | None:
    """A lost line loses to any other; of two lost ones and of equal ones neither wins."""
    if is_lost(a) or is_lost(b):
        return 0.5 if is_lost(a) and is_lost(b) else float(is_lost(b))
    if a.strip() == b.strip():
        return 0.5
    if p is None:
        return None
    return 0.5 if abs(p - 0.5) <= TIE_BAND else float(p > 0.5)
