"""What a server that calls itself OpenAI-compatible really gives, found with one question.

A server that refuses a field says so (400) and is asked again without it. One that takes a field
and drops it, as several do with ``logprobs`` and ``max_completion_tokens``, shows in its answer.
"""

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from rewards.calls import CriticError
from rewards.openai_answer import Answer

MOST_LOGPROBS = 20
"""The documented most."""
_FEWER = {20: 10, 10: 5, 5: 0}
_TRIES = 9
_REFUSED_FIELD = (400, 422)
# What may follow a model's name in the answer: a snapshot's date, a revision, the default tag.
_SNAPSHOT = re.compile(r"-\d{4}(?:-\d{2}-\d{2}|\d{4})?|@.*|:latest")


class Settings(NamedTuple):
    """How this server is asked."""

    logprobs: int = MOST_LOGPROBS  # alternatives a token; 0: it gives none, or none are wanted
    limit: str = "max_tokens"  # the field's name, or "max_completion_tokens"
    temperature: bool = True  # whether it takes one
    seed: bool = True

    def options(self, limit: int, temperature: float, seed: int | None) -> dict[str, Any]:
        """The fields of a request of at most `limit` tokens."""
        fields: dict[str, Any] = {self.limit: limit}
        if self.logprobs:
            fields |= {"logprobs": True, "top_logprobs": self.logprobs}
        if self.temperature:
            fields["temperature"] = temperature
        if self.seed and seed is not None:
            fields["seed"] = seed
        return fields

    def without(self, complaint: str) -> "Settings | None":
        """What to try after a refusal; None: nothing is left to leave out."""
        complaint = complaint.lower()
        if "max_completion_tokens" in complaint and self.limit == "max_tokens":
            return self._replace(limit="max_completion_tokens")
        if "logprob" in complaint and self.logprobs:
            return self._replace(logprobs=_FEWER[self.logprobs])
        if "temperature" in complaint and self.temperature:
            return self._replace(temperature=False)
        if "seed" in complaint and self.seed:
            return self._replace(seed=False)
        return self._replace(logprobs=0) if self.logprobs else None

    def to_text(self) -> str:
        """JSON, for the ledger."""
        return json.dumps(self._asdict())

    @classmethod
    def from_text(cls, text: str) -> "Settings":
        """Undo of `to_text`."""
        return cls(**json.loads(text))


async def negotiate(
    ask: Callable[[Settings], Awaitable[tuple[Answer, int]]],
    model: str,
    settings: Settings,
    paid: list[Answer],
) -> Settings:
    """Find the settings that the server takes.

    Args:
        ask: asks one question with some settings; returns the answer and the limit of tokens asked.
        model: who should answer.
        settings: the richest to try.
        paid: takes in every answer that may cost something, the last one by the settings returned.

    Raises:
        ValueError: it refuses the question whatever is left out, the key, or the model.
        CriticError: it cannot be asked now.
    """
    for _ in range(_TRIES):
        answer, limit = await ask(settings)
        if answer.status in _REFUSED_FIELD and answer.cause == "server":
            poorer = settings.without(answer.detail)
            if poorer is None:
                raise ValueError(f"the server refuses the question: {answer.detail}")
            settings = poorer
            continue
        paid.append(answer)
        check_model(model, answer)
        if answer.cause not in ("", "truncated"):  # one token is too few for hidden reasoning
            raise CriticError(f"the server cannot be asked: {answer.cause} {answer.detail}".strip())
        if (answer.completion_tokens or 0) > limit and settings.limit == "max_tokens":
            settings = settings._replace(limit="max_completion_tokens")  # it was ignored
            continue
        if settings.logprobs and answer.tops is None:
            settings = settings._replace(logprobs=0)  # accepted and dropped
        return settings
    raise ValueError(f"the server refused {_TRIES} forms of the question")


def check_model(model: str, answer: Answer) -> None:
    """Refuse an answer that nothing will change.

    Raises:
        ValueError: the key is refused, the model is not there, or another model answered.
    """
    if answer.cause == "auth":
        raise ValueError(f"the server refuses the key ({answer.detail})")
    if answer.cause == "model":
        raise ValueError(f"the server does not serve {model!r}: {answer.detail}")
    if answer.model and not same_model(model, answer.model):
        raise ValueError(
            f"asked for {model!r}, but {answer.model!r} answered; name that one if it is meant"
        )


def same_model(asked: str, served: str) -> bool:
    """Whether the name in an answer stands for the model asked for.

    A snapshot, revision or default tag may be added (``gpt-4o`` -> ``gpt-4o-2024-08-06``), a
    ``-latest`` resolved, an owner or folder and ``.gguf`` be left out or added; ``gpt-4o-mini`` is
    another model than ``gpt-4o``.
    """
    asked, served = (
        name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower().removesuffix(".gguf")
        for name in (asked, served)
    )
    short, long = sorted((asked, served), key=len)
    if long.startswith(short) and (len(long) == len(short) or _added(short, long)):
        return True
    stem = asked.removesuffix("-latest")
    return stem != asked and served.startswith(stem) and _added(stem, served)


def _added(stem: str, name: str) -> bool:
    return _SNAPSHOT.fullmatch(name, len(stem)) is not None
