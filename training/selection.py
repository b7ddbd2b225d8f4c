"""What the select critic sees of a run: the same prompts and random numbers every time."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from agents.student import Student
from evaluation.diversity import commonest_opening, commonest_own_phrase, distinct_n
from evaluation.intervals import prompt_means, standard_error
from evaluation.ladder import lost_scores
from rewards.text import recall, words
from rewards.types import Rater, Rating, Unfinished

Groups = list[list[str]]

GREEDY = 0.0
TUNING_GRID = (GREEDY, 0.4, 0.7)
"""Temperatures that decoding is tuned over, from cool to warm, on select prompts; 0 is greedy."""


class Look(NamedTuple):
    """One evaluation of a student by the select critic."""

    jokes: Groups  # per prompt
    ratings: list[list[Rating | None]]
    scores: list[float | None]  # mean rating of each prompt's jokes; lost ones count 0

    @property
    def mean(self) -> float:
        """Mean rating over prompts with a verdict; NaN without any."""
        known = [s for s in self.scores if s is not None]
        return sum(known) / len(known) if known else float("nan")


def write_jokes(
    student: Student,
    prompts: Sequence[str],
    k: int,
    *,
    temperature: float,
    max_tokens: int,
    seed: int,
    start: bool = False,
) -> Groups:
    """`k` jokes a prompt (one where greedy); unfinished ones are marked as such."""
    k = 1 if temperature == GREEDY else k
    done = student.generate(
        prompts,
        k,
        temperature=temperature,
        max_tokens=max_tokens,
        generator=torch.Generator().manual_seed(seed),
        start=start,
    )
    lines = [
        joke if finished else Unfinished(joke)
        for joke, finished in zip(done.jokes, done.finished, strict=True)
    ]
    return [lines[i : i + k] for i in range(0, len(lines), k)]


def rate_jokes(
    critic: Rater, prompts: Sequence[str], jokes: Sequence[Sequence[str]]
) -> list[list[Rating | None]]:
    """Ratings in the shape of `jokes`, by one call."""
    flat = [joke for row in jokes for joke in row]
    whose = [p for p, row in zip(prompts, jokes, strict=True) for _ in row]
    answers = iter(critic.rate(whose, flat))
    return [[next(answers) for _ in row] for row in jokes]


def look(
    student: Student,
    critic: Rater,
    prompts: Sequence[str],
    k: int,
    *,
    temperature: float,
    max_tokens: int,
    seed: int,
    start: bool = False,
) -> Look:
    """Let the student write and the select critic rate."""
    jokes = write_jokes(
        student, prompts, k, temperature=temperature, max_tokens=max_tokens, seed=seed, start=start
    )
    ratings = rate_jokes(critic, prompts, jokes)
    scores = [[None if r is None else r.score for r in row] for row in ratings]
    return Look(jokes, ratings, prompt_means(lost_scores(jokes, scores)))


def tune_decoding(
    student: Student,
    critic: Rater,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    seed: int,
    grid: Sequence[float] = TUNING_GRID,
    start: bool = False,
) -> tuple[float, dict[str, float]]:
    """The coolest temperature as good as the best by the select critic, and all mean ratings.

    As good: the best one's lead over it is no more than that lead's standard error over prompts
    (the one-standard-error rule of Breiman et al. 1984, section 3.4.3). The highest of a few noisy
    means would too often be a warm one that does worse on other prompts; see docs/log.md.

    One without any verdict is never chosen; where none has one, the student's own stays.

    Args:
        student: who writes.
        critic: the select critic.
        prompts: select prompts, the same for every temperature.
        max_tokens: of a joke.
        seed: of sampling.
        grid: temperatures from cool to warm.
        start: whether the frozen start writes.
    """
    looks = {
        t: look(
            student, critic, prompts, 1,
            temperature=t, max_tokens=max_tokens, seed=seed, start=start,
        )
        for t in grid
    }  # fmt: skip
    means = {f"{t:g}": seen.mean for t, seen in looks.items()}
    known = {t: seen for t, seen in looks.items() if not math.isnan(seen.mean)}
    if not known:
        return student.tuned_temperature, means
    best = max(known.values(), key=lambda seen: seen.mean)
    return next(t for t, seen in known.items() if _as_good(seen, best)), means


def _as_good(seen: Look, best: Look) -> bool:
    """Whether the lead of `best`, over the prompts that both have verdicts on, may be noise."""
    lead = [
        None if a is None or b is None else a - b
        for a, b in zip(best.scores, seen.scores, strict=True)
    ]
    known = [d for d in lead if d is not None]
    return seen is best or (bool(known) and sum(known) / len(known) <= standard_error(lead))


def text_metrics(prompts: Sequence[str], jokes: Groups, prefix: str) -> dict[str, float]:
    """Length, recall and sameness of a set of jokes, for logs and alarms."""
    pairs = [(p, j) for p, row in zip(prompts, jokes, strict=True) for j in row]
    distinct = distinct_n(jokes, lines=1)  # equal counts, however many jokes a prompt has
    return {
        f"{prefix}/words": sum(len(words(j)) for _, j in pairs) / len(pairs),
        f"{prefix}/recall": sum(recall(p, j) for p, j in pairs) / len(pairs),
        f"{prefix}/distinct_2": float("nan") if distinct is None else distinct,
        f"{prefix}/commonest_opening": commonest_opening(jokes).share,
        f"{prefix}/commonest_4gram": commonest_own_phrase(prompts, jokes).share,
    }
