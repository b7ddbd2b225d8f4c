"""The ladder: every system on the same prompts, beside the references that it has to beat.

A gain counts against `start-tuned`, the untrained student at its best decoding, and only if copying
the prompt is beaten too. What looks like a gain but may be a shortcut (longer, closer to the
prompt, one form that takes over) gets a mark with its reason.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.diversity import (
    Phrase,
    commonest_opening,
    commonest_own_phrase,
    distinct_n,
    longest_overlaps,
    near_copies_of_any,
    near_copy_share,
    self_bleu,
)
from evaluation.intervals import Interval, mean_interval, prompt_means
from evaluation.win_rate import LOST, Sensitivity, WinRate, sensitivity, win_rate
from rewards.text import recall, words
from rewards.types import Rating, Unfinished

BASELINE = "start-tuned"
COPY = "copy"

LENGTH_RATIO = (0.8, 1.25)
RECALL_RISE = 0.10
DISTINCT_RATIO = 0.85
PHRASE_SHARE = 0.10

LOST_RATING = Rating(0.0, 0.0, 0.0, False)
"""An empty or unfinished joke stands at the bottom of the scale, whatever the critic says of it."""

Ratings = Sequence[Sequence[Rating | None]]


@dataclass(frozen=True)
class SystemLines:
    """One system's lines on all prompts, with what a critic says of them."""

    jokes: Sequence[Sequence[str]]
    """Lines per prompt; one a prompt where decoding is deterministic."""
    ratings: Ratings | None
    """The reporting critic's ratings, same shape; None where a joke has no verdict."""
    decoding: str = ""
    """How the lines were made, e.g. "greedy" or "0.7"."""
    ratable: bool = True
    """Whether the critic's manifest lists this system among the sources it may rate."""
    note: str = ""
    labels: Ratings | None = None
    """The labels' own ratings (copy, paraphrases, teacher); shown instead of the critic's."""


@dataclass(frozen=True)
class Row:
    """One line of the table; None where there is no figure."""

    system: str
    decoding: str
    note: str
    rated_by: str  # "critic", "labels" or "" (not ratable by this critic)
    rating: Interval | None  # mean over prompts, 0-10
    win: WinRate | None  # against the baseline
    tie_sensitivity: Sensitivity | None
    amusing: Interval | None  # mean P(rating >= 4), 0-1
    fact: Interval | None  # mean P(fact kept), 0-1
    length: float  # words, mean over prompts
    recall: float  # 0-1, mean over prompts
    near_copies: float  # share of lines that restate the prompt
    out_of_domain: float | None  # share of rated lines the critic does not know the like of
    distinct2: float | None  # at equal lines a prompt
    self_bleu: float | None  # within prompts
    opening: Phrase  # commonest first three words
    phrase: Phrase  # commonest 4-gram that is not in the prompt
    training_copies: float | None  # share of lines that restate a training joke
    longest_overlap: int | None  # words, with any training joke
    lines: int
    lost: int  # empty or unfinished
    unscored: int  # lines without a verdict
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ladder:
    """The table, with what one needs to read it."""

    rows: tuple[Row, ...]
    critic: str
    baseline: str
    prompts: int
    tie: float
    lines_compared: int  # lines a prompt that distinct-2 looks at
    warnings: tuple[str, ...] = ()


