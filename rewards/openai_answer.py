"""Reading an OpenAI-shaped chat answer: only what is used, checked, whatever else is sent."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pydantic import TypeAdapter

LONGEST_BODY = 2000
"""Characters kept of an answer that cannot be read."""


class Answer(NamedTuple):
    """What came of one call."""

    text: str = ""
    tops: Mapping[str, float] | None = None  # log probabilities at the first token; None: not given
    truncated: bool = False  # ended by the token limit
    model: str = ""  # who says it answered
    prompt_tokens: int | None = None  # None: the server did not say
    completion_tokens: int | None = None
    seconds: float = 0.0  # latency, waits for Retry-After included
    cause: str = ""  # of a failure; see docs/openai.md
    detail: str = ""  # what the server said about it, without the key
    status: int = 0  # HTTP status of a refusal


@dataclass(frozen=True)
class _Alternative:
    token: str
    logprob: float


@dataclass(frozen=True)
class _Position:
    token: str
    logprob: float
    top_logprobs: list[_Alternative] = field(default_factory=list)


@dataclass(frozen=True)
class _Logprobs:
    content: list[_Position] | None = None


@dataclass(frozen=True)
class _Message:
    content: str | None = None
    refusal: str | None = None


@dataclass(frozen=True)
class _Choice:
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


@dataclass(frozen=True)
class _Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class _Completion:
    choices: list[_Choice]
    model: str | None = None
    usage: _Usage | None = None


@cache
def _reader() -> "TypeAdapter[_Completion]":
    from pydantic import TypeAdapter

    return TypeAdapter(_Completion)


def read_answer(body: str) -> Answer:
    """Read the body of a finished call.

    An answer that is not shaped as documented has the cause ``shape``; of what it cost is kept what
    it says.
    """
    from pydantic import ValidationError

    try:
        completion = _reader().validate_json(body)
    except ValidationError:
        return _misshapen(body)
    usage = completion.usage
    answer = Answer(
        model=completion.model or "",
        prompt_tokens=max(usage.prompt_tokens, 0) if usage else None,
        completion_tokens=max(usage.completion_tokens, 0) if usage else None,
    )
    if not completion.choices:
        return answer._replace(cause="empty")
    choice = completion.choices[0]
    text = choice.message.content or ""
    answer = answer._replace(text=text, truncated=choice.finish_reason == "length")
    if choice.message.refusal or choice.finish_reason == "content_filter":
        return answer._replace(cause="refusal", text=choice.message.refusal or text)
    if choice.logprobs and choice.logprobs.content:
        first = choice.logprobs.content[0]
        # The sampled token may not be among the likeliest ones.
        tops = {first.token: first.logprob} | {t.token: t.logprob for t in first.top_logprobs}
        answer = answer._replace(tops=tops)
    elif not text.strip():
        return answer._replace(cause="truncated" if answer.truncated else "empty")
    return answer


def _misshapen(body: str) -> Answer:
    """An answer that cannot be used, with its cost as far as it can be told."""
    answer = Answer(text=body[:LONGEST_BODY], cause="shape")
    try:
        usage = json.loads(body)["usage"]
        prompt, completion = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError):
        return answer
    return answer._replace(prompt_tokens=max(prompt, 0), completion_tokens=max(completion, 0))
