"""The same joke, changed where it should not matter: filler must not gain, brevity must not lose.

Built by rule from lines of a student: neutral words put in front, into or behind a line; words that
carry nothing, or a last clause that stood there before word for word, taken out. (A clause that
only reuses the words of the line is often its point: "we measured the bowls, and the bowls measured
us".)
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evaluation.audit import clustered_mean
from evaluation.intervals import Interval
from evaluation.probe_recipes import Line, content_hash
from rewards.text import content_words, words

FILLED, SHORTENED = "filler added", "shortened"

_BEFORE = ("As it happens, ", "Well, ", "To be honest, ", "By the way, ", "In any case, ")
_AFTER = (", as it happens", ", by the way", ", in a way", ", to be honest", ", so to speak")
_INTO = (", as it happens,", ", by the way,", ", in a way,")
_EMPTY = re.compile(
    r",? \b(?:really|just|very|quite|actually|simply|basically|completely|totally|honestly"
    r"|of course|as it is)\b,?(?= \w)",
    re.IGNORECASE,
)
_LAST_CLAUSE = re.compile(r"[,;] (?:and |but |so |which |because |while )?([^,;]+?)([.!?]?)$")


class Counterfactual(NamedTuple):
    """A line and the same line changed."""

    kind: str  # FILLED or SHORTENED
    prompt: str
    original: str
    changed: str


class Change(NamedTuple):
    """What the change does to the verdict."""

    win: Interval | None  # how often the changed line beats its original, ties half; 0.5 is fair
    mean: Interval | None  # mean of (changed - original), the critic's unit
    pairs: int
    unscored: int


def with_filler(joke: str, key: int) -> str:
    """The joke with one neutral phrase, in front of it, behind it or after its first clause."""
    text = joke.strip()
    place, which = key % 3, key // 3
    body, end = (text[:-1], text[-1]) if text[-1:] in ".!?" else (text, "")
    if place == 0:
        first = text[:1] if text.startswith("I ") or text.startswith("I'") else text[:1].lower()
        return _BEFORE[which % len(_BEFORE)] + first + text[1:]
    if place == 2 and ", " in body:
        head, _, tail = body.partition(", ")
        return f"{head}{_INTO[which % len(_INTO)]} {tail}{end}"
    return body + _AFTER[which % len(_AFTER)] + end


def shortened(joke: str) -> str | None:
    """The joke without words that carry nothing; None where there are none.

    A last clause goes if the same words stood together before it.
    """
    text = joke.strip()
    less = _EMPTY.sub("", text)
    last = _LAST_CLAUSE.search(less)
    if last and f" {' '.join(words(last[1]))} " in f" {' '.join(words(less[: last.start()]))} ":
        less = less[: last.start()] + last[2]
    return less if less != text and content_words(less) else None


def make_counterfactuals(
    lines: Sequence[Line], *, n: int = 240, seed: int = 0
) -> list[Counterfactual]:
    """At most n changed lines, up to half of them shortened, chosen by a hash of their content.

    Args:
        lines: a student's; equal ones count once.
        n: how many, >= 1.
        seed: chooses other lines.

    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError(f"n is {n} counterfactuals, must be >= 1")
    distinct = {(x.prompt, x.joke): x for x in lines if content_words(x.joke)}
    ordered = sorted(distinct.values(), key=lambda x: content_hash(seed, x.prompt, x.joke))
    short = [
        Counterfactual(SHORTENED, x.prompt, x.joke, less)
        for x in ordered
        if (less := shortened(x.joke)) is not None
    ][: n // 2]
    long = [
        Counterfactual(
            FILLED, x.prompt, x.joke, with_filler(x.joke, content_hash(seed, "filler", x.joke))
        )
        for x in ordered
    ]
    return [*long[: n - len(short)], *short]


def changes(
    made: Sequence[Counterfactual],
    win: Sequence[float | None],
    margin: Sequence[float | None],
    rng: np.random.Generator,
) -> dict[str, Change]:
    """What each kind of change does, intervals over prompts.

    Args:
        made: N counterfactuals.
        win: (N,) P(changed funnier than original), None without a verdict.
        margin: (N,) changed minus original, the critic's unit.
        rng: source of the resamples.
    """
    out = {}
    for kind in (FILLED, SHORTENED):
        at = [i for i, c in enumerate(made) if c.kind == kind]
        wins, prompts = [win[i] for i in at], [made[i].prompt for i in at]
        known = sum(w is not None for w in wins)
        out[kind] = Change(
            clustered_mean(wins, prompts, rng),
            clustered_mean([margin[i] for i in at], prompts, rng),
            known,
            len(at) - known,
        )
    return out
