"""The pairwise judges that TRL had until its release 1.0, both ways.

A judge there answers 0 or 1, the index of the best, or -1 where it failed. TRL un-flipped the -1
of a shuffled pair into a 2 and its trainers read all but 0 as "the second is better", so failures
became labels; here -1 is None before anything is turned round.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from rewards.calls import as_number, ask_numbers, checked_length, critic_name
from rewards.foreign import ForeignCounts, Numbers, Text, text_of
from rewards.prior import shown_order
from rewards.protocols import Judge


class PairwiseJudge:
    """A critic with the interface of TRL's former `BasePairwiseJudge`; by `to_pairwise_judge`."""

    def __init__(self, critic: Judge, seed: int) -> None:
        """See `to_pairwise_judge`."""
        if not isinstance(critic, Judge):
            raise ValueError(f"to_pairwise_judge got {critic_name(critic)}, need a judge (compare)")
        self.critic, self._seed = critic, seed
        self.counts = ForeignCounts()

    def judge(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Sequence[Text]],
        shuffle_order: bool = True,
    ) -> list[int]:
        """Return the index of the best of each pair; -1 without a verdict.

        A tie goes by a coin thrown by content. Mind the -1: TRL's trainers took it for "second".

        Raises:
            ValueError: lengths differ, or a row is not of two completions.
        """
        scores = self.scores(prompts, completions, shuffle_order)
        best = []
        for prompt, pair, p in zip(prompts, completions, scores, strict=True):
            if p is None:
                best.append(-1)
            elif p == 0.5:
                winner = shown_order(*_texts(prompt, pair), self._seed + 1)[0]
                best.append(0 if winner == _texts(prompt, pair)[1] else 1)
            else:
                best.append(int(p < 0.5))
        return best

    def scores(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Sequence[Text]],
        shuffle_order: bool = True,
    ) -> Numbers:
        """Return P(the first of each pair is better); None without a verdict.

        Args:
            prompts: strings or chat messages.
            completions: two for each prompt.
            shuffle_order: whether a coin thrown by content decides which one the critic sees first.

        Raises:
            ValueError: lengths differ, or a row is not of two completions.
        """
        if len(prompts) != len(completions) or any(len(pair) != 2 for pair in completions):
            raise ValueError(
                f"judge got {len(prompts)} prompts and {len(completions)} rows, need as many, of 2"
            )
        rows = [_texts(p, pair) for p, pair in zip(prompts, completions, strict=True)]
        return _in_order(self._ask, rows, shuffle_order, self._seed)

    def _ask(self, prompts: list[str], a: list[str], b: list[str]) -> Numbers:
        call = partial(self.critic.compare, prompts, a, b)
        name = critic_name(self.critic)
        return ask_numbers(call, len(a), name, self.counts.causes, low=0.0, high=1.0)


def to_pairwise_judge(critic: Judge, *, seed: int = 0) -> PairwiseJudge:
    """A judge for code written for TRL's former `BasePairwiseJudge` (``judge() -> list[int]``).

    Args:
        critic: a Judge; `BothOrders` of one needs no shuffling.
        seed: another coin for orders and ties.

    Raises:
        ValueError: not a judge.
    """
    return PairwiseJudge(critic, seed)


class SupportsJudge(Protocol):
    """What is used of TRL's former `BasePairwiseJudge`."""

    def judge(
        self, prompts: list[str], completions: list[list[str]], shuffle_order: bool = True
    ) -> Sequence[float]:
        """Return 0 or 1, the best of each pair, or -1 where there is no verdict."""
        ...


class FromPairwiseJudge:
    """A `Judge` made of a pairwise judge of TRL; made by `from_pairwise_judge`."""

    def __init__(
        self, judge: SupportsJudge, name: str, return_scores: bool, shuffle_order: bool, seed: int
    ) -> None:
        """See `from_pairwise_judge`."""
        if not callable(getattr(judge, "judge", None)):
            raise ValueError(f"from_pairwise_judge got a {type(judge).__name__} without judge()")
        self.name = name or critic_name(judge)
        self.counts = ForeignCounts()
        self._judge, self._shuffle, self._seed = judge, shuffle_order, seed
        self._more = {"return_scores": True} if return_scores else {}

    def compare(self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> Numbers:
        """Return P(a[i] better than b[i]): 1 or 0, or the judge's own; None without a verdict.

        Raises:
            ValueError: lengths differ, or the judge gave another number of answers.
        """
        if not len(prompts) == len(a) == len(b):
            raise ValueError(
                f"compare got {len(prompts)} prompts, {len(a)} jokes a and {len(b)} jokes b"
            )
        rows = list(zip(prompts, a, b, strict=True))
        return _in_order(self._ask, rows, self._shuffle, self._seed) if rows else []

    def _ask(self, prompts: list[str], a: list[str], b: list[str]) -> Numbers:
        pairs = [[x, y] for x, y in zip(a, b, strict=True)]
        # Never the judge's own shuffling: it un-flips a -1 into a rank, by an unseeded coin.
        answers = self._judge.judge(prompts, pairs, shuffle_order=False, **self._more)
        checked = checked_length(answers, len(pairs), self.name)
        return [self._first_is_better(x) for x in checked]

    def _first_is_better(self, answer: object) -> float | None:
        causes = self.counts.causes
        if self._more:
            return as_number(answer, causes, low=0.0, high=1.0, name=self.name)
        rank = as_number(answer, causes, name=self.name)
        if rank in (0.0, 1.0):
            return 1.0 - float(rank or 0.0)
        if rank is not None:  # -1, or a number that is no index
            causes["no verdict" if rank == -1 else "out of range"] += 1
        return None


def from_pairwise_judge(
    judge: SupportsJudge,
    *,
    name: str = "",
    return_scores: bool = False,
    shuffle_order: bool = False,
    seed: int = 0,
) -> Judge:
    """An object with the interface of TRL's former `BasePairwiseJudge` as a `Judge`.

    -1 is None before anything is turned round, and so is every rank but 0 and 1.

    Args:
        judge: with ``judge(prompts, completions, shuffle_order) -> list[int]``.
        name: for logs; by default its class's.
        return_scores: ask for P(first) instead, as `PairRMJudge` could.
        shuffle_order: let a coin thrown by content decide which joke is shown first; for use
            without `BothOrders`, which asks for both.
        seed: another coin.

    Raises:
        ValueError: it has no method judge.
    """
    return FromPairwiseJudge(judge, name, return_scores, shuffle_order, seed)


def _texts(prompt: Text, pair: Sequence[Text]) -> tuple[str, str, str]:
    first, second = (text_of(x, "assistant") for x in pair)
    return text_of(prompt, "user"), first, second


def _in_order(
    ask: Callable[[list[str], list[str], list[str]], Numbers],
    rows: Sequence[tuple[str, str, str]],
    shuffle: bool,
    seed: int,
) -> Numbers:
    """P(a better) of (prompt, a, b) rows, asked in the order that content decides, or as given."""
    shown = [shown_order(p, a, b, seed) if shuffle else (a, b) for p, a, b in rows]
    answers = ask([p for p, _, _ in rows], [x for x, _ in shown], [y for _, y in shown])
    return [
        None if p is None else p if first == a else 1.0 - p  # None first: 1 - (-1) is no verdict
        for p, (first, _), (_, a, _) in zip(answers, shown, rows, strict=True)
    ]
