"""A critic of any kind whose answers are kept in a ledger: each question is asked once."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rewards.calls import FAILURES, as_number, checked_length, critic_name
from rewards.ledger import Ledger, Record, key_of
from rewards.types import Rating

Question = tuple[Any, ...]
Reading = Callable[[Any, Question], Record]
_BESIDE_THE_SCORE = ("amusing", "fact", "out_of_domain")


class Recorded:
    """Ask a critic only what the ledger does not know, and keep what it answers.

    Has exactly those of the methods `score`, `compare`, `rank` and `rate` that the critic has. The
    order in which jokes are shown is part of the question. Equal questions of a call are asked
    once; all that are new go out in one call and come back in the order they were asked in.

    A failed call (`rewards.calls.FAILURES`) is kept as well: its questions get None, by cause, and
    again when the run is resumed; answers that were already known stand. Any other exception is a
    bug and propagates, with nothing kept.

    Every question counts as one request of the budget. What it costs inside the critic is not
    seen here; a critic that pays for tokens keeps its own records.

    Args:
        critic: the critic.
        ledger: where its answers are kept.
        identity: what decides the answers beside the name, plain values: arguments, hash of the
            weights. Two critics of equal name and identity share their answers.

    Raises:
        ValueError: (methods) columns of different lengths, or the critic answered another number
            of questions than asked.
        BudgetReached: (methods) the new questions would pass the budget; none was asked.
        NotRecorded: (methods) on replay, a question without an answer.
    """

    # Set where the critic has them; a class with four methods would claim to answer everything.
    score: Callable[[Sequence[str], Sequence[str]], list[float | None]]
    compare: Callable[[Sequence[str], Sequence[str], Sequence[str]], list[float | None]]
    rank: Callable[[Sequence[str], Sequence[Sequence[str]]], list[list[float] | None]]
    rate: Callable[[Sequence[str], Sequence[str]], list[Rating | None]]

    def __init__(self, critic: object, ledger: Ledger, *, identity: Sequence[object] = ()) -> None:
        self.critic = critic
        self.ledger = ledger
        self.name = critic_name(critic)
        self._identity = list(identity)
        own = {
            "score": self._score,
            "compare": self._compare,
            "rank": self._rank,
            "rate": self._rate,
        }
        known = {name: method for name, method in own.items() if hasattr(critic, name)}
        if not known:
            raise ValueError(
                f"critic {self.name} has none of the methods {', '.join(own)}: nothing to record"
            )
        for name, method in known.items():
            setattr(self, name, method)

    def _score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        records = self._records("score", (prompts, jokes), lambda x, _: self._number(x))
        return [_number_of(r) for r in records]

    def _compare(
        self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]
    ) -> list[float | None]:
        records = self._records(
            "compare", (prompts, a, b), lambda x, _: self._number(x, low=0.0, high=1.0)
        )
        return [_number_of(r) for r in records]

    def _rank(
        self, prompts: Sequence[str], groups: Sequence[Sequence[str]]
    ) -> list[list[float] | None]:
        lists = [list(group) for group in groups]
        records = self._records("rank", (prompts, lists), lambda x, q: self._ranks(x, len(q[1])))
        return [list(r.value) if isinstance(r.value, list) else None for r in records]

    def _rate(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[Rating | None]:
        records = self._records("rate", (prompts, jokes), lambda x, _: self._rating(x))
        return [_rating_of(r) for r in records]

    def _records(
        self, method: str, columns: tuple[Sequence[Any], ...], read: Reading
    ) -> list[Record]:
        """One record a question, in their order; `read` makes one of an answer to a question."""
        lengths = [len(column) for column in columns]
        if len(set(lengths)) > 1:
            raise ValueError(f"{method} of {self.name} got columns of lengths {lengths}")
        questions = list(zip(*columns, strict=True))
        keys = [key_of("recorded", self.name, self._identity, method, *q) for q in questions]
        unique: dict[str, Question] = {}
        for key, question in zip(keys, questions, strict=True):
            unique.setdefault(key, question)
        known = self.ledger.find_many(list(unique))
        new = [key for key in unique if key not in known]
        if new:
            ticket = self.ledger.reserve(requests=len(new))
            try:
                answers = self._ask(method, [unique[key] for key in new], read)
                asked = dict(zip(new, answers, strict=True))
                self.ledger.record_many(asked.items(), self.name, ticket=ticket)
            except BaseException:
                self.ledger.release(ticket)
                raise
            known |= asked
        return [known[key] for key in keys]

    def _ask(self, method: str, questions: list[Question], read: Reading) -> list[Record]:
        columns = [list(column) for column in zip(*questions, strict=True)]
        began = time.perf_counter()
        try:
            answers = getattr(self.critic, method)(*columns)
        except FAILURES as error:
            failed = Record(None, str(error), cause=type(error).__name__)
            records = [failed] * len(questions)
        else:
            checked = checked_length(answers, len(questions), self.name)
            records = [read(x, q) for x, q in zip(checked, questions, strict=True)]
        each = (time.perf_counter() - began) / len(questions)
        return [record._replace(seconds=each) for record in records]

    def _number(self, answer: object, *, low: float = -math.inf, high: float = math.inf) -> Record:
        causes: Counter[str] = Counter()
        value = as_number(answer, causes, low=low, high=high, name=self.name)
        return Record(value, cause="".join(causes))

    def _ranks(self, answer: Any, n: int) -> Record:
        if answer is None:
            return self._number(None)
        records = [self._number(x) for x in checked_length(answer, n, self.name)]
        for record in records:
            if record.value is None:  # a ranking is of all jokes or there is none
                return record
        return Record([x for x in map(_number_of, records) if x is not None])

    def _rating(self, answer: Rating | None) -> Record:
        if answer is None:
            return self._number(None)
        record = self._number(answer.score)
        rest = {name: float(getattr(answer, name)) for name in _BESIDE_THE_SCORE}
        return record if record.value is None else record._replace(extra=rest)


def _number_of(record: Record) -> float | None:
    return None if isinstance(record.value, list) else record.value


def _rating_of(record: Record) -> Rating | None:
    score = _number_of(record)
    if score is None:
        return None
    amusing, fact, out_of_domain = (record.extra[name] for name in _BESIDE_THE_SCORE)
    return Rating(score, amusing, fact, bool(out_of_domain))
