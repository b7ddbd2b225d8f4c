"""The three questions a critic can answer. Implement one; everything else is lifted.

None is not a number: a failed, refused, unparsable or over-budget call answers None, and None never
becomes a reward, a tie or a label (design section 4).
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Scorer(Protocol):
    """How funny is each joke, alone?"""

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return one finite number a joke, higher is funnier; None without a verdict."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Which of two jokes is funnier?"""

    def compare(
        self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]
    ) -> list[float | None]:
        """Return P(a[i] is funnier than b[i]) in [0, 1], a shown first; None without a verdict."""
        ...


@runtime_checkable
class Ranker(Protocol):
    """How do all jokes of one prompt compare?"""

    def rank(
        self, prompts: Sequence[str], groups: Sequence[Sequence[str]]
    ) -> list[list[float] | None]:
        """Return a score for each joke of `groups[i]`, higher is funnier; None: no verdict."""
        ...


Critic = Scorer | Judge | Ranker
