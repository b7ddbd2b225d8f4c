"""A real HTTP server on loopback that answers like an OpenAI-compatible one, with faults on demand.

    with FaultServer(reply=faulty("500", share=0.3)) as server:
        critic = openai_critic("judge", base_url=server.url)

A reply is decided by the request and the number of requests before it, so faults come by content
or in a fixed order. What is answered with a verdict counts as paid, whether the client reads it or
not.
"""

import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "judge"
PROMPT_TOKENS, ANSWER_TOKENS = 100, 1
_JOKE = re.compile(r"<joke(?:_([A-Z]))?>(.*?)</joke(?:_[A-Z])?>")


@dataclass(frozen=True)
class Reply:
    """What goes back, and how."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before anything is sent."""
    drip: float = 0.0
    """Seconds between bytes; 0: all at once."""
    paid: bool = False
    """Whether a verdict is in it."""


Replies = Callable[[dict[str, Any], int], Reply]


def jokes_of(request: Mapping[str, Any]) -> list[str]:
    """The jokes a request shows, in its order."""
    return [found[1] for found in _JOKE.findall(request["messages"][-1]["content"])]


def completion(
    request: Mapping[str, Any],
    text: str,
    tops: Mapping[str, float] | None = None,
    *,
    finish: str = "stop",
    model: str | None = None,
    **message: Any,
) -> dict[str, Any]:
    """A chat completion; `tops` are probabilities at its first token."""
    logprobs = None
    if tops is not None:
        listed = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in tops.items()]
        first = next(entry for entry in listed if entry["token"] == text)
        logprobs = {"content": [{**first, "top_logprobs": listed}], "refusal": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model or request["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, **message},
                "finish_reason": finish,
                "logprobs": logprobs,
            }
        ],
        "usage": {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": ANSWER_TOKENS},
    }


def sent(body: Any, **reply: Any) -> Reply:
    """`body` as a JSON reply that was paid for."""
    return Reply(json.dumps(body).encode(), **{"paid": True, **reply})


