"""Critics of known bias: what the machinery is tested with, and `--critic fake:NAME`.

All answer by content alone: the same question gets the same answer, whatever the batch.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rewards.protocols import Critic, Judge, Ranker, Scorer
from rewards.text import common_subsequence, recall, words


@dataclass(frozen=True)
class AlwaysFirst:
    """A judge that prefers what it is shown first."""

    confidence: float = 1.0
    """P(the first joke is funnier), 0.5-1."""
    name: str = "fake:always-first"

    def compare(
        self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]
    ) -> list[float | None]:
        """Return `confidence` for every pair."""
        return [self.confidence for _ in zip(prompts, a, b, strict=True)]


@dataclass(frozen=True)
class LongerWins:
    """A judge that prefers the joke with more words; equal lengths are a tie."""

    name: str = "fake:longer-wins"

    def compare(
        self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]
    ) -> list[float | None]:
        """Return 1, 0.5 or 0 by the number of words."""
        lengths = [(len(words(x)), len(words(y))) for _, x, y in zip(prompts, a, b, strict=True)]
        return [0.5 if x == y else float(x > y) for x, y in lengths]


@dataclass(frozen=True)
class CountsWord:
    """A scorer that counts one word: the solved task on which a trainer must learn."""

    word: str = "the"
    name: str = "fake:counts-word"

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return how often the word stands in each joke."""
        wanted = self.word.lower()
        return [float(words(j).count(wanted)) for _, j in zip(prompts, jokes, strict=True)]


@dataclass(frozen=True)
class CopiesWin:
    """A scorer that likes what resembles the prompt: 1 for a copy, 0 for other words."""

    name: str = "fake:copies-win"

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return the common word subsequence's share of the longer of prompt and joke."""
        pairs = [(words(p), words(j)) for p, j in zip(prompts, jokes, strict=True)]
        return [common_subsequence(p, j) / max(len(p), len(j), 1) for p, j in pairs]


@dataclass(frozen=True)
class Honest:
    """A scorer without a bias: a hidden table of qualities, or 10 times recall where none is given.

    With a table, a joke that is not in it gets no verdict.
    """

    quality: Mapping[tuple[str, str], float] | None = None
    """(prompt, joke) -> quality."""
    name: str = "fake:honest"

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return each joke's quality."""
        asked = zip(prompts, jokes, strict=True)
        if self.quality is None:
            return [10 * recall(p, j) for p, j in asked]
        return [self.quality.get((p, j)) for p, j in asked]


@dataclass(frozen=True)
class ScorerAsJudge:
    """A judge made of a scorer: P(a funnier) = sigmoid(score a - score b + slot).

    `slot` is an additive preference for the first place, in logits; `BothOrders` cancels it.
    """

    scorer: Scorer
    slot: float = 0.0
    name: str = "fake:honest-judge"

    def compare(
        self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]
    ) -> list[float | None]:
        """Return the win probability of each first joke; None where either has no score."""
        n = len(prompts)
        scores = self.scorer.score([*prompts, *prompts], [*a, *b])
        return [
            None if x is None or y is None else 1 / (1 + math.exp(y - x - self.slot))
            for x, y in zip(scores[:n], scores[n:], strict=True)
        ]


@dataclass(frozen=True)
class ScorerAsRanker:
    """A ranker made of a scorer; each place further back in the list costs `slot`."""

    scorer: Scorer
    slot: float = 0.0
    name: str = "fake:honest-ranker"

    def rank(
        self, prompts: Sequence[str], groups: Sequence[Sequence[str]]
    ) -> list[list[float] | None]:
        """Return a score for each joke of each group; None where one has no score."""
        ranks: list[list[float] | None] = []
        for prompt, group in zip(prompts, groups, strict=True):
            scores = self.scorer.score([prompt] * len(group), group)
            known = [x - self.slot * i for i, x in enumerate(scores) if x is not None]
            ranks.append(known if len(known) == len(group) else None)
        return ranks


def fails(share: float, seed: int, *content: object) -> bool:
    """Whether the question `content` is among the `share` that fails; by content and seed alone."""
    digest = hashlib.sha256(repr((seed, content)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


@dataclass(frozen=True)
class FailingScorer:
    """A scorer that gives no verdict on a share of its jokes."""

    scorer: Scorer
    share: float
    seed: int = 0
    name: str = "fake:random-failures"

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return the wrapped scores, some of them None."""
        return [
            None if fails(self.share, self.seed, p, j) else x
            for p, j, x in zip(prompts, jokes, self.scorer.score(prompts, jokes), strict=True)
        ]


@dataclass(frozen=True)
class FailingJudge:
    """A judge that gives no verdict on a share of its questions (a pair in one order)."""

    judge: Judge
    share: float
    seed: int = 0
    name: str = "fake:random-failures"

    def compare(
        self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]
    ) -> list[float | None]:
        """Return the wrapped verdicts, some of them None."""
        answers = self.judge.compare(prompts, a, b)
        return [
            None if fails(self.share, self.seed, *question) else x
            for *question, x in zip(prompts, a, b, answers, strict=True)
        ]


@dataclass(frozen=True)
class FailingRanker:
    """A ranker that gives no verdict on a share of its groups."""

    ranker: Ranker
    share: float
    seed: int = 0
    name: str = "fake:random-failures"

    def rank(
        self, prompts: Sequence[str], groups: Sequence[Sequence[str]]
    ) -> list[list[float] | None]:
        """Return the wrapped ranks, some of them None."""
        return [
            None if fails(self.share, self.seed, p, tuple(g)) else x
            for p, g, x in zip(prompts, groups, self.ranker.rank(prompts, groups), strict=True)
        ]


def failing(critic: Critic, share: float, seed: int = 0) -> Critic:
    """Wrap a critic of any kind so that a share of its questions, fixed by content, fails.

    Raises:
        ValueError: `share` is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"random failures need a share in [0, 1], got {share}")
    if isinstance(critic, Scorer):
        return FailingScorer(critic, share, seed)
    if isinstance(critic, Judge):
        return FailingJudge(critic, share, seed)
    return FailingRanker(critic, share, seed)


def _honest_judge(slot: str = "0") -> Critic:
    return ScorerAsJudge(Honest(), float(slot))


def _honest_ranker(slot: str = "0") -> Critic:
    return ScorerAsRanker(Honest(), float(slot))


def _always_first(confidence: str = "1") -> Critic:
    return AlwaysFirst(float(confidence))


def _counts_word(word: str = "the") -> Critic:
    return CountsWord(word)


def _random_failures(of: str = "honest", share: str = "0.2", seed: str = "0") -> Critic:
    if of not in FAKES or of == "random-failures":
        others = [name for name in FAKES if name != "random-failures"]
        raise ValueError(f"of is {of!r}, allowed are {', '.join(others)}")
    return failing(FAKES[of](), float(share), int(seed))


FAKES: dict[str, Callable[..., Critic]] = {
    "always-first": _always_first,
    "longer-wins": LongerWins,
    "counts-word": _counts_word,
    "copies-win": CopiesWin,
    "honest": Honest,
    "honest-judge": _honest_judge,
    "honest-ranker": _honest_ranker,
    "random-failures": _random_failures,
}
"""Factories by the names of `--critic fake:NAME`; their arguments are strings (`--critic-arg`)."""
