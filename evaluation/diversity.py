"""How alike the lines of a system are: to each other, to their prompts, to what it learned from.

Counts depend on how many lines are looked at, so systems are compared at equal numbers of lines a
prompt. `jokes` is a list per prompt of lists of lines throughout.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from rewards.text import NEAR_COPY, is_near_copy, ngrams, words

Jokes = Sequence[Sequence[str]]


class Phrase(NamedTuple):
    """A sequence of words and the share of lines that hold it."""

    text: str  # "" where no line is long enough
    share: float  # 0-1


def distinct_n(jokes: Jokes, n: int = 2, *, lines: int | None = None) -> float | None:
    """Distinct n-grams / n-grams, 0-1, over `lines` lines of every prompt at once.

    Li et al. 2016, arXiv:1510.03055. With more lines a prompt than `lines`, the mean over
    consecutive blocks of that many, so that no line is wasted and counts stay equal.

    Args:
        jokes: lines per prompt.
        n: words an n-gram.
        lines: lines a prompt and block; by default the smallest number any prompt has.

    Returns:
        The share; None where no line has n words.

    Raises:
        ValueError: a prompt has fewer than `lines` lines, or lines < 1.
    """
    fewest = min((len(row) for row in jokes), default=0)
    size = fewest if lines is None else lines
    if lines is not None and not 1 <= lines <= fewest:
        raise ValueError(f"lines is {lines}, must be in 1..{fewest}, the fewest a prompt has")
    shares = []
    for start in range(0, fewest - size + 1, max(size, 1)):
        grams = [g for row in jokes for line in row[start : start + size] for g in ngrams(line, n)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else None


def self_bleu(jokes: Jokes) -> float | None:
    """How much a prompt's lines repeat each other: mean BLEU-4 of a line against its fellows, 0-1.

    Zhu et al. 2018, arXiv:1802.01886, but within a prompt. Modified precisions above one word are
    smoothed by one (Lin & Och 2004). None where no prompt has two lines.
    """
    means = []
    for row in jokes:
        split = [words(line) for line in row]
        if len(split) > 1:
            scores = [_bleu(w, split[:i] + split[i + 1 :]) for i, w in enumerate(split)]
            means.append(sum(scores) / len(scores))
    return sum(means) / len(means) if means else None


def commonest_opening(jokes: Jokes, n: int = 3) -> Phrase:
    """The n words that most lines begin with."""
    return _commonest((line, ngrams(line, n)[:1]) for row in jokes for line in row)


def commonest_own_phrase(prompts: Sequence[str], jokes: Jokes, n: int = 4) -> Phrase:
    """The n-gram that most lines hold though their prompts do not: a form that takes over."""
    return _commonest(
        (line, set(ngrams(line, n)) - set(ngrams(prompt, n)))
        for prompt, row in zip(prompts, jokes, strict=True)
        for line in row
    )


def near_copy_share(prompts: Sequence[str], jokes: Jokes) -> float:
    """Share of lines that restate their prompt, 0-1."""
    flags = [
        is_near_copy(prompt, line)
        for prompt, row in zip(prompts, jokes, strict=True)
        for line in row
    ]
    return sum(flags) / len(flags) if flags else 0.0


def near_copies_of_any(jokes: Sequence[str], training: Sequence[str]) -> list[bool]:
    """Whether each line restates some training joke.

    A restatement shares 0.8 of either's words, so at least one of the rarest 0.2 + 1 words of the
    joke (prefix filter, Chaudhuri et al. 2006); only training jokes that hold one are compared.
    """
    bags, frequency, holders = _words_index(tuple(training))
    flags = []
    for joke in jokes:
        own = sorted(_numbered(joke), key=lambda w: (frequency[w], w))
        allowed = len(own) - math.ceil(NEAR_COPY * len(own) - 1e-9)
        rare = own[: allowed + 1]
        candidates = {i for w in rare for i in holders.get(w, ())}
        # Shared words in any order bound those in order, and are cheaper to count.
        flags.append(
            any(
                len(bags[i].intersection(own)) >= NEAR_COPY * max(len(bags[i]), len(own)) - 1e-9
                and is_near_copy(training[i], joke)
                for i in sorted(candidates)
            )
        )
    return flags


class _Words(NamedTuple):
    bags: list[frozenset[tuple[str, int]]]  # a text each
    frequency: Counter[tuple[str, int]]  # texts that hold a word
    holders: dict[tuple[str, int], list[int]]  # which


@lru_cache(maxsize=2)  # a table asks about the same training jokes once a system
def _words_index(training: tuple[str, ...]) -> _Words:
    bags = [frozenset(_numbered(text)) for text in training]
    holders: dict[tuple[str, int], list[int]] = defaultdict(list)
    for i, bag in enumerate(bags):
        for w in bag:
            holders[w].append(i)
    return _Words(bags, Counter(w for bag in bags for w in bag), dict(holders))


def longest_overlaps(jokes: Sequence[str], training: Sequence[str]) -> list[int]:
    """Words in the longest run that each line shares with any training joke."""
    source, single, starts = _pairs_index(tuple(training))
    longest = []
    for joke in jokes:
        own = words(joke)
        best = int(any(w in single for w in own))
        for k in range(len(own) - 1):
            for i, at in starts.get((own[k], own[k + 1]), ()):
                best = max(best, _run(own, k, source[i], at))
        longest.append(best)
    return longest


class _Pairs(NamedTuple):
    source: list[list[str]]  # words of each text
    single: set[str]
    starts: dict[tuple[str, str], list[tuple[int, int]]]  # text and place of two words


@lru_cache(maxsize=2)
def _pairs_index(training: tuple[str, ...]) -> _Pairs:
    source = [list(words(text)) for text in training]
    starts: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for i, row in enumerate(source):
        for k in range(len(row) - 1):
            starts[row[k], row[k + 1]].append((i, k))
    return _Pairs(source, {w for row in source for w in row}, dict(starts))


def _run(a: Sequence[str], i: int, b: Sequence[str], j: int) -> int:
    """Length of the common run of a from i and b from j."""
    n = 0
    while i + n < len(a) and j + n < len(b) and a[i + n] == b[j + n]:
        n += 1
    return n


def _numbered(text: str) -> list[tuple[str, int]]:
    """The words of a text, the second "the" apart from the first: a multiset as a set."""
    seen: Counter[str] = Counter()
    out = []
    for w in words(text):
        seen[w] += 1
        out.append((w, seen[w]))
    return out


def _commonest(lines: Iterator[tuple[str, set[tuple[str, ...]] | list[tuple[str, ...]]]]) -> Phrase:
    counts: Counter[tuple[str, ...]] = Counter()
    total = 0
    for _, grams in lines:
        counts.update(grams)
        total += 1
    if not counts:
        return Phrase("", 0.0)
    # Of equal counts the first by alphabet, so that the figure does not hang on set order.
    gram, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return Phrase(" ".join(gram), count / total)


def _bleu(line: Sequence[str], others: Sequence[Sequence[str]]) -> float:
    """Sentence BLEU-4 with smoothing and the brevity penalty of the closest reference length."""
    if not line:
        return 0.0
    logs = []
    for n in range(1, 5):
        own = _counts(line, n)
        known: Counter[tuple[str, ...]] = Counter()
        for other in others:
            known |= _counts(other, n)
        smooth = 0 if n == 1 else 1
        hits = sum((own & known).values()) + smooth
        if not hits:
            return 0.0
        logs.append(math.log(hits / (sum(own.values()) + smooth)))
    closest = min((len(o) for o in others), key=lambda m: (abs(m - len(line)), m))
    penalty = min(0.0, 1 - closest / len(line))
    return math.exp(sum(logs) / 4 + penalty)


def _counts(line: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(line[i : i + n]) for i in range(len(line) - n + 1))
