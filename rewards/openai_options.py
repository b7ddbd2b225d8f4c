"""The options of `openai:MODEL`: strings of the command line, read and checked."""

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rewards.openai_client import Limits
from rewards.options import refuse_secrets
from rewards.rubric import QUESTIONS

HOSTED = "https://api.openai.com/v1"
URL_VARIABLE = "OPENAI_BASE_URL"
REASONS = ("auto", "yes", "no")
UNUSED_KEY = "no-key-is-needed"
"""Sent to servers of one's own, which take any."""


@dataclass(frozen=True)
class Options:
    """How a model on an OpenAI-compatible server is asked to judge."""

    base_url: str = ""
    """Address up to and with ``/v1``; empty: the variable OPENAI_BASE_URL, else OpenAI's own."""
    key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable with the key."""
    question: str = "pairwise"
    """``pairwise`` (a Judge), ``listwise`` (a Ranker) or ``pointwise`` (a Scorer, 0-10)."""
    rubric: Path | None = None
    """A rubric file of one's own, see `rewards.rubric`."""
    concurrency: int = 8
    """Questions in flight; >= 1."""
    rpm: float | None = None
    """Questions started a minute; > 0."""
    timeout: float = 60.0
    """Seconds without a byte until an attempt counts as lost; > 0."""
    deadline: float = 300.0
    """Seconds that a question may wait for Retry-After in all; >= 0."""
    retries: int = 2
    """Attempts of the client library after the first; >= 0."""
    votes: int = 1
    """Answers a question, averaged, where text is read instead of probabilities; >= 1."""
    reason: str = "auto"
    """A short reason before the verdict; ``auto``: where token probabilities cannot be used."""
    min_mass: float = 0.5
    """Least probability of verdict tokens for an answer to count; 0-1."""
    max_tokens: int = 300
    """Most tokens of an answer that is read as text, hidden reasoning included; >= 1."""
    prices: Path | None = None
    """JSON file: {"MODEL": {"price_in": X, "price_out": Y}}, money a million tokens."""
    price_in: float | None = None
    """Money a million prompt tokens; >= 0."""
    price_out: float | None = None
    """Money a million answer tokens; >= 0."""
    seed: int | None = None
    """Sent with each question, plus the number of the vote; servers honour it as they can."""

    def __post_init__(self) -> None:
        """Check values; files are read later."""
        refuse_secrets("openai", "base_url", self.base_url)
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url is {self.base_url!r}, must begin with http:// or https://")
        for name, allowed in (("question", QUESTIONS), ("reason", REASONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, allowed are {', '.join(allowed)}"
                )
        for name in ("votes", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be >= 1")
        if not 0 <= self.min_mass <= 1:
            raise ValueError(f"min_mass is {self.min_mass}, must be in [0, 1]")
        for name in ("price_in", "price_out"):
            price = getattr(self, name)
            if price is not None and not 0 <= price < math.inf:
                raise ValueError(f"{name} is {price}, must be a finite number >= 0")
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("price_in and price_out go together, only one is given")
        if self.prices is not None and self.price_in is not None:
            raise ValueError("prices=FILE and price_in, price_out exclude each other")
        _ = self.limits

    @classmethod
    def from_strings(cls, options: Mapping[str, str]) -> "Options":
        """Read `--critic-arg` strings.

        Raises:
            ValueError: an unknown option, or a value that is none; one line.
        """
        read = _readers()
        values: dict[str, Any] = {}
        for name, text in options.items():
            if name not in read:
                raise ValueError(f"unknown option {name!r}, allowed are {', '.join(read)}")
            try:
                values[name] = read[name](text)
            except ValueError:
                raise ValueError(f"{name} is {text!r}, must be a {read[name].__name__}") from None
        if not values.get("base_url"):
            values["base_url"] = os.environ.get(URL_VARIABLE) or HOSTED
        return cls(**values)

    @property
    def limits(self) -> Limits:
        """What the client needs to know."""
        return Limits(self.concurrency, self.rpm, self.timeout, self.deadline, self.retries)

    def key(self) -> str:
        """The key, from the environment.

        Raises:
            ValueError: it is missing where the hosted service needs it.
        """
        key = os.environ.get(self.key_env, "").strip()
        if not key and self.base_url == HOSTED:
            raise ValueError(
                f"{HOSTED} needs a key in the environment variable {self.key_env}; name another "
                "variable with key_env=NAME, or your own server with base_url=URL"
            )
        return key or UNUSED_KEY

    def money_of(self, model: str) -> tuple[float, float] | None:
        """Prices of one prompt token and of one answer token; None where none are given.

        Raises:
            ValueError: the file cannot be read, or lacks the model or one of its prices.
        """
        if self.price_in is not None and self.price_out is not None:
            return self.price_in / 1e6, self.price_out / 1e6
        if self.prices is None:
            return None
        try:
            table = json.loads(self.prices.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"prices {self.prices} cannot be read: {error}") from error
        if not isinstance(table, dict) or model not in table:
            raise ValueError(f"prices {self.prices} has no model {model!r}")
        row = table[model] if isinstance(table[model], dict) else {}
        prices: list[float] = []
        for name in ("price_in", "price_out"):
            price: Any = row.get(name)
            is_number = isinstance(price, int | float) and not isinstance(price, bool)
            if not is_number or not 0 <= price < math.inf:
                raise ValueError(f"prices {self.prices}, model {model!r}: {name} is {price!r}")
            prices.append(price / 1e6)
        return prices[0], prices[1]


def _readers() -> dict[str, Callable[[str], Any]]:
    """How each option's string is read, by its declared type."""
    by_type: dict[Any, Callable[[str], Any]] = {
        str: str,
        int: int,
        float: float,
        int | None: int,
        float | None: float,
        Path | None: Path,
    }
    return {f.name: by_type[f.type] for f in fields(Options)}
