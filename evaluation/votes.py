"""Blind pairs of an evaluation, and what votes on them say about its critic.

The file of pairs holds no key; `results.json` does. Votes are JSONL, one a line: `id` of the pair
and `vote` "a", "b" or "tie"; several votes on a pair are averaged. A critic's agreement with the
votes is shown first, then its win rates corrected for its errors (`evaluation.rogan_gladen`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.audit import agreement, clustered_mean
from evaluation.evaluate_figures import Judged, Setting, match_of, plain_values
from evaluation.pairs import Blinded, blind_pairs
from evaluation.rogan_gladen import Corrected, mean_votes, rogan_gladen


def blinded(judged: Sequence[Judged], setting: Setting, rivals: Sequence[str]) -> list[Blinded]:
    """Pairs of every system against each rival, by their first lines.

    Args:
        judged: all systems.
        setting: of the evaluation.
        rivals: names of the systems that the others are held against.
    """
    named = {j.name: j for j in judged if j.labels is None}
    made = []
    done: set[frozenset[str]] = set()
    for rival in rivals:
        for name, j in named.items():
            both = frozenset((name, rival))
            if name == rival or rival not in named or both in done:
                continue
            done.add(both)
            at = [i for i, x in enumerate(j.jokes) if x and named[rival].jokes[i]]
            made.append(
                blind_pairs(
                    [setting.prompts[i] for i in at],
                    [j.jokes[i][0] for i in at],
                    [named[rival].jokes[i][0] for i in at],
                    (name, rival),
                )
            )
    return made


def keys(
    made: Sequence[Blinded], judged: Sequence[Judged], setting: Setting
) -> list[dict[str, Any]]:
    """What undoes the blinding, with the reporting critic's verdict on each pair, for results.json.

    `critic` holds P(the first-named system's line is funnier): 1, 0.5, 0, or None.
    """
    named = {j.name: j for j in judged}
    out = []
    for b in made:
        if not b.key:
            continue
        first, second = _systems(b)
        one, two = named[first], named[second]
        match = match_of(_first_only(one), _first_only(two), setting)
        by_text: dict[tuple[str, str, str], float | None] = {}
        for i, prompt in enumerate(setting.prompts):
            if one.jokes[i] and two.jokes[i]:
                row = [] if isinstance(match, str) else match.verdicts[i]
                key = (prompt, str(one.jokes[i][0]), str(two.jokes[i][0]))
                by_text[key] = row[0] if row else None
        place = dict(zip(setting.prompts, setting.ids, strict=True))
        verdicts = {}
        for pair in b.pairs:
            sides = {b.key[pair.id]["a"]: pair.a, b.key[pair.id]["b"]: pair.b}
            verdicts[pair.id] = by_text.get((pair.prompt, sides[first], sides[second]))
        out.append(
            {
                "of": [first, second],
                "key": b.key,
                "prompt": {pair.id: place[pair.prompt] for pair in b.pairs},
                "critic": verdicts,
                "equal": b.equal,
                "lost": b.lost,
            }
        )
    clean: list[dict[str, Any]] = plain_values(out)
    return clean


def read_votes(
    path: Path, known: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, list[str]]:
    """Read votes by pair id.

    Args:
        path: JSONL of `id` and `vote`.
        known: `blind` of results.json; None: any id will do.

    Raises:
        ValueError: file, line number and what is wrong, a pair that is not of this evaluation, or
            no vote at all.
    """
    ids = None if known is None else {i for one in known for i in one["key"]}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--votes {path} cannot be read: {error}") from error
    votes: dict[str, list[str]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"--votes {path}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON: {error.msg}") from error
        if not isinstance(record, dict) or not {"id", "vote"} <= set(record):
            raise ValueError(f"{where}: need an object with 'id' and 'vote'")
        if record["vote"] not in ("a", "b", "tie"):
            raise ValueError(f"{where}: vote is {record['vote']!r}, allowed are a, b, tie")
        named = isinstance(record["id"], str)
        if not named or (ids is not None and record["id"] not in ids):
            raise ValueError(f"{where}: pair {record['id']!r} is not of this evaluation")
        votes.setdefault(record["id"], []).append(record["vote"])
    if not votes:
        raise ValueError(f"--votes {path} has no vote")
    return votes


def count_votes(
    votes: Mapping[str, Sequence[str]], known: Sequence[Mapping[str, Any]], *, seed: int
) -> dict[str, Any]:
    """Agreement of the critic with the votes, and corrected win rates of each comparison.

    Args:
        votes: pair id -> "a", "b" or "tie", one or more.
        known: `blind` of results.json.
        seed: of the bootstrap.

    Returns:
        `agreement` over all pairs (accuracy is the mean of 1 - |verdict - vote|) and
        `comparisons`, one entry for each with votes: `of`, `voted`, `votes` (win rate of the first
        system by the votes, ties half), `critic` (by the critic on the same pairs), `corrected` or
        the `reason` why not.
    """
    said: list[float | None] = []
    wanted: list[float] = []
    whose: list[str] = []
    rows = []
    for one in known:
        first = one["of"][0]
        truth = {
            i: _towards(first, sides, mean_votes(votes[i]))
            for i, sides in one["key"].items()
            if i in votes
        }
        if not truth:
            continue
        verdicts = one["critic"]
        said += [verdicts.get(i) for i in truth]
        wanted += truth.values()
        whose += [one["prompt"][i] for i in truth]
        known_verdicts = [verdicts[i] for i in truth if verdicts.get(i) is not None]
        corrected = rogan_gladen(
            [verdicts.get(i) for i in one["key"]], [truth.get(i) for i in one["key"]]
        )
        fine = isinstance(corrected, Corrected)
        rows.append(
            {
                "of": list(one["of"]),
                "voted": len(truth),
                "votes": sum(truth.values()) / len(truth),
                "critic": sum(known_verdicts) / len(known_verdicts) if known_verdicts else None,
                "corrected": corrected if fine else None,
                "reason": "" if isinstance(corrected, Corrected) else corrected.reason,
            }
        )
    rng = np.random.default_rng(seed)
    # two ties agree: labels, which `agreement` was made for, are never ties
    alike = [None if s is None else 1 - abs(s - w) for s, w in zip(said, wanted, strict=True)]
    share = clustered_mean(alike, whose, rng)
    found = agreement(said, wanted, whose, rng)._replace(accuracy=share)
    clean: dict[str, Any] = plain_values(
        {"pairs": len(votes), "agreement": found, "comparisons": rows}
    )
    return clean


def _systems(b: Blinded) -> tuple[str, str]:
    first, second = b.lost  # in the order of the names that were blinded
    return first, second


def _first_only(j: Judged) -> Judged:
    """The same system with one line a prompt."""
    ratings = None if j.ratings is None else [row[:1] for row in j.ratings]
    return Judged(j.name, [row[:1] for row in j.jokes], ratings=ratings, reason=j.reason)


def _towards(first: str, sides: Mapping[str, str], for_a: float) -> float:
    return for_a if sides["a"] == first else 1 - for_a
