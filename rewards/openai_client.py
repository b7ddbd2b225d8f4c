"""Asking an OpenAI-compatible server: limits, waits, and a name for everything that can fail.

The client library retries (lost connections, timeouts, 429, 5xx) with its own backoff. A
Retry-After it does not get to see: it would obey one of up to two minutes at every retry and give
up above, and the deadline here is for all waits of a call together. So those waits are ours.

No failure raises: an `Answer` has a cause instead, and the caller decides.
"""

import asyncio
import email.utils
import math
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rewards.openai_answer import Answer, read_answer

if TYPE_CHECKING:
    import httpx2
    import openai

T = TypeVar("T")
LONGEST_BACKOFF = 8.0
"""Seconds; the library's longest pause before a retry, and ours after a 429 without a header."""
SHORTEST_WAIT = 0.1
LONGEST_DETAIL = 300
_FILTERED = ("content_filter", "content_policy_violation")
_NO_CREDIT = "insufficient_quota"  # answered with 429, but waiting does not help


@dataclass(frozen=True)
class Limits:
    """How a server may be asked."""

    concurrency: int = 8
    """Questions in flight; >= 1."""
    rpm: float | None = None
    """Questions started a minute, evenly spaced; > 0, None: no limit."""
    timeout: float = 60.0
    """Seconds without a byte until an attempt counts as lost; > 0."""
    deadline: float = 300.0
    """Seconds that Retry-After may be waited for, all waits of a call together; >= 0."""
    retries: int = 2
    """Attempts of the library after the first; >= 0."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        rules = {
            "concurrency": (self.concurrency >= 1, ">= 1"),
            "rpm": (self.rpm is None or 0 < self.rpm < math.inf, "> 0"),
            "timeout": (0 < self.timeout < math.inf, "> 0"),
            "deadline": (0 <= self.deadline < math.inf, ">= 0"),
            "retries": (self.retries >= 0, ">= 0"),
        }
        for name, (kept, rule) in rules.items():
            if not kept:
                raise ValueError(f"{name} is {getattr(self, name)}, must be {rule}")

    @property
    def longest(self) -> float:
        """Seconds an exchange may take with all its retries, so that a slow drip ends."""
        return self.timeout * (self.retries + 1) + LONGEST_BACKOFF * self.retries


class ChatClient:
    """One server and one model, asked from a thread of its own.

    So it serves synchronous callers also where an event loop already runs, and keeps its
    connections from one batch to the next. The thread starts with the first question.
    """

    def __init__(self, base_url: str, model: str, key: str, limits: Limits) -> None:
        self.base_url = base_url
        self.model = model
        self.limits = limits
        self.slots = asyncio.Semaphore(limits.concurrency)
        """Held by the caller around `complete`; made anew with the thread."""
        self.queue = asyncio.Semaphore(2 * limits.concurrency)
        """For callers that prepare a question before its slot is free."""
        self._key = key
        self._openai: openai.AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._next_start = 0.0

    def start(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run a coroutine that asks; thread-safe."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self.slots = asyncio.Semaphore(self.limits.concurrency)
                self.queue = asyncio.Semaphore(2 * self.limits.concurrency)
                threading.Thread(
                    target=self._loop.run_forever, name="openai-critic", daemon=True
                ).start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """Close connections and thread; a later question opens them again."""
        with self._lock:
            loop, client, self._loop, self._openai = self._loop, self._openai, None, None
        if loop is None:
            return
        if client is not None:
            asyncio.run_coroutine_threadsafe(client.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)

    async def complete(
        self, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any]
    ) -> Answer:
        """Ask one question; waits for the pace and for Retry-After.

        Args:
            messages: of roles system and user.
            options: further fields of the request, such as temperature.
        """
        waited = 0.0
        begun = time.monotonic()
        while True:
            await self._keep_pace()
            answer, delay = await self._attempt(messages, options)
            if delay is None or waited + delay > self.limits.deadline:
                return answer._replace(seconds=time.monotonic() - begun)
            await asyncio.sleep(delay)
            waited += delay

    async def _keep_pace(self) -> None:
        if self.limits.rpm is None:
            return
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + 60 / self.limits.rpm
        await asyncio.sleep(start - now)

    async def _attempt(
        self, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any]
    ) -> tuple[Answer, float | None]:
        """The answer, and after how many seconds the server wants to be asked again, if ever."""
        import openai

        client = self._client()
        request: dict[str, Any] = {"model": self.model, "messages": list(messages), **options}
        try:
            async with asyncio.timeout(self.limits.longest):
                raw = await client.chat.completions.with_raw_response.create(**request)
        except (TimeoutError, openai.APITimeoutError):
            return Answer(cause="timeout"), None
        except openai.APIConnectionError as error:
            reason = error.__cause__ or error
            return Answer(cause="connection", detail=self._shown(str(reason))), None
        except openai.APIStatusError as error:
            return self._refusal(error), _delay(error)
        answer = read_answer(raw.text)
        return answer._replace(text=answer.text.replace(self._key, "[key]")), None

    def _refusal(self, error: "openai.APIStatusError") -> Answer:
        code = error.code if isinstance(error.code, str) else ""
        status = error.status_code
        if status in (401, 403):
            cause = "auth"
        elif status == 404:
            cause = "model"
        elif status == 429:
            cause = "rate_limit"
        elif code in _FILTERED:
            cause = "refusal"
        else:
            cause = "server"
        detail = "" if cause == "auth" else self._shown(error.message)  # quotes the key it refuses
        return Answer(cause=cause, detail=f"HTTP {status} {detail}".strip(), status=status)

    def _client(self) -> "openai.AsyncOpenAI":
        if self._openai is None:
            import openai

            self._openai = openai.AsyncOpenAI(
                api_key=self._key,
                base_url=self.base_url,
                timeout=self.limits.timeout,
                max_retries=self.limits.retries,
                http_client=openai.DefaultAsyncHttpxClient(
                    event_hooks={"response": [_leave_retry_after_to_us]},
                    timeout=self.limits.timeout,
                ),
            )
        return self._openai

    def _shown(self, text: str) -> str:
        return " ".join(text.replace(self._key, "[key]").split())[:LONGEST_DETAIL]

    def __repr__(self) -> str:
        return f"ChatClient({self.base_url!r}, {self.model!r}, {self.limits})"


async def _leave_retry_after_to_us(response: "httpx2.Response") -> None:
    if response.is_error and retry_after(response.headers) is not None:
        response.headers["x-should-retry"] = "false"  # the library's own switch


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: milliseconds, seconds or a date; None where it does not.

    Source: RFC 9110, section 10.2.3, and OpenAI's ``retry-after-ms``.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if not math.isnan(seconds):
            return max(seconds, 0.0)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return None
    return max(date.timestamp() - time.time(), 0.0)


def _delay(error: "openai.APIStatusError") -> float | None:
    """How long to wait before a refused question is asked again; None: do not."""
    if error.code == _NO_CREDIT or not (error.status_code == 429 or error.status_code >= 500):
        return None
    asked = retry_after(error.response.headers)
    if asked is None:
        return LONGEST_BACKOFF if error.status_code == 429 else None
    return max(asked, SHORTEST_WAIT)
