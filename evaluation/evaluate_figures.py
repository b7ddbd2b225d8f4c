"""Every figure of an evaluation from lines and verdicts, as plain values for results.json.

Keys: `systems` (per-prompt lists, for statistics of one's own), `table` (the ladder), `pairs`
(every system against every other), `control`, `bradley_terry`, `over_optimisation`. None is "no
verdict" or "not known"; a `reason` stands beside it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import combinations
from typing import Any

import numpy as np

from evaluation.bradley_terry import bradley_terry
from evaluation.intervals import prompt_means
from evaluation.ladder import (
    BASELINE,
    LOST_RATING,
    Ratings,
    SystemLines,
    build_ladder,
    is_lost,
    lost_scores,
)
from evaluation.matches import (
    Match,
    halves,
    judge_match,
    match_length_controlled,
    match_rate,
    over_optimisation,
    score_match,
)
from evaluation.win_rate import LOST, Scores, sensitivity
from rewards.text import recall, words

START = "start"
SHARES = ("amusing", "fact")
"""Figures of a rating that a critic which only scores does not give."""
AMUSING_MARK = "on amusing share"


@dataclass(frozen=True)
class Judged:
    """One system's lines and what critics say of them."""

    name: str
    jokes: Sequence[Sequence[str]]
    """(P,) lines a prompt; [] where it has none."""
    decoding: str = ""
    note: str = ""
    ratings: Ratings | None = None
    """The reporting critic's, same shape; None if it only compares or may not rate these lines."""
    reason: str = ""
    """Why the reporting critic may not judge these lines; "" if it may."""
    labels: Ratings | None = None
    """Ratings by definition (copy, paraphrases)."""
    train_scores: Scores | None = None
    """The training critic's, same shape."""
    train_reason: str = ""
    """Why there are none."""
    train_critic: str = ""
    """Spec of the critic that these are by."""
    kl: float | None = None
    """Nats a joke to the start student."""
    tuning: Mapping[str, float] = field(default_factory=dict)
    """Temperature -> mean rating by the select critic on select prompts."""


@dataclass(frozen=True)
class Setting:
    """What all figures share."""

    ids: Sequence[str]
    prompts: Sequence[str]
    critic: str
    tie: float
    """Points; ratings at most this far apart tie."""
    seed: int
    training_jokes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    preferences: Mapping[tuple[str, str], Sequence[float | None]] | None = None
    """(a, b) -> P(a's first line is funnier) on each prompt, of a critic that only compares."""
    train_tie: Mapping[str, float] = field(default_factory=dict)
    """Training critic -> its tie threshold."""
    base_scores: Mapping[str, Scores] = field(default_factory=dict)
    """Training critic -> its scores of the lines of start-tuned."""

    def rng(self) -> np.random.Generator:
        """The same resamples for every figure, so that the ends of intervals compare."""
        return np.random.default_rng(self.seed)


def figures(judged: Sequence[Judged], setting: Setting) -> dict[str, Any]:
    """Work out everything; strict JSON (no NaN).

    Raises:
        ValueError: shapes that differ, or no system `start-tuned`.
    """
    named = {j.name: j for j in judged}
    if BASELINE not in named:
        raise ValueError(f"no system {BASELINE!r} among {', '.join(named)}")
    matches = {
        (a.name, b.name): match_of(a, b, setting)
        for b, a in combinations(judged, 2)  # what comes later is measured by what came first
        if a.labels is None and b.labels is None
    }
    rates = {pair: m.outcomes.rates() for pair, m in matches.items() if isinstance(m, Match)}
    scale = bradley_terry(rates, BASELINE, setting.rng())
    result = {
        "critic": setting.critic,
        "baseline": BASELINE,
        "tie": setting.tie,
        "prompts": [
            {"id": i, "text": t} for i, t in zip(setting.ids, setting.prompts, strict=True)
        ],
        "warnings": list(setting.warnings),
        "systems": [_system(j, setting) for j in judged],
        "table": _table(judged, setting),
        "pairs": [_pair(named[a], named[b], match, setting) for (a, b), match in matches.items()],
        "control": _control(named.get(START), setting),
        "bradley_terry": [plain_values(s) for s in scale],
        "over_optimisation": [
            _gap(j, named[BASELINE], setting)
            for j in judged
            if j.labels is None and j.name != BASELINE
        ],
    }
    clean: dict[str, Any] = plain_values(result)
    return clean


