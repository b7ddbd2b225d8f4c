"""Terms of the weighted sum beside the critic: fact kept, and prices on what a policy drifts to."""

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rewards.calls import checked_length, critic_name
from rewards.text import ngrams, recall, words
from rewards.types import Rater, Rating

FULL_COST_AT = 0.08
"""A phrase that this share of lines has in excess of the start student's costs 1."""


@runtime_checkable
class Stateful(Protocol):
    """A critic or term that changes with use; its state is part of the checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes with use, JSON-serialisable."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`."""
        ...


class SharedRatings:
    """A rater whose last ratings are kept, so that two terms of one step ask it once."""

    def __init__(self, rater: Rater, keep: int = 1024) -> None:
        """Keep the last `keep` ratings of `rater`."""
        self.rater = rater
        self.name = critic_name(rater)
        self._keep = keep
        self._known: OrderedDict[tuple[str, str], Rating] = OrderedDict()

    def forget(self) -> None:
        """Drop what is kept."""
        self._known.clear()

    def rate(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[Rating | None]:
        """Rate each joke; a missing rating is not kept, so it is asked for again."""
        asked = list(zip(prompts, jokes, strict=True))
        new = [key for key in dict.fromkeys(asked) if key not in self._known]
        answers: dict[tuple[str, str], Rating | None] = {k: self._known.get(k) for k in asked}
        if new:
            fresh = self.rater.rate([p for p, _ in new], [j for _, j in new])
            answers.update(zip(new, checked_length(fresh, len(new), self.name), strict=True))
        for key, rating in answers.items():
            if rating is not None:
                self._known[key] = rating
                self._known.move_to_end(key)
        while len(self._known) > self._keep:
            self._known.popitem(last=False)
        return [answers[key] for key in asked]


@dataclass(frozen=True)
class FactKept:
    """P(the prompt's fact is kept) by a rater, as a term in [0, 1]."""

    rater: Rater
    lowest: float = 0.0
    """The least this term can be; the floor of gated jokes lies below it."""

    @property
    def name(self) -> str:
        """The rater's name with the question."""
        return f"{critic_name(self.rater)} (fact)"

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return P(fact kept) of each joke; None without a rating."""
        return [r if r is None else r.fact for r in self.rater.rate(prompts, jokes)]


def own_phrases(prompt: str, joke: str) -> frozenset[tuple[str, ...]]:
    """The phrases of 2-3 words of `joke` that are not in `prompt`."""
    return frozenset(g for n in (2, 3) for g in {*ngrams(joke, n)} - {*ngrams(prompt, n)})


@dataclass(frozen=True)
class Brevity:
    """A line pays for every word beyond the start student's usual length.

        score = -min(1, max(0, words / usual - 1))

    Labels do not care about length (within-prompt correlation -.03), but a policy that adds a tail
    to the prompt grows by a quarter in forty updates (docs/log.md): what pays for nothing, drifts.
    """

    usual: float
    """Mean words of the start student's lines, > 0."""
    lowest: float = -1.0
    name: str = "brevity"

    def __post_init__(self) -> None:
        """Check the length."""
        if not self.usual > 0:
            raise ValueError(f"brevity needs a usual length > 0 words, got {self.usual}")

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return minus the cost of each line, in [-1, 0]."""
        return [-min(1.0, max(0.0, len(words(j)) / self.usual - 1)) + 0.0 for j in jokes]


@dataclass(frozen=True)
class Overlap:
    """A line pays for keeping more of the prompt than most lines of the start student do.

        score = -max(0, recall - usual) / (1 - usual)

    The labels reward recall up to about .7 and nothing beyond: the start's lines at 0.7 rate 1.7,
    2.0, 2.2 and 2.5 by recall below .3, .5, .7 and .85, its greedy ones 2.6 throughout. A critic's
    slope, and a control that is linear in recall, go on, and a policy would follow them into
    repeating the prompt (docs/log.md).
    """

    usual: float
    """Recall of the prompt's content words that costs nothing, in [0, 1)."""
    lowest: float = -1.0
    name: str = "overlap"

    def __post_init__(self) -> None:
        """Check the recall."""
        if not 0 <= self.usual < 1:
            raise ValueError(f"overlap needs a usual recall in [0, 1), got {self.usual}")

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return minus the cost of each line, in [-1, 0]."""
        return [
            -max(0.0, recall(p, j) - self.usual) / (1 - self.usual) + 0.0
            for p, j in zip(prompts, jokes, strict=True)
        ]


class Novelty:
    """A line pays for a phrase of its own that too many recent lines share.

        score = -max over own phrases g of min(1, max(0, share(g) - start(g)) / 0.08)
        share(g) = other lines among the last `window` that have g as a phrase of their own / window
        start(g) = share of the start student's lines that have it

    So a fresh line scores 0 and a form that takes over costs up to 1. The batch itself is in the
    window when its lines are priced: else a whole batch could collapse in one step for nothing. The
    divisor is `window` from the first step on, as though fresh lines had gone before. Each call of
    `score` moves the window: one call a step, jokes of evaluation elsewhere.

    Source: what mended the collapse of the first RL run on this corpus (docs/log.md).
    """

    name = "novelty"
    lowest = -1.0

    def __init__(self, start_lines: Sequence[tuple[str, str]], window: int = 512) -> None:
        """Count the phrases of the start student.

        Args:
            start_lines: (prompt, joke) pairs of the start student at training temperature.
            window: how many of the last lines are counted, >= 1.

        Raises:
            ValueError: no start lines, or an empty window.
        """
        if not start_lines or window < 1:
            raise ValueError(
                f"novelty needs start lines and window >= 1, got {len(start_lines)} and {window}"
            )
        counts = Counter(g for prompt, joke in start_lines for g in own_phrases(prompt, joke))
        self._start = {g: n / len(start_lines) for g, n in counts.items() if n > 1}
        self._size = window
        self._lines: deque[frozenset[tuple[str, ...]]] = deque()
        self._counts: Counter[tuple[str, ...]] = Counter()

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return minus the cost of each line, in [-1, 0], and take the lines into the window."""
        batch = [own_phrases(p, j) for p, j in zip(prompts, jokes, strict=True)]
        self._push(batch)
        size = max(self._size, len(batch))
        return [-min(1.0, self._excess(phrases, size) / FULL_COST_AT) + 0.0 for phrases in batch]

    def state_dict(self) -> dict[str, Any]:
        """The phrases of the last lines, JSON-serialisable."""
        return {"lines": [sorted(" ".join(g) for g in line) for line in self._lines]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`."""
        self._lines.clear()
        self._counts.clear()
        self._push([frozenset(tuple(g.split(" ")) for g in line) for line in state["lines"]])

    def _push(self, batch: Sequence[frozenset[tuple[str, ...]]]) -> None:
        for line in batch:
            self._lines.append(line)
            self._counts.update(line)
        while len(self._lines) > max(self._size, len(batch)):
            self._counts.subtract(self._lines.popleft())
        self._counts = +self._counts

    def _excess(self, phrases: frozenset[tuple[str, ...]], size: int) -> float:
        shares = ((self._counts[g] - 1) / size - self._start.get(g, 0.0) for g in phrases)
        return max(0.0, *shares, 0.0)
