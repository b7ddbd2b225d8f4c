"""A judge's preference for a slot, estimated without labels and divided out of single verdicts.

`BothOrders` asks every pair twice. Here only a sample is; what the two orders of the sample share
is the judge's prior over slots, and every later pair costs one question.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rewards.calls import as_numbers, critic_name
from rewards.protocols import Judge

Pair = tuple[str, str, str]
"""(prompt, joke shown first, joke shown second)."""


def content_digest(*parts: object) -> bytes:
    """SHA-256 of the parts' text: randomness that depends on content alone."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).digest()


def shown_order(prompt: str, a: str, b: str, seed: int = 0) -> tuple[str, str]:
    """Which of two jokes is shown first: a coin thrown by content, whichever way they came."""
    low, high = min(a, b), max(a, b)
    return (low, high) if content_digest(seed, prompt, low, high)[0] % 2 else (high, low)


@dataclass
class PriorCounts:
    """What `PriorRemoved` knows about its judge."""

    first: dict[str, float] = field(default_factory=dict)
    """P_prior(first slot) of each estimation pair, by the pair's digest."""
    single: int = 0
    """Pairs answered from one order."""

    def metrics(self) -> dict[str, float]:
        """The prior, how far single pairs stray from it, and the share asked once."""
        if not self.first:
            return {}
        logits = [_logit(p) for p in self.first.values()]
        mean = math.fsum(logits) / len(logits)
        spread = math.sqrt(math.fsum((x - mean) ** 2 for x in logits) / len(logits))
        return {
            "critic/prior_first": math.fsum(self.first.values()) / len(self.first),
            "critic/prior_spread": spread,
            "critic/prior_pairs": float(len(self.first)),
            "critic/single_order_pairs": float(self.single),
        }


