"""Reward functions of verifiers (legacy rubrics and v1's `@reward`) as a critic.

There an exception counts 0.0, the worst joke; here it is no verdict, counted by its name.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewards.calls import as_number, checked_length, critic_name
from rewards.foreign import (
    ForeignCounts,
    Numbers,
    declared,
    gathered,
    message,
    refuse_unsupplied,
)
from rewards.protocols import Scorer

SINGLE = ("prompt", "completion", "task", "state", "info")
"""What every call is given; a group function asks for these with an "s"."""


class FromVerifiers:
    """A `Scorer` made of a reward function of verifiers; made by `from_verifiers`."""

    def __init__(
        self,
        func: Callable[..., Any],
        name: str,
        chat: bool,
        supply: Callable[[str, str], Mapping[str, object]] | None,
        key: str,
    ) -> None:
        """See `from_verifiers`."""
        if not callable(func):
            raise ValueError(f"from_verifiers needs a function, got a {type(func).__name__}")
        self.name = name or critic_name(func)
        self.counts = ForeignCounts()
        self._func, self._chat, self._supply, self._key = func, chat, supply, key
        plurals = {f"{word}s" for word in (*SINGLE, "answer", "trace")}
        self._group = bool(plurals & set(inspect.signature(func).parameters))
        names = {f"{word}s" for word in SINGLE} if self._group else set(SINGLE)
        refuse_unsupplied(func, names, self.name, known=supply is not None)

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> Numbers:
        """Return the function's rewards; None where it raised, or gave None or no finite number.

        Raises:
            ValueError: lengths differ; a group function gave another number of answers; or keyed
                scores came and no key was named.
        """
        if len(prompts) != len(jokes):
            raise ValueError(f"score got {len(prompts)} prompts and {len(jokes)} jokes")
        rows = [self._row(p, j) for p, j in zip(prompts, jokes, strict=True)]
        if not self._group:
            return [self._number(x) for x in self._outcomes(rows)]
        groups: dict[str, list[int]] = {}
        for i, prompt in enumerate(prompts):
            groups.setdefault(prompt, []).append(i)
        calls = [
            {f"{name}s": [rows[i][name] for i in members] for name in rows[members[0]]}
            for members in groups.values()
        ]
        scores: Numbers = [None] * len(jokes)
        for members, outcome in zip(groups.values(), self._outcomes(calls), strict=True):
            if isinstance(outcome, BaseException):
                self.counts.causes[type(outcome).__name__] += len(members)
                continue
            for i, x in zip(members, checked_length(outcome, len(members), self.name), strict=True):
                scores[i] = self._number(x)
        return scores

    def _row(self, prompt: str, joke: str) -> dict[str, Any]:
        """Named arguments of one joke; what `supply` gives comes last and wins."""
        given = dict(self._supply(prompt, joke)) if self._supply is not None else {}
        asked = message("user", prompt, self._chat)
        answer = message("assistant", joke, self._chat)
        row = {k: v for k, v in given.items() if k not in SINGLE}
        return {
            "prompt": asked,
            "completion": answer,
            "task": {"prompt": asked, **row},
            "state": {"prompt": asked, "completion": answer},
            "info": {},
            **given,
        }

    def _outcomes(self, calls: Sequence[Mapping[str, Any]]) -> list[Any]:
        """What each call returned, or the exception that it raised."""
        outcomes: list[Any] = []
        for given in calls:
            try:
                outcomes.append(self._func(**declared(self._func, given)))
            except Exception as error:  # their contract: a function may raise; kept, then counted
                outcomes.append(error)
        waiting = [i for i, outcome in enumerate(outcomes) if inspect.isawaitable(outcome)]
        if waiting:
            done = gathered([outcomes[i] for i in waiting])
            for i, outcome in zip(waiting, done, strict=True):
                outcomes[i] = outcome
        return outcomes

    def _number(self, outcome: object) -> float | None:
        if isinstance(outcome, BaseException):
            self.counts.causes[type(outcome).__name__] += 1
            return None
        if isinstance(outcome, Mapping):
            if not self._key:
                raise ValueError(
                    f"{self.name} gives the scores {', '.join(map(str, outcome))}; name one by key="
                )
            outcome = outcome.get(self._key)
        return as_number(outcome, self.counts.causes, name=self.name)


def from_verifiers(
    func: Callable[..., Any],
    *,
    name: str = "",
    chat: bool = True,
    supply: Callable[[str, str], Mapping[str, object]] | None = None,
    key: str = "",
) -> Scorer:
    """A reward function of verifiers, plain or async, as a `Scorer`.

    It gets those arguments that it declares: ``prompt``, ``completion``, ``task`` and ``state``
    (mappings that hold them), ``info`` (empty), and what `supply` adds. A function that declares
    plural names (``completions``, ``states``, ...) is called once for all jokes of a prompt.
    Coroutines of one call run together. Its weight (`@reward(weight=...)`) is not applied: terms
    have weights of their own.

    Args:
        func: the function, or a bound method of a task.
        name: for logs; by default the function's.
        chat: whether prompt and completion are chat messages, as verifiers' own are, or strings.
        supply: (prompt, joke) -> further arguments: ``answer``, ``trace``, ``judge``, ...
        key: which score counts, for a function that returns several by name.

    Raises:
        ValueError: no function, or it declares an argument that nobody supplies.
    """
    return FromVerifiers(func, name, chat, supply, key)