def match_of(a: Judged, b: Judged, setting: Setting) -> Match | str:
    """The match of two systems by the reporting critic, or why there is none."""
    if a.reason or b.reason:
        return a.reason or b.reason
    if setting.preferences is not None:
        asked = setting.preferences.get((a.name, b.name))
        turned = setting.preferences.get((b.name, a.name))
        if asked is None and turned is not None:
            asked = [None if p is None else 1 - p for p in turned]
        if asked is None:
            return "not asked about this pair"
        return judge_match([_first(r) for r in a.jokes], [_first(r) for r in b.jokes], asked)
    if a.ratings is None or b.ratings is None:
        return "no ratings"
    return score_match(a.jokes, b.jokes, _scores(a.ratings), _scores(b.ratings), setting.tie)


def plain_values(value: Any) -> Any:
    """Named tuples and dataclasses as objects, NaN and infinities as None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain_values(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {k: plain_values(v) for k, v in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(k): plain_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _first(row: Sequence[str]) -> str | None:
    return row[0] if row else None


def _scores(ratings: Ratings) -> list[list[float | None]]:
    return [[None if r is None else r.score for r in row] for row in ratings]


def _system(j: Judged, setting: Setting) -> dict[str, Any]:
    """Lists with one entry a prompt; a mean over the lines of a prompt with a verdict, or None."""
    ratings = j.labels if j.labels is not None else j.ratings

    def means(part: str) -> list[float | None]:
        if ratings is None or part in unknown_parts(j):
            return [None] * len(j.jokes)
        rows = [
            [_part(joke, r, part, by_critic=j.labels is None) for joke, r in zip(x, y, strict=True)]
            for x, y in zip(j.jokes, ratings, strict=True)
        ]
        return prompt_means(rows)

    return {
        "name": j.name,
        "decoding": j.decoding,
        "note": j.note,
        "ratable": not j.reason,
        "reason": j.reason,
        "rated_by": "labels" if j.labels is not None else "critic" if ratings is not None else "",
        "prompts": list(setting.ids),
        "rating": means("score"),
        "amusing": means("amusing"),
        "fact": means("fact"),
        "words": prompt_means([[float(len(words(x))) for x in row] for row in j.jokes]),
        "recall": prompt_means(
            [[recall(p, x) for x in row] for p, row in zip(setting.prompts, j.jokes, strict=True)]
        ),
        "jokes": [[str(x) for x in row] for row in j.jokes],
        "lost": [[is_lost(x) for x in row] for row in j.jokes],
        "scores": None if ratings is None else lost_scores(j.jokes, _scores(ratings)),
        "train_critic": j.train_critic,
        "train_scores": j.train_scores,
        "kl": j.kl,
        "tuning": dict(j.tuning),
    }


def unknown_parts(j: Judged) -> list[str]:
    """Shares that the reporting critic never gives (NaN): a lost line must not make them 0."""
    known = [r for row in j.ratings or () for r in row if r is not None]
    return [
        part
        for part in SHARES
        if j.labels is None and known and all(math.isnan(getattr(r, part)) for r in known)
    ]


def _part(joke: str, rating: Any, part: str, *, by_critic: bool) -> float | None:
    """One figure of a rating; a lost line is at the bottom, NaN is not known."""
    if by_critic and is_lost(joke):
        rating = LOST_RATING
    value = None if rating is None else float(getattr(rating, part))
    return None if value is None or math.isnan(value) else value


def _table(judged: Sequence[Judged], setting: Setting) -> dict[str, Any]:
    """The ladder; a system that lacks lines for some prompts is measured on the others."""
    whole = {j.name: _lines(j) for j in judged if all(j.jokes)}
    base = next(j for j in judged if j.name == BASELINE)

    def ladder(keep: Sequence[int], systems: Mapping[str, SystemLines]) -> Any:
        return build_ladder(
            [setting.prompts[i] for i in keep], systems, tie=setting.tie, rng=setting.rng(),
            critic=setting.critic, training_jokes=setting.training_jokes,
            warnings=setting.warnings,
        )  # fmt: skip

    table = ladder(range(len(setting.prompts)), whole)
    rows = {row.system: row for row in table.rows}
    for j in judged:
        if j.name not in whole:
            keep = [i for i, row in enumerate(j.jokes) if row]
            part = ladder(keep, {BASELINE: _lines(base, keep), j.name: _lines(j, keep)})
            rows[j.name] = next(r for r in part.rows if r.system == j.name)
    value: dict[str, Any] = plain_values(table)
    value["rows"] = [_row(plain_values(rows[j.name]), unknown_parts(j)) for j in judged]
    return value


def _row(row: dict[str, Any], unknown: Sequence[str]) -> dict[str, Any]:
    """A row of the ladder without shares that nobody gave, and without marks made of them."""
    told = [m for m in row["marks"] if not ("amusing" in unknown and m.endswith(AMUSING_MARK))]
    return row | dict.fromkeys(unknown) | {"marks": told}


def _lines(j: Judged, keep: Sequence[int] | None = None) -> SystemLines:
    at = range(len(j.jokes)) if keep is None else keep

    def some(ratings: Ratings | None) -> Ratings | None:
        return None if ratings is None else [ratings[i] for i in at]

    return SystemLines(
        [j.jokes[i] for i in at], some(j.ratings), decoding=j.decoding,
        ratable=not j.reason, note=j.note, labels=some(j.labels),
    )  # fmt: skip


def _pair(a: Judged, b: Judged, match: Match | str, setting: Setting) -> dict[str, Any]:
    known: dict[str, Any] = {"a": a.name, "b": b.name, "reason": ""}
    rate = None if isinstance(match, str) else match_rate(match, setting.rng())
    if isinstance(match, str) or rate is None:
        why = match if isinstance(match, str) else "no pair has a verdict"
        return known | {"reason": why, "rate": None}
    controlled = match_length_controlled(match)
    told = isinstance(controlled, str)
    found = known | rate._asdict()
    found |= {
        "length_controlled": None if told else controlled,
        "length_reason": controlled if told else "",
        "sensitivity": None,
    }
    if setting.preferences is None and a.ratings is not None and b.ratings is not None:
        x, y = (lost_scores(j.jokes, _scores(r), LOST) for j, r in ((a, a.ratings), (b, b.ratings)))
        found["sensitivity"] = sensitivity(x, y, setting.tie)
    return found


def _control(start: Judged | None, setting: Setting) -> dict[str, Any]:
    """Start against start: two halves of its lines, which must be even within the interval."""
    told: dict[str, Any] = {"what": "start against start, two halves of its lines", "rate": None}
    if start is None or start.ratings is None or start.reason:
        return told | {"reason": "the critic gives start no ratings"}
    if min(map(len, start.jokes)) < 2:
        return told | {"reason": "start has one line a prompt, two are needed"}
    (x, a), (y, b) = halves(start.jokes, _scores(start.ratings))
    rate = match_rate(score_match(x, y, a, b, setting.tie), setting.rng())
    if rate is None:
        return told | {"reason": "no pair has a verdict"}
    even = rate.rate.low <= 0.5 <= rate.rate.high
    return told | rate._asdict() | {"even": even, "reason": ""}


def _gap(j: Judged, base: Judged, setting: Setting) -> dict[str, Any]:
    """Over-optimisation of one system: both win rates are against start-tuned."""
    known: dict[str, Any] = {"system": j.name, "against": base.name, "critic": j.train_critic}
    known |= {"gap": None}
    base_scores = setting.base_scores.get(j.train_critic)
    if j.train_scores is None or base_scores is None:
        return known | {"reason": j.train_reason or "no training critic"}
    report = match_of(j, base, setting)
    if isinstance(report, str):
        return known | {"reason": report}
    tie = setting.train_tie.get(j.train_critic, 0.0)
    train = score_match(j.jokes, base.jokes, j.train_scores, base_scores, tie)
    gap = over_optimisation(train, report, setting.rng())
    if gap is None:
        return known | {"reason": "no prompt has verdicts of both critics"}
    return known | gap._asdict() | {"reason": ""}