class PriorRemoved:
    """A judge whose preference for a slot is divided out. PriDe, Zheng et al. 2024.

        P_prior(first | pair) = softmax over slots of the mean log P_obs(slot) over both orders
        P_prior(first) = mean of P_prior(first | pair) over K estimation pairs
        P(a funnier)  is proportional to  P_obs(slot of a) / P_prior(slot of a)

    An additive preference in logits is removed exactly; a preference that depends on the jokes
    stays, and `metrics` shows it as ``critic/prior_spread`` (logits, standard deviation over the
    estimation pairs). Estimation pairs are answered from their own two orders, as in the paper.

    Differences from the paper: two slots, so its permutations are the two orders; the K pairs are
    those with the smallest content hash among the first ones asked, so neither the order of a batch
    nor a generator decides; each other pair is shown in an order fixed by its content, so
    compare(a, b) + compare(b, a) is exactly 1 for a judge that repeats itself. An estimation
    pair stays one that is asked in both orders; without both verdicts it is replaced by another.
    Two equal texts are a tie, unasked.

    Args:
        judge: asked about pairs.
        estimate: K, pairs asked in both orders, >= 1. The prior's standard error in logits is
            ``critic/prior_spread`` / sqrt(K).
        clip: probabilities are kept in [clip, 1 - clip] before the logit; 0 < clip < 0.5.
        seed: another choice of shown orders and estimation pairs.

    Source: arXiv:2309.03882.

    Raises:
        ValueError: `estimate` or `clip` is out of range.
    """

    def __init__(
        self, judge: Judge, *, estimate: int = 64, clip: float = 1e-4, seed: int = 0
    ) -> None:
        """See the class."""
        if estimate < 1:
            raise ValueError(f"PriorRemoved needs estimate >= 1 pairs, got {estimate}")
        if not 0 < clip < 0.5:
            raise ValueError(f"PriorRemoved needs 0 < clip < 0.5, got {clip}")
        self.judge, self.estimate, self.clip, self.seed = judge, estimate, clip, seed
        self.counts = PriorCounts()

    @property
    def name(self) -> str:
        """The wrapped judge's name."""
        return critic_name(self.judge)

    @property
    def prior(self) -> float | None:
        """P_prior(first slot), 0-1; None before the K estimation pairs are known."""
        known = self.counts.first
        return math.fsum(known.values()) / len(known) if len(known) >= self.estimate else None

    def compare(
        self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]
    ) -> list[float | None]:
        """Return P(a[i] funnier than b[i]) in (0, 1); None without a verdict.

        Raises:
            ValueError: the three sequences differ in length, or the judge's answers do.
        """
        if not len(prompts) == len(a) == len(b):
            raise ValueError(
                f"compare got {len(prompts)} prompts, {len(a)} jokes a and {len(b)} jokes b"
            )
        shown = [
            (p, *shown_order(p, x, y, self.seed)) for p, x, y in zip(prompts, a, b, strict=True)
        ]
        pairs = [q for q in dict.fromkeys(shown) if q[1] != q[2]]
        logits = self._logits(pairs)  # of "the joke shown first is funnier", prior removed
        return [
            0.5 if x == y else _probability(logits[q], flipped=q[1] != x)
            for x, y, q in zip(a, b, shown, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """The estimation pairs' priors and counts, JSON-serialisable."""
        return {
            "estimate": self.estimate,
            "first": dict(self.counts.first),
            "single": self.counts.single,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`.

        Raises:
            ValueError: the state was made with another `estimate`.
        """
        if state["estimate"] != self.estimate:
            raise ValueError(
                f"the state's prior rests on {state['estimate']} pairs, need {self.estimate}"
            )
        self.counts.first = {str(key): float(p) for key, p in state["first"].items()}
        self.counts.single = int(state["single"])

    def _logits(self, pairs: list[Pair]) -> dict[Pair, float | None]:
        """Debiased logits; pairs are asked once where the prior is known, else in both orders.

        One call of the judge, unless estimation pairs fail: then the next ones by hash are asked.
        """
        known = [pair for pair in pairs if self._key(pair) in self.counts.first]
        queue = iter(sorted(set(pairs) - set(known), key=self._key))
        twice = known + list(islice(queue, self._missing()))
        observed = self._ask(pairs + [_swapped(pair) for pair in twice])
        while True:
            for pair in twice:
                self._learn(pair, observed[pair], observed[_swapped(pair)])
            twice = list(islice(queue, self._missing()))
            if not twice:
                break
            observed |= self._ask([_swapped(pair) for pair in twice])
        prior = self.prior
        return {pair: self._debiased(pair, observed, prior) for pair in pairs}

    def _debiased(
        self,
        pair: Pair,
        observed: Mapping[Pair, float | None],
        prior: float | None,
    ) -> float | None:
        first = observed[pair]
        if _swapped(pair) in observed:  # asked in both orders: its own prior, not the mean
            second = observed[_swapped(pair)]
            return None if first is None or second is None else (first - second) / 2
        self.counts.single += first is not None
        # every pair that was asked once has K estimation pairs behind it
        return None if first is None or prior is None else first - _logit(prior)

    def _learn(self, pair: Pair, ab: float | None, ba: float | None) -> None:
        if ab is not None and ba is not None:
            self.counts.first[self._key(pair)] = 1 / (1 + math.exp(-(ab + ba) / 2))

    def _missing(self) -> int:
        return max(0, self.estimate - len(self.counts.first))

    def _ask(self, pairs: Sequence[Pair]) -> dict[Pair, float | None]:
        """Logits of P(the joke shown first is funnier)."""
        if not pairs:
            return {}
        answers = self.judge.compare(
            [p for p, _, _ in pairs], [x for _, x, _ in pairs], [y for _, _, y in pairs]
        )
        numbers = as_numbers(answers, len(pairs), self.name, low=0.0, high=1.0)
        return {
            pair: None if p is None else _logit(min(max(p, self.clip), 1 - self.clip))
            for pair, p in zip(pairs, numbers, strict=True)
        }

    def _key(self, pair: Pair) -> str:
        return content_digest("estimate", self.seed, *pair).hex()[:16]


def _swapped(pair: Pair) -> Pair:
    prompt, first, second = pair
    return prompt, second, first


def _logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)


def _probability(logit: float | None, *, flipped: bool) -> float | None:
    if logit is None:
        return None
    # From the side >= 0.5, where 1 - p is exact: the two directions then add up to exactly 1.
    high = 1 / (1 + math.exp(-abs(logit)))
    return high if (logit >= 0) != flipped else 1 - high
