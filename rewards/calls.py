"""Asking a critic: what its failures become, and what its answers must look like.

A call that fails gives None for every joke it asked about, counted by cause; an answer of the wrong
length is a broken critic and raises; a number that is none (NaN, infinite, out of range) is None.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class CriticError(Exception):
    """A critic raises this when it cannot answer: its jokes stay unscored, the run goes on."""


FAILURES = (CriticError, TimeoutError, ConnectionError, OSError)
"""What counts as a failed call. Any other exception is a bug of the critic and propagates."""


def critic_name(critic: object) -> str:
    """The critic's own `name`, else its `__name__`, else the name of its class."""
    for attribute in ("name", "__name__"):
        name = getattr(critic, attribute, None)
        if isinstance(name, str) and name:
            return name
    return type(critic).__name__


def critic_metrics(critic: object) -> dict[str, float]:
    """Figures of a critic (its `counts`, else its own `metrics`) and of those that it wraps."""
    found: dict[str, float] = {}
    while critic is not None:
        metrics = getattr(getattr(critic, "counts", critic), "metrics", None)
        if callable(metrics):
            found |= metrics()
        wrapped = (getattr(critic, name, None) for name in ("critic", "judge", "ranker", "scorer"))
        critic = next((inner for inner in wrapped if inner is not None), None)
    return found


def checked_length(answers: Sequence[T], n: int, name: str) -> Sequence[T]:
    """Return `answers` if there are `n` of them.

    Raises:
        ValueError: another number of answers, or no sequence at all; one answer for a whole batch
            is never spread over it.
    """
    if isinstance(answers, str) or not hasattr(answers, "__len__"):  # arrays are welcome
        raise ValueError(f"critic {name} answered {type(answers).__name__}, need a list of {n}")
    if len(answers) != n:
        raise ValueError(f"critic {name} gave {len(answers)} answers for {n} questions")
    return answers


def as_number(
    value: object,
    causes: Counter[str] | None = None,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    name: str = "critic",
) -> float | None:
    """Return `value` as a float; None, its cause counted, where it is no number in [low, high].

    Raises:
        ValueError: `value` is neither None nor a real number.
    """
    if value is None:
        cause = "no verdict"
    else:
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            kind = type(value).__name__
            raise ValueError(f"critic {name} answered a {kind}, need a number or None") from None
        if math.isfinite(number) and low <= number <= high:
            return number
        cause = "out of range" if math.isfinite(number) else "not finite"
    if causes is not None:
        causes[cause] += 1
    return None


def as_numbers(
    answers: Sequence[object],
    n: int,
    name: str,
    causes: Counter[str] | None = None,
    *,
    low: float = -math.inf,
    high: float = math.inf,
) -> list[float | None]:
    """Check a batch of answers: `checked_length`, then `as_number` on each."""
    return [
        as_number(x, causes, low=low, high=high, name=name)
        for x in checked_length(answers, n, name)
    ]


def ask(
    call: Callable[[], Sequence[T]], n: int, name: str, causes: Counter[str]
) -> Sequence[T] | None:
    """Ask one batch of `n` questions; None, counted `n` times by the error's name, if that fails.

    Raises:
        ValueError: the critic answered another number of questions.
    """
    try:
        answers = call()
    except FAILURES as error:
        causes[type(error).__name__] += n
        return None
    return checked_length(answers, n, name)


def ask_numbers(
    call: Callable[[], Sequence[object]],
    n: int,
    name: str,
    causes: Counter[str],
    *,
    low: float = -math.inf,
    high: float = math.inf,
) -> list[float | None]:
    """Ask for `n` numbers in [low, high]: `ask`, then `as_number` on each; no call for n = 0."""
    if n == 0:
        return []
    answers = ask(call, n, name, causes)
    if answers is None:
        return [None] * n
    return as_numbers(answers, n, name, causes, low=low, high=high)
