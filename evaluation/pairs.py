"""Blind pairs of two systems for people or an outside LLM, and the key that undoes the blinding.

The order of a pair is decided by a hash of its text alone: the same pair always looks the same, and
nothing in the file tells which system stands where. The key goes elsewhere.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evaluation.ladder import is_lost

SEPARATOR = "\x1f"


class Pair(NamedTuple):
    """What a judge sees."""

    id: str  # of the pair's text, 16 hexadecimal digits
    prompt: str
    a: str
    b: str


class Blinded(NamedTuple):
    """Pairs of one comparison, and what is not shown with them."""

    pairs: tuple[Pair, ...]
    key: dict[str, dict[str, str]]  # pair id: {"a": system, "b": system}
    equal: int  # prompts left out: both systems wrote the same, a tie
    lost: dict[str, int]  # system: prompts left out because its line is empty or unfinished


def blind_pairs(
    prompts: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    names: tuple[str, str],
) -> Blinded:
    """Pair the lines of two systems, one pair a prompt.

    Args:
        prompts: P sentences.
        first: (P,) lines of the system names[0].
        second: (P,) lines of the system names[1].
        names: of the two systems, different.

    Raises:
        ValueError: lengths differ or the names are the same.
    """
    if not len(prompts) == len(first) == len(second):
        raise ValueError(
            f"blind_pairs got {len(prompts)} prompts, {len(first)} and {len(second)} lines"
        )
    if names[0] == names[1]:
        raise ValueError(f"both systems are called {names[0]!r}, names must differ")
    pairs, key, equal = [], {}, 0
    lost = dict.fromkeys(names, 0)
    for prompt, x, y in zip(prompts, first, second, strict=True):
        for name, line in zip(names, (x, y), strict=True):
            lost[name] += is_lost(line)
        if is_lost(x) or is_lost(y):
            continue
        if x.strip() == y.strip():
            equal += 1
            continue
        low, high = sorted((str(x), str(y)))
        digest = _digest(prompt, low, high)
        a, b = (high, low) if int(digest[-1], 16) % 2 else (low, high)
        pair = Pair(digest[:16], prompt, a, b)
        if pair.id not in key:  # a prompt that stands twice with the same lines
            pairs.append(pair)
            key[pair.id] = dict(zip("ab", names if a == x else names[::-1], strict=True))
    return Blinded(tuple(pairs), key, equal, lost)


def to_jsonl(blinded: Sequence[Blinded]) -> str:
    """The file of pairs of several comparisons, ordered by id so that they mix; no key in it."""
    pairs = {pair.id: pair for b in blinded for pair in b.pairs}
    return "".join(json.dumps(pairs[i]._asdict()) + "\n" for i in sorted(pairs))


def unblind(votes: Mapping[str, str], key: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    """Wins of each system, ties half, from votes "a", "b" or "tie" by pair id.

    Raises:
        ValueError: a vote that is none of the three, or for a pair that is not in the key.
    """
    wins = dict.fromkeys(sorted({name for sides in key.values() for name in sides.values()}), 0.0)
    for i, vote in votes.items():
        if i not in key:
            raise ValueError(f"vote for pair {i!r}, which is not in the key")
        if vote not in ("a", "b", "tie"):
            raise ValueError(f"vote for pair {i!r} is {vote!r}, allowed are a, b, tie")
        for side, name in key[i].items():
            wins[name] += 0.5 if vote == "tie" else float(vote == side)
    return wins


def _digest(*texts: str) -> str:
    joined = SEPARATOR.join(["punchline pair", *texts])
    return hashlib.sha256(joined.encode("utf-8", errors="surrogatepass")).hexdigest()