def refused(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    """An error as the hosted service writes it; header names with _ for -."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return Reply(
        json.dumps({"error": error}).encode(),
        status,
        {name.replace("_", "-"): value for name, value in headers.items()},
    )


def prefers_longer(request: dict[str, Any], n: int = 0) -> Reply:
    """P(A) = sigmoid((length of A - length of B) / 20), with probabilities where asked for."""
    jokes = jokes_of(request)
    if len(jokes) == 1:
        rating = min(len(jokes[0]) // 10, 9)
        if request.get("logprobs"):
            rest = min(rating + 1, 9) if rating < 9 else 8
            return sent(completion(request, str(rating), {str(rating): 0.6, str(rest): 0.3}))
        return sent(completion(request, f"It is as long as that.\nVerdict: {rating}"))
    if len(jokes) > 2 or "all 2 letters" in request["messages"][-1]["content"]:
        order = sorted(range(len(jokes)), key=lambda i: -len(jokes[i]))
        return sent(completion(request, " > ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[i] for i in order)))
    p = 1 / (1 + math.exp((len(jokes[1]) - len(jokes[0])) / 20))
    verdict = "A" if p >= 0.5 else "B"
    if request.get("logprobs"):
        tops = {"A": 0.8 * p, " A": 0.1 * p, "B": 0.9 * (1 - p), "The": 0.1}
        return sent(completion(request, verdict, {t: max(x, 1e-9) for t, x in tops.items()}))
    return sent(completion(request, f"It is longer.\nVerdict: {verdict}"))


def text_only(request: dict[str, Any], n: int = 0) -> Reply:
    """As `prefers_longer`, but takes ``logprobs`` and drops it."""
    return prefers_longer({**request, "logprobs": False}, n)


def slow(seconds: float, inner: Replies = prefers_longer) -> Replies:
    """The same replies after `seconds`."""
    return lambda request, n: Reply(
        **{**inner(request, n).__dict__, "delay": seconds},
    )


def _truncated(request: dict[str, Any], n: int) -> Reply:
    return Reply(prefers_longer(request).body[:-20], paid=True)


def _cut_off(request: dict[str, Any], n: int) -> Reply:
    whole = prefers_longer(request)
    return Reply(whole.body[:-20], headers={"Content-Length": str(len(whole.body))}, paid=True)


FAULTS: dict[str, Replies] = {
    "429-short": lambda r, n: refused(429, "slow down", retry_after_ms="150"),
    "429-long": lambda r, n: refused(429, "slow down", retry_after="86400"),
    "429-bare": lambda r, n: refused(429, "slow down"),
    "429-no-credit": lambda r, n: refused(429, "no credit", "insufficient_quota"),
    "500": lambda r, n: refused(500, "boom"),
    "503-later": lambda r, n: refused(503, "busy", retry_after_ms="150"),
    "silence": lambda r, n: Reply(delay=60.0),
    "hang-up": lambda r, n: Reply(status=0),
    "cut-off": _cut_off,
    "truncated-json": _truncated,
    "html": lambda r, n: Reply(
        b"<html>proxy</html>", headers={"Content-Type": "text/html"}, paid=True
    ),
    "empty-choices": lambda r, n: sent({**completion(r, "A"), "choices": []}),
    "empty-text": lambda r, n: sent(completion(r, "")),
    "no-choices": lambda r, n: sent({"error": {"message": "upstream failed", "code": 502}}),
    "wrong-shape": lambda r, n: sent({**completion(r, "A"), "choices": [{"text": "A"}]}),
    "list": lambda r, n: sent([1, 2]),
    "refusal": lambda r, n: sent(completion(r, "", refusal="I would rather not.")),
    "filtered": lambda r, n: sent(completion(r, "A", finish="content_filter")),
    "filtered-prompt": lambda r, n: refused(400, "filtered", "content_filter"),
    "too-long": lambda r, n: refused(400, "context length exceeded", "context_length_exceeded"),
    "no-logprobs": text_only,
    "bad-logprobs": lambda r, n: sent(completion(r, "A", {"A": 2.0, "B": 0.1})),
    "low-mass": lambda r, n: sent(completion(r, "The", {"The": 0.9, "A": 0.06, "B": 0.03})),
    "slow-drip": lambda r, n: Reply(**{**prefers_longer(r).__dict__, "drip": 0.05}),
    "other-model": lambda r, n: sent(completion(r, "A", {"A": 0.9}, model="judge-mini")),
    "bad-key": lambda r, n: refused(401, f"Incorrect API key provided: {r['key']}"),
    "no-model": lambda r, n: refused(404, f"The model {r['model']} does not exist"),
}
"""By name: what a server can do wrong."""


def faulty(*names: str, share: float = 1.0, inner: Replies = prefers_longer) -> Replies:
    """Faults on a share of the questions, fixed by their content; the probe is spared."""

    def reply(request: dict[str, Any], n: int) -> Reply:
        content = request["messages"][-1]["content"]
        digest = hashlib.sha256(content.encode()).digest()
        if "practises being missed" in content or "was late, again" in content:
            return inner(request, n)
        if int.from_bytes(digest[:8], "big") >= share * 2**64:
            return inner(request, n)
        return FAULTS[names[digest[8] % len(names)]](request, n)

    return reply


class FaultServer:
    """The server, as a context manager; on a free port of 127.0.0.1."""

    def __init__(self, reply: Replies = prefers_longer) -> None:
        self.reply = reply
        self.requests: list[dict[str, Any]] = []
        """Bodies as they came, plus the key they came with."""
        self.times: list[float] = []
        """When each request came, seconds of `time.monotonic`."""
        self.paid = 0
        """Replies with a verdict."""
        self.most_at_once = 0
        self.busy_seconds = 0.0
        """Seconds of work, summed over requests."""
        self._at_once = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> "FaultServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, handler: "_Handler", request: dict[str, Any]) -> None:
        begun = time.monotonic()
        with self._lock:
            n = len(self.requests)
            self.requests.append(request)
            self.times.append(begun)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            reply = self.reply(request, n)
            if reply.delay and self._closing.wait(reply.delay):
                return
            with self._lock:
                self.paid += reply.paid
                # Counted out before the bytes are, or the next request may be here already.
                self._at_once -= 1
                self.busy_seconds += time.monotonic() - begun
            self._send(handler, reply)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has given up

    def _send(self, handler: "_Handler", reply: Reply) -> None:
        if not reply.status:
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(reply.body))}
        for name, value in (headers | dict(reply.headers)).items():
            handler.send_header(name, value)
        handler.end_headers()
        if not reply.drip:
            handler.wfile.write(reply.body)
            handler.close_connection |= headers["Content-Length"] != (
                reply.headers.get("Content-Length", headers["Content-Length"])
            )
            return
        for byte in reply.body:
            handler.wfile.write(bytes([byte]))
            if self._closing.wait(reply.drip):
                return


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    owner: FaultServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        request = json.loads(self.rfile.read(size))
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.server.owner.answer(self, {**request, "key": key})

    def log_message(self, *_: object) -> None:
        pass
