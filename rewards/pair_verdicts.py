"""Ask a critic of any kind which of two jokes is funnier, in both orders, and note what it took.

A Scorer is asked once a joke and has no order; a Judge twice a pair; a Ranker once a list and once
for the list turned round, so that of every two jokes each stands before the other once.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rewards.calls import ask, ask_numbers, checked_length, critic_name
from rewards.protocols import Critic, Judge, Ranker, Scorer
from rewards.wrappers import BothOrders

BATCH = 64
"""Questions a call: enough for a critic that answers many at once, few enough to show progress."""
LONGEST_LIST = 12
"""Jokes a list; a prompt with more of them is asked pair by pair."""


class JokePair(NamedTuple):
    """Two jokes for one prompt."""

    prompt: str
    a: str
    b: str


class PairVerdicts(NamedTuple):
    """Answers about N pairs, P(a is funnier); None where there is no verdict."""

    first: list[float | None]  # a shown first
    second: list[float | None]  # b shown first; of a Scorer the same as `first`
    mean: list[float | None]  # both orders averaged: a tie is exactly 0.5
    margin: list[float | None]  # signed, in the critic's own unit: score difference, or mean - 0.5


class _Answers(NamedTuple):
    """A judge whose answers are known already: what `BothOrders` averages here."""

    answers: Sequence[float | None]

    def compare(
        self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]
    ) -> list[float | None]:
        """Return the answers."""
        return list(self.answers)


def kind_of(critic: Critic) -> str:
    """`scorer`, `judge` or `ranker`: the first of the three that the critic is.

    Raises:
        ValueError: it is none of them.
    """
    for name, protocol in (("scorer", Scorer), ("judge", Judge), ("ranker", Ranker)):
        if isinstance(critic, protocol):
            return name
    raise ValueError(f"critic {critic_name(critic)} has none of the methods score, compare, rank")


@dataclass
class PairAsker:
    """Asks one critic about pairs; counts questions, seconds and causes of failure.

    Failed calls are None, counted by cause (`rewards.calls`). A Scorer's answers are kept by
    content, so a joke that stands in many pairs is asked about once.
    """

    critic: Critic
    batch: int = BATCH
    """Questions a call, >= 1."""
    progress: Callable[[str, int, int], None] = lambda what, done, total: None
    """Told after every call: of what, how many pairs are done, of how many."""
    questions: int = 0
    """Verdicts asked for: jokes of a Scorer, ordered pairs of a Judge, lists of a Ranker."""
    seconds: float = 0.0
    """Wall clock inside the critic."""
    causes: Counter[str] = field(default_factory=Counter)
    """Why verdicts are missing."""
    scores: dict[tuple[str, str], float | None] = field(default_factory=dict)
    """A Scorer's answers by (prompt, joke)."""

    def __post_init__(self) -> None:
        """Check the batch and the critic."""
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}, must be >= 1")
        self.kind = kind_of(self.critic)
        self.name = critic_name(self.critic)

    def ask(
        self, pairs: Sequence[JokePair], what: str = "pairs", *, listwise: bool = False
    ) -> PairVerdicts:
        """Ask about every pair.

        Args:
            pairs: N pairs; equal ones may repeat.
            what: told to `progress`.
            listwise: let a Ranker see all jokes of a prompt in one list instead of two at a time.
        """
        if isinstance(self.critic, Scorer):
            return self._scored(self.critic, pairs, what)
        if isinstance(self.critic, Judge):
            return self._judged(self.critic, pairs, what)
        return self._ranked(self.critic, pairs, what, listwise)

    def _scored(self, critic: Scorer, pairs: Sequence[JokePair], what: str) -> PairVerdicts:
        lines = dict.fromkeys((p.prompt, j) for p in pairs for j in (p.a, p.b))
        new = [line for line in lines if line not in self.scores]
        for at in range(0, len(new), self.batch):
            part = new[at : at + self.batch]
            prompts, jokes = [p for p, _ in part], [j for _, j in part]
            with _Clock(self, len(part)):
                answers = ask_numbers(
                    lambda p=prompts, j=jokes: critic.score(p, j),  # type: ignore[misc]
                    len(part),
                    self.name,
                    self.causes,
                )
            self.scores |= dict(zip(part, answers, strict=True))
            self.progress(what, at + len(part), len(new))
        margins: list[float | None] = []
        for p in pairs:
            a, b = self.scores[p.prompt, p.a], self.scores[p.prompt, p.b]
            margins.append(None if a is None or b is None else a - b)
        wins = [None if m is None else _win(m) for m in margins]
        return PairVerdicts(wins, wins, wins, margins)

    def _judged(self, critic: Judge, pairs: Sequence[JokePair], what: str) -> PairVerdicts:
        out = PairVerdicts([], [], [], [])
        for at in range(0, len(pairs), self.batch):
            part = pairs[at : at + self.batch]
            prompts, a, b = ([p[i] for p in part] for i in range(3))
            n = len(part)
            with _Clock(self, 2 * n):
                answers = ask_numbers(
                    lambda p=prompts, x=a, y=b: critic.compare([*p, *p], [*x, *y], [*y, *x]),  # type: ignore[misc]
                    2 * n,
                    self.name,
                    self.causes,
                    low=0.0,
                    high=1.0,
                )
            mean = BothOrders(_Answers(answers)).compare(prompts, a, b)
            out.first.extend(answers[:n])
            out.second.extend(None if p is None else 1 - p for p in answers[n:])
            out.mean.extend(mean)
            out.margin.extend(None if p is None else p - 0.5 for p in mean)
            self.progress(what, at + n, len(pairs))
        return out

    def _ranked(
        self, critic: Ranker, pairs: Sequence[JokePair], what: str, listwise: bool
    ) -> PairVerdicts:
        groups: dict[tuple[str, int], list[str]] = {}  # (prompt, list) -> its jokes
        home: list[tuple[str, int]] = []
        by_prompt: dict[str, list[str]] = {}
        for p in pairs:
            by_prompt.setdefault(p.prompt, []).extend((p.a, p.b))
        for i, p in enumerate(pairs):
            together = list(dict.fromkeys(by_prompt[p.prompt]))
            whole = listwise and len(together) <= LONGEST_LIST
            place = (p.prompt, -1 if whole else i)
            groups[place] = sorted(together, key=_digest) if whole else [p.a, p.b]
            home.append(place)
        places = list(groups)
        there: dict[tuple[str, int], list[float | None]] = {}
        back: dict[tuple[str, int], list[float | None]] = {}
        for at in range(0, len(places), self.batch):
            part = places[at : at + self.batch]
            lists = [groups[x] for x in part]
            back_to_front = [x[::-1] for x in lists]
            prompts = [x[0] for x in part]
            n = len(part)
            with _Clock(self, 2 * n):
                answers = ask(
                    lambda p=prompts, x=lists, y=back_to_front: critic.rank([*p, *p], [*x, *y]),  # type: ignore[misc]
                    2 * n,
                    self.name,
                    self.causes,
                )
            for k, x in enumerate(part):
                straight, turned = (
                    (answers[k], answers[n + k]) if answers is not None else (None, None)
                )
                there[x] = self._listed(straight, len(lists[k]))
                back[x] = self._listed(turned, len(lists[k]))[::-1]
            self.progress(what, at + n, len(places))
        out = PairVerdicts([], [], [], [])
        for p, place in zip(pairs, home, strict=True):
            i, j = groups[place].index(p.a), groups[place].index(p.b)
            orders = _difference(there[place], i, j), _difference(back[place], i, j)
            ab, ba = orders if i <= j else orders[::-1]
            mean = None if ab is None or ba is None else (ab + ba) / 2
            out.first.append(None if ab is None else _win(ab))
            out.second.append(None if ba is None else _win(ba))
            out.mean.append(None if mean is None else _win(mean))
            out.margin.append(mean)
        return out

    def _listed(self, answer: Sequence[float] | None, n: int) -> list[float | None]:
        if answer is None:
            return [None] * n
        known = checked_length(answer, n, self.name)
        return ask_numbers(lambda: known, n, self.name, self.causes)


@dataclass
class _Clock:
    """Counts a call and its wall clock, also where it raises."""

    asker: PairAsker
    questions: int

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.asker.seconds += time.perf_counter() - self.start
        self.asker.questions += self.questions


def _win(margin: float) -> float:
    return 0.5 if margin == 0 else float(margin > 0)


def _difference(scores: Sequence[float | None], i: int, j: int) -> float | None:
    x, y = scores[i], scores[j]
    return None if x is None or y is None else x - y


def _digest(joke: str) -> bytes:
    return hashlib.sha256(joke.encode("utf-8", "surrogatepass")).digest()
