"""What the bridges share: texts or chat messages, declared arguments, plain or async functions."""

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

Text = str | Sequence[Mapping[str, Any]]
"""A string, or chat messages with `role` and `content`."""
Numbers = list[float | None]


@dataclass
class ForeignCounts:
    """Why a foreign function or judge gave no verdict, since the start."""

    causes: Counter[str] = field(default_factory=Counter)

    def metrics(self) -> dict[str, float]:
        """Failures by cause."""
        return {f"critic/failed/{cause}": float(n) for cause, n in self.causes.items()}


def text_of(text: Text, role: str) -> str:
    """The plain text of a prompt or completion: a string itself, or the last message of `role`.

    Content in parts (``{"type": "text", "text": ...}``) is joined. Without a message of that role,
    and for a message without content (a tool call), the text is empty.
    """
    if isinstance(text, str):
        return text
    content = next((m.get("content") for m in reversed(text) if m.get("role") == role), None)
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text") or "" for part in content if part.get("type") == "text")


def message(role: str, text: str, chat: bool) -> Text:
    """`text` as chat messages, or as it is."""
    return [{"role": role, "content": text}] if chat else text


def declared(func: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of `given`, the arguments that a function takes."""
    parameters = inspect.signature(func).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(given)
    return {p.name: given[p.name] for p in parameters if p.name in given}


def refuse_unsupplied(
    func: Callable[..., Any], supplied: set[str], name: str, *, known: bool
) -> None:
    """Refuse a function that needs an argument nobody supplies; unless a row may have it."""
    for p in inspect.signature(func).parameters.values():
        optional = p.default is not p.empty or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        if not optional and p.name not in supplied and not known:
            raise ValueError(
                f"{name} needs the argument {p.name!r}, supplied are {', '.join(sorted(supplied))}"
            )


def gathered(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """Await all at once and return what came; an exception stands in its own call's place."""

    async def gather() -> list[Any]:
        return list(await asyncio.gather(*calls, return_exceptions=True))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(gather())
    with ThreadPoolExecutor(1) as pool:  # in a notebook or an async caller a loop runs already
        return pool.submit(asyncio.run, gather()).result()
