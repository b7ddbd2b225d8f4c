"""Labelled jokes for fitting critics, out of files of judgments."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rewards.features import Array

RATABLE = ("student", "student2-*", "rl1-*")
"""Sources whose lines are fitted and may be rated: the start student and its descendants."""

FOLDS = 5


class Line(NamedTuple):
    """One labelled joke."""

    id: str
    prompt: str
    joke: str
    source: str
    rating: float  # mean over evaluations, 0-10
    amusing: float  # share of evaluations >= 4
    fact: float  # share of evaluations that say the fact is kept


def read_labels(
    files: Iterable[Path],
    ids: Iterable[str] | None = None,
    sources: Sequence[str] = RATABLE,
) -> list[Line]:
    """Read judgments (see data/README.md).

    Args:
        files: JSONL files of judged prompts.
        ids: prompts to keep; None keeps all.
        sources: sources to keep; a trailing ``*`` stands for any ending.

    Raises:
        ValueError: a malformed line (file and number), or nothing is left.
    """
    wanted = None if ids is None else set(ids)
    lines: list[Line] = []
    for file in files:
        for number, text in enumerate(file.read_text().splitlines(), start=1):
            try:
                record = json.loads(text)
                if wanted is not None and record["id"] not in wanted:
                    continue
                for c in record["candidates"]:
                    if any(matches(c["source"], s) for s in sources):
                        lines.append(_line(record, c))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{file}, line {number}: not a judgment: {error!r}") from error
    if not lines:
        raise ValueError(f"no labelled line of {', '.join(sources)} in these files and prompts")
    return lines


def _line(record: Mapping[str, Any], candidate: Mapping[str, Any]) -> Line:
    votes = candidate["evaluations"]
    ratings = [float(v["rating"]) for v in votes]
    if not ratings or not all(0 <= r <= 10 for r in ratings):
        raise ValueError(f"ratings are {ratings}, allowed are one or more in 0-10")
    return Line(
        record["id"],
        record["text"],
        candidate["text"],
        candidate["source"],
        float(np.mean(ratings)),
        float(np.mean([r >= 4 for r in ratings])),
        float(np.mean([bool(v["fact_kept"]) for v in votes])),
    )


def matches(source: str, pattern: str) -> bool:
    """Whether a source is meant by a pattern of `RATABLE`."""
    return source.startswith(pattern[:-1]) if pattern.endswith("*") else source == pattern


def targets_of(lines: Sequence[Line]) -> Array:
    """(n, 3) rating, amusing, fact."""
    return np.array([(x.rating, x.amusing, x.fact) for x in lines], dtype=np.float32)


def hashed_fold(prompt_id: str) -> int:
    """A fold that depends on the id alone, for labels without `roles.json`."""
    return int(hashlib.sha256(prompt_id.encode()).hexdigest(), 16) % FOLDS
