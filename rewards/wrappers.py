"""Wrappers that take a known bias out of a critic and are critics themselves."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rewards.calls import as_number, as_numbers, checked_length, critic_name
from rewards.protocols import Judge, Ranker


@dataclass
class OrderCounts:
    """What `BothOrders` has seen so far."""

    pairs: int = 0
    """Pairs with a verdict in both orders."""
    flips: int = 0
    """Pairs whose winner changed with the order."""
    clipped: int = 0
    """Verdicts (two a pair) that were clipped."""
    margin: float = 0.0
    """Sum of |p - 0.5| over pairs."""

    def metrics(self) -> dict[str, float]:
        """Shares over all pairs so far; empty before the first one."""
        if not self.pairs:
            return {}
        return {
            "critic/flip_rate": self.flips / self.pairs,
            "critic/clipped_share": self.clipped / (2 * self.pairs),
            "critic/margin": self.margin / self.pairs,
        }


@dataclass(frozen=True)
class BothOrders:
    """Ask a judge about each pair in both orders and average, so that the slot cannot decide.

        logit p = (logit p_ab - logit p_ba) / 2,   p_ab = P(a funnier | a shown first)
                                                   p_ba = P(b funnier | b shown first)

    An additive preference for a slot, in logits, cancels; other biases stay. Hard verdicts are
    clipped, so a judge that always picks one slot gives 0.5. Costs two questions a pair.
    compare(a, b) + compare(b, a) is exactly 1 for a judge that repeats itself.

    Source: balanced position calibration, Wang et al. 2023, arXiv:2305.17926, in logit space.
    """

    judge: Judge
    clip: float = 1e-4
    """Probabilities are kept in [clip, 1 - clip] before the logit; 0 < clip < 0.5."""
    counts: OrderCounts = field(default_factory=OrderCounts, compare=False)

    def __post_init__(self) -> None:
        """Check the clip."""
        if not 0 < self.clip < 0.5:
            raise ValueError(f"BothOrders needs 0 < clip < 0.5, got {self.clip}")

    @property
    def name(self) -> str:
        """The wrapped judge's name."""
        return critic_name(self.judge)

    def compare(
        self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]
    ) -> list[float | None]:
        """Return P(a[i] funnier than b[i]) in (0, 1); None where either order gave no verdict.

        Raises:
            ValueError: the three sequences differ in length, or the judge's answers do.
        """
        n = len(prompts)
        if not n == len(a) == len(b):
            raise ValueError(f"compare got {n} prompts, {len(a)} jokes a and {len(b)} jokes b")
        answers = self.judge.compare([*prompts, *prompts], [*a, *b], [*b, *a])  # one call
        p = as_numbers(answers, 2 * n, self.name, low=0.0, high=1.0)
        return [self._mean(ab, ba) for ab, ba in zip(p[:n], p[n:], strict=True)]

    def _mean(self, ab: float | None, ba: float | None) -> float | None:
        if ab is None or ba is None:
            return None
        logit = (self._logit(ab) - self._logit(ba)) / 2
        # From the side >= 0.5, where 1 - p is exact: the two orders then add up to exactly 1.
        high = 1 / (1 + math.exp(-abs(logit)))
        self.counts.pairs += 1
        self.counts.flips += (ab - 0.5) * (ba - 0.5) > 0
        self.counts.clipped += sum(not self.clip <= x <= 1 - self.clip for x in (ab, ba))
        self.counts.margin += high - 0.5
        return high if logit >= 0 else 1 - high

    def _logit(self, p: float) -> float:
        p = min(max(p, self.clip), 1 - self.clip)
        return math.log(p) - math.log1p(-p)


@dataclass(frozen=True)
class ShuffledRanks:
    """Ask a ranker about each group in several orders and average, so that the slot cannot decide.

    The orders depend on the seed and on the group's content alone, neither on the order in which
    the jokes came nor on the rest of the batch. They are rotations of one shuffled order, spread
    evenly: with as many permutations as jokes, each joke stands once in every slot. Equal jokes get
    equal scores. One order without a verdict = None.
    """

    ranker: Ranker
    permutations: int = 4
    """How often each group is asked; >= 1."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the number of orders."""
        if self.permutations < 1:
            raise ValueError(f"ShuffledRanks needs permutations >= 1, got {self.permutations}")

    @property
    def name(self) -> str:
        """The wrapped ranker's name."""
        return critic_name(self.ranker)

    def rank(
        self, prompts: Sequence[str], groups: Sequence[Sequence[str]]
    ) -> list[list[float] | None]:
        """Return the mean score of each joke of `groups[i]` over the orders.

        Raises:
            ValueError: lengths differ, or the ranker's answers have other lengths than asked.
        """
        if len(prompts) != len(groups):
            raise ValueError(f"rank got {len(prompts)} prompts and {len(groups)} groups")
        shown = [self._orders(p, g) for p, g in zip(prompts, groups, strict=True)]
        answers = checked_length(
            self.ranker.rank(
                [p for p, orders in zip(prompts, shown, strict=True) for _ in orders],
                [order for orders in shown for order in orders],
            ),
            len(groups) * self.permutations,
            self.name,
        )
        scores: list[list[float] | None] = []
        for i, group in enumerate(groups):
            own = answers[i * self.permutations : (i + 1) * self.permutations]
            scores.append(self._mean(group, shown[i], own))
        return scores

    def _orders(self, prompt: str, group: Sequence[str]) -> list[list[str]]:
        jokes = sorted(group)
        content = repr((self.seed, prompt, jokes)).encode("utf-8", "surrogatepass")
        rng = np.random.default_rng(list(hashlib.sha256(content).digest()))
        orders: list[list[str]] = []
        while len(orders) < self.permutations and jokes:
            base = [jokes[i] for i in rng.permutation(len(jokes))]
            turns = min(self.permutations - len(orders), len(jokes))
            starts = [turn * len(jokes) // turns for turn in range(turns)]
            orders.extend([*base[start:], *base[:start]] for start in starts)
        return orders or [[] for _ in range(self.permutations)]

    def _mean(
        self,
        group: Sequence[str],
        orders: list[list[str]],
        answers: Sequence[list[float] | None],
    ) -> list[float] | None:
        collected: dict[str, list[float]] = {joke: [] for joke in group}
        for order, answer in zip(orders, answers, strict=True):
            if answer is None:
                return None
            checked = checked_length(answer, len(order), self.name)
            for joke, value in zip(order, checked, strict=True):
                number = as_number(value, name=self.name)
                if number is None:
                    return None
                collected[joke].append(number)
        return [math.fsum(collected[joke]) / len(collected[joke]) for joke in group]