def build_ladder(
    prompts: Sequence[str],
    systems: Mapping[str, SystemLines],
    *,
    tie: float,
    rng: np.random.Generator,
    critic: str = "embedded-report",
    baseline: str = BASELINE,
    training_jokes: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Ladder:
    """Work out every figure of the table.

    Args:
        prompts: P sentences.
        systems: by name, in the order of the rows.
        tie: ratings at most this far apart tie, points (see `win_rate.fit_tie_threshold`).
        rng: source of the bootstrap.
        critic: name of the reporting critic.
        baseline: the system that win rates and marks refer to.
        training_jokes: what the student learned from, for copies; () leaves these figures out.
        warnings: lines to print above the table.

    Raises:
        ValueError: no prompts, no lines for a prompt, shapes that differ, a missing baseline.
    """
    if baseline not in systems:
        raise ValueError(f"baseline {baseline!r} is not among the systems {sorted(systems)}")
    for name, system in systems.items():
        _check(name, system, len(prompts))
    lines = min(len(row) for s in systems.values() for row in s.jokes)
    seed = int(rng.integers(2**63))  # the same resamples for all systems: their ends compare
    rows = {}
    for name, system in systems.items():
        win, tie_sensitivity = _against(system, systems[baseline], tie, seed)
        rows[name] = _row(name, prompts, system, lines, seed, training_jokes)
        rows[name] = replace(rows[name], win=win, tie_sensitivity=tie_sensitivity)
    marked = (
        replace(row, marks=tuple(_marks(row, rows[baseline], rows.get(COPY))))
        if row.rated_by == "critic" and row.system != COPY
        else row
        for row in rows.values()
    )
    return Ladder(tuple(marked), critic, baseline, len(prompts), tie, lines, tuple(warnings))


def is_lost(joke: str) -> bool:
    """Whether a joke loses without being looked at: empty, or cut at the token limit."""
    return isinstance(joke, Unfinished) or not joke.strip()


def lost_scores(
    jokes: Sequence[Sequence[str]],
    scores: Sequence[Sequence[float | None]],
    lost: float = LOST_RATING.score,
) -> list[list[float | None]]:
    """Scores as given, but `lost` for empty and unfinished jokes: 0 for means, `LOST` for wins."""
    return [
        [lost if is_lost(joke) else score for joke, score in zip(row, given, strict=True)]
        for row, given in zip(jokes, scores, strict=True)
    ]


def _check(name: str, system: SystemLines, prompts: int) -> None:
    if len(system.jokes) != prompts or not prompts:
        raise ValueError(
            f"{name} has lines for {len(system.jokes)} of {prompts} prompts, needs all"
        )
    if not all(system.jokes):
        raise ValueError(f"{name} has a prompt without a line, needs at least one")
    for ratings in (system.ratings, system.labels):
        if ratings is not None and [len(r) for r in ratings] != [len(j) for j in system.jokes]:
            raise ValueError(f"{name} has ratings of another shape than its lines")


def _critic_ratings(system: SystemLines) -> Ratings | None:
    """The critic's ratings where it may rate, a lost joke at the bottom of the scale."""
    if system.ratings is None or not system.ratable:
        return None
    return [
        [LOST_RATING if is_lost(joke) else rating for joke, rating in zip(j, r, strict=True)]
        for j, r in zip(system.jokes, system.ratings, strict=True)
    ]


def _against(
    system: SystemLines, base: SystemLines, tie: float, seed: int
) -> tuple[WinRate | None, Sensitivity | None]:
    """Win rate against the baseline; None where the two have no common scale."""
    own, other = _critic_ratings(system), _critic_ratings(base)
    if own is None or other is None or system.labels is not None:
        return None, None
    a, b = (
        lost_scores(s.jokes, [[r and r.score for r in row] for row in ratings], LOST)
        for s, ratings in ((system, own), (base, other))
    )
    return win_rate(a, b, tie, np.random.default_rng(seed)), sensitivity(a, b, tie)


def _row(
    name: str,
    prompts: Sequence[str],
    system: SystemLines,
    lines: int,
    seed: int,
    training_jokes: Sequence[str],
) -> Row:
    ratings = _critic_ratings(system) if system.labels is None else system.labels
    flat = [joke for row in system.jokes for joke in row]
    rated = [r for row in ratings or () for r in row]
    given = system.ratings if system.labels is None else system.labels

    def mean(part: Callable[[Rating], float]) -> Interval | None:
        if ratings is None:
            return None
        values = [[None if r is None else part(r) for r in row] for row in ratings]
        judged = [part(r) for row in given or () for r in row if r is not None]
        if judged and all(map(math.isnan, judged)):  # a critic that only scores knows no shares,
            return None  # and the 0 of a lost joke would pass for one
        return mean_interval(prompt_means(values), np.random.default_rng(seed))

    def text_mean(measure: Callable[[str, str], float]) -> float:
        means = [
            sum(measure(prompt, joke) for joke in row) / len(row)
            for prompt, row in zip(prompts, system.jokes, strict=True)
        ]
        return sum(means) / len(means)

    known = [r for r in rated if r is not None]
    by_critic = ratings is not None and system.labels is None
    copies = near_copies_of_any(flat, training_jokes) if training_jokes else None
    return Row(
        system=name,
        decoding=system.decoding,
        note=system.note,
        rated_by="" if ratings is None else "critic" if by_critic else "labels",
        rating=mean(lambda r: r.score),
        win=None,
        tie_sensitivity=None,
        amusing=mean(lambda r: r.amusing),
        fact=mean(lambda r: r.fact),
        length=text_mean(lambda _, joke: float(len(words(joke)))),
        recall=text_mean(recall),
        near_copies=near_copy_share(prompts, system.jokes),
        out_of_domain=(
            sum(r.out_of_domain for r in known) / len(known) if by_critic and known else None
        ),
        distinct2=distinct_n(system.jokes, 2, lines=lines),
        self_bleu=self_bleu(system.jokes),
        opening=commonest_opening(system.jokes),
        phrase=commonest_own_phrase(prompts, system.jokes),
        training_copies=None if copies is None else sum(copies) / len(copies),
        longest_overlap=max(longest_overlaps(flat, training_jokes)) if training_jokes else None,
        lines=len(flat),
        lost=sum(map(is_lost, flat)),
        unscored=sum(r is None for r in rated),
    )


def phrase_mark(phrase: Phrase) -> str:
    """`"and now he has" in 12% of lines`: a form that takes over; empty within the bound."""
    return f'"{phrase.text}" in {phrase.share:.0%} of lines' if phrase.share > PHRASE_SHARE else ""


def _marks(row: Row, base: Row, copy: Row | None) -> Iterator[str]:
    """Reasons to doubt a row; none for the baseline itself, but for taking over a form."""
    if base.length and not LENGTH_RATIO[0] <= row.length / base.length <= LENGTH_RATIO[1]:
        yield f"length {row.length / base.length:.2f} of {base.system}'s"
    if row.recall > base.recall + RECALL_RISE:
        yield f"recall +{row.recall - base.recall:.2f} over {base.system}'s"
    if row.distinct2 is not None and base.distinct2:
        ratio = row.distinct2 / base.distinct2
        if ratio < DISTINCT_RATIO:
            yield f"distinct-2 {ratio:.2f} of {base.system}'s"
    if mark := phrase_mark(row.phrase):
        yield mark
    for name, own, other in (
        ("rating", row.rating, copy and copy.rating),
        ("amusing share", row.amusing, copy and copy.amusing),
    ):
        if own and other and own.value <= other.value:
            yield f"does not beat copying on {name}"
