"""What an embedded critic looks at: a joke's hidden states, its likelihood, and words it shares.

Pure functions, numpy in and out. `pooled` numbers go through a PCA, `plain` ones do not.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rewards.text import (
    common_subsequence,
    content_words,
    is_near_copy,
    precision,
    recall,
    words,
)

Array = NDArray[np.float32]

POOLINGS = ("mean", "last", "first", "max", "tail", "spread")
"""How a joke's token states become one vector a layer; `last` is the end token's state."""

TEXT_NAMES = (
    "recall",
    "precision",
    "kept",  # longest common word subsequence over the prompt's words
    "borrowed",  # the same over the joke's words
    "length_ratio",
    "length",
    "recall_squared",
    "kept_squared",
    "equal",
    "near_copy",
    "run",  # longest copied run of words over the prompt's words
    "tail_new",  # share of the last third of the joke's words that the prompt lacks
    "new_words",  # content words of the joke's own
    "distinct",  # distinct words over words
    "commas",
    "sentences",
    "question",
    "ends",  # whether a full stop, ! or ? ends the joke
)
LIKELIHOOD_NAMES = (
    "logp_mean",
    "logp_min",
    "logp_end",  # of the end token
    "logp_low",  # 10th percentile
    "logp_median",
    "logp_head",  # mean over the first third
    "logp_middle",
    "logp_tail",  # mean over the last third: where a punchline stands
    "logp_std",
    "logp_sum",
)
PLAIN_NAMES = (*TEXT_NAMES, *LIKELIHOOD_NAMES)


class Features(NamedTuple):
    """One joke as numbers."""

    pooled: Array  # (layers * poolings * hidden,) layer-major, poolings in the order asked for
    plain: Array  # (len(PLAIN_NAMES),)


def features(
    prompt: str, joke: str, states: Array, logps: Array, poolings: Sequence[str] = ("mean", "last")
) -> Features:
    """Describe one joke.

    Args:
        prompt: the literal sentence.
        joke: the joke; may be empty.
        states: (T, layers, hidden) at the joke's own tokens, the end token last.
        logps: (T,) natural log-probabilities of the same tokens.
        poolings: names out of `POOLINGS`.

    Raises:
        ValueError: no tokens, lengths that differ, numbers that are not finite, unknown pooling.
    """
    if states.ndim != 3 or logps.ndim != 1 or not len(logps) or len(states) != len(logps):
        raise ValueError(
            f"features needs states (T, layers, hidden) and logps (T,) with one T >= 1, "
            f"got {states.shape} and {logps.shape}"
        )
    if not (np.isfinite(states).all() and np.isfinite(logps).all()):
        raise ValueError(f"states or logps of {joke[:60]!r} are not finite")
    return Features(pool(states, poolings), plain_features(prompt, joke, logps))


def pool(states: Array, poolings: Sequence[str]) -> Array:
    """Turn (T, layers, hidden) into (layers * poolings * hidden,); see `POOLINGS`."""
    unknown = [p for p in poolings if p not in POOLINGS]
    if unknown or not poolings:
        raise ValueError(f"poolings are {list(poolings)}, allowed are {', '.join(POOLINGS)}")
    own = states[:-1] if len(states) > 1 else states  # without the end token
    third = max(1, len(own) // 3)
    parts = []
    for name in poolings:
        match name:
            case "mean":
                parts.append(own.mean(0))
            case "last":
                parts.append(states[-1])
            case "first":
                parts.append(own[0])
            case "max":
                parts.append(own.max(0))
            case "tail":
                parts.append(own[-third:].mean(0))
            case "spread":
                parts.append(own.std(0))
    return np.stack(parts, axis=1).reshape(-1).astype(np.float32)


def plain_features(prompt: str, joke: str, logps: Array) -> Array:
    """Return the numbers of `PLAIN_NAMES` in their order."""
    return np.concatenate([text_features(prompt, joke), likelihood_features(logps)])


def text_features(prompt: str, joke: str) -> Array:
    """Return the numbers of `TEXT_NAMES`: what a reader without a model can count."""
    asked, said = words(prompt), words(joke)
    common = common_subsequence(asked, said)
    kept, share = common / max(1, len(asked)), recall(prompt, joke)
    third = max(1, len(said) // 3)
    known = set(asked)
    tail = said[-third:] if said else []
    return np.array(
        [
            share,
            precision(prompt, joke),
            kept,
            common / max(1, len(said)),
            len(said) / max(1, len(asked)),
            len(said),
            share**2,
            kept**2,
            asked == said,
            is_near_copy(prompt, joke),
            longest_run(asked, said) / max(1, len(asked)),
            sum(w not in known for w in tail) / max(1, len(tail)),
            len(content_words(joke) - content_words(prompt)),
            len(set(said)) / max(1, len(said)),
            joke.count(","),
            len(re.findall(r"[.!?]+", joke)),
            "?" in joke,
            joke.rstrip().endswith((".", "!", "?")),
        ],
        dtype=np.float32,
    )


def likelihood_features(logps: Array) -> Array:
    """Return the numbers of `LIKELIHOOD_NAMES` from (T,) log-probabilities, the end token last."""
    own = logps[:-1] if len(logps) > 1 else logps
    head, middle, tail = np.array_split(own, 3) if len(own) >= 3 else (own, own, own)
    return np.array(
        [
            own.mean(),
            own.min(),
            logps[-1],
            np.quantile(own, 0.1),
            np.median(own),
            head.mean(),
            middle.mean(),
            tail.mean(),
            own.std(),
            own.sum(),
        ],
        dtype=np.float32,
    )


def longest_run(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest run of words that stands in both lists."""
    best, row = 0, [0] * (len(b) + 1)
    for x in a:
        row = [0] + [row[j] + 1 if x == y else 0 for j, y in enumerate(b)]
        best = max(best, *row)
    return best
