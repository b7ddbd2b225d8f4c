"""Measures of plain text that gates, critics and tables share: words, recall, copies."""

import re
from collections.abc import Sequence
from functools import lru_cache

STOP_WORDS = frozenset(
    """a about after again all am an and any are as at be because been before being both but
    by can could did do does doing don down during each even ever every few for from further
    get gets got had has have having he her here hers him his how i if in into is it its
    just like ll m me more most my no nor not now of off on once one only or other our out
    over own re s same she so some such t than that the their them then there these they
    this those through to too under until up us ve very was we were what when where which
    while who whom why will with would you your""".split()
)
"""Words that carry no fact of the prompt. Recall does not count them."""

NEAR_COPY = 0.8
"""A restatement shares this much of the prompt's words *and* of the joke's, in order."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


def words(text: str) -> list[str]:
    """Lower-case words of `text`; apostrophes stay inside a word, all other marks are dropped."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


@lru_cache(maxsize=65536)
def content_words(text: str) -> frozenset[str]:
    """The words of `text` that are not in the stop list, without contracted endings."""
    return frozenset(w for w in (x.split("'")[0] for x in words(text)) if w not in STOP_WORDS)


def recall(prompt: str, joke: str) -> float:
    """Share of the prompt's content words that the joke keeps, 0-1; 0 for a prompt without any."""
    wanted = content_words(prompt)
    return len(wanted & content_words(joke)) / len(wanted) if wanted else 0.0


def precision(prompt: str, joke: str) -> float:
    """Share of the joke's content words that stand in the prompt, 0-1; 0 for a joke without any."""
    used = content_words(joke)
    return len(used & content_words(prompt)) / len(used) if used else 0.0


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence of two word lists."""
    best = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, start=1):
            above = best[j]
            best[j] = diagonal + 1 if x == y else max(above, best[j - 1])
            diagonal = above
    return best[-1]


def is_near_copy(source: str, joke: str) -> bool:
    """Whether `joke` restates `source`: common subsequence >= 0.8 of either's words."""
    a, b = words(source), words(joke)
    if not a or not b or min(len(a), len(b)) < NEAR_COPY * max(len(a), len(b)):
        return a == b
    return common_subsequence(a, b) >= NEAR_COPY * max(len(a), len(b))


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """The n-grams of the words of `text`, in order, repeats kept."""
    w = words(text)
    return [tuple(w[i : i + n]) for i in range(len(w) - n + 1)]
