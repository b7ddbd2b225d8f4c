"""The form of a question to an OpenAI-compatible server, and the reading of its answer: no I/O."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from rewards.ledger import Record, key_of
from rewards.openai_answer import Answer
from rewards.openai_options import Options
from rewards.openai_probe import Settings
from rewards.rubric import (
    load_rubric,
    parse_pairwise,
    parse_pointwise,
    parse_ranking,
    render,
    renormalise,
    verdict_tokens,
)

FORM = 1
"""Part of every key of the ledger: raised when requests or their reading change."""
DIGITS = 10
FRAME_TOKENS = 32
"""What a chat template adds to a message, at most; a text has at most one token a byte."""
BYTES_A_TOKEN = 4
"""Of English text, roughly; for servers that do not say what was used."""
NEVER_ANSWERED = ("timeout", "connection", "rate_limit", "server", "auth")

Verdict = float | list[float] | None


class Question(NamedTuple):
    """Jokes of one prompt, in the order shown."""

    prompt: str
    jokes: Sequence[str]


class Call(NamedTuple):
    """One request, and the key it is kept under."""

    key: str
    messages: list[dict[str, str]]
    options: dict[str, Any]
    limit: int  # tokens of the answer
    n: int  # jokes

    @property
    def size(self) -> int:
        """Bytes of the messages."""
        return sum(len(m["content"].encode()) for m in self.messages)


class Form:
    """Questions of one kind to one model.

    Raises:
        ValueError: from the constructor: a bad rubric, or prices without the model.
    """

    def __init__(self, model: str, options: Options) -> None:
        self.options = options
        self.rubric = load_rubric(options.question, options.rubric)
        self.prices = options.money_of(model) or (0.0, 0.0)
        """Money for one prompt token and for one answer token."""
        self.about = (options.base_url, model, options.question, self.rubric.sha256)
        """What every key holds of the critic."""

    def votes(self, settings: Settings) -> int:
        """How many answers are averaged; 1 where probabilities are read."""
        return 1 if settings.logprobs else self.options.votes

    def call(self, question: Question, settings: Settings, vote: int = 0) -> Call:
        """The request that asks `question`."""
        o = self.options
        by_token = settings.logprobs > 0
        messages = render(
            self.rubric,
            question.prompt,
            question.jokes,
            reason=not by_token
            and (o.reason == "yes" or (o.reason == "auto" and o.question != "listwise")),
            digits=by_token and o.question == "pointwise",
        )
        limit = 1 if by_token else o.max_tokens
        # Probabilities are those of temperature 1, also on servers that give them after scaling.
        temperature = 1.0 if by_token or o.votes > 1 else 0.0
        options = settings.options(limit, temperature, None if o.seed is None else o.seed + vote)
        decides = [limit, *((k, v) for k, v in sorted(options.items()) if k != settings.limit)]
        key = key_of("openai", FORM, *self.about, messages, decides, vote)
        return Call(key, messages, options, limit, len(question.jokes))

    def record(self, answer: Answer, call: Call) -> Record:
        """The verdict of an answer and what it cost; None and its cause where it has none."""
        value, cause, mass = self._read(answer, call)
        prompt, completion = answer.prompt_tokens, answer.completion_tokens
        if answer.status or answer.cause in NEVER_ANSWERED:
            prompt = completion = 0
        if prompt is None:
            prompt = -(-call.size // BYTES_A_TOKEN)
        if completion is None:
            size = len(answer.text.encode("utf-8", "replace"))
            completion = min(-(-size // BYTES_A_TOKEN), call.limit)
        return Record(
            value,
            answer.text or answer.detail,
            prompt,
            completion,
            prompt * self.prices[0] + completion * self.prices[1],
            answer.seconds,
            cause,
            {} if mass is None else {"mass": mass},
        )

    def _read(self, answer: Answer, call: Call) -> tuple[Verdict, str, float | None]:
        """Verdict, cause where there is none, and captured mass where tokens were read."""
        if answer.cause:
            return None, answer.cause, None
        if "logprobs" in call.options:
            return self._read_token(answer)
        if answer.truncated:
            return None, "truncated", None
        value: Verdict
        if self.options.question == "pairwise":
            value = parse_pairwise(answer.text)
        elif self.options.question == "pointwise":
            value = parse_pointwise(answer.text)
        else:
            value = parse_ranking(answer.text, call.n)
        return value, "unparsable" if value is None else "", None

    def _read_token(self, answer: Answer) -> tuple[Verdict, str, float | None]:
        verdicts = verdict_tokens(self.options.question)[:DIGITS]
        if answer.tops is None:
            return None, "shape", None
        try:
            p, mass = renormalise(answer.tops, verdicts)
        except ValueError:
            return None, "shape", None
        if mass == 0 or mass < self.options.min_mass:
            return None, "mass", mass
        if self.options.question == "pairwise":
            return p[0], "", mass
        return math.fsum(rating * x for rating, x in enumerate(p)), "", mass

    def verdict(self, records: Sequence[Record]) -> tuple[Verdict, str]:
        """The mean of the votes; None and a cause unless more than half of them are verdicts."""
        values: list[float | list[float]] = []
        causes: list[str] = []
        for record in records:
            if record.value is None:
                causes.append(record.cause)
            elif record.extra.get("mass", 1.0) < self.options.min_mass:
                causes.append("mass")  # recorded under a lower threshold
            else:
                values.append(record.value)
        if len(values) <= len(causes):
            return None, causes[0]
        columns = [v for v in values if isinstance(v, list)]
        if columns:
            return [math.fsum(c) / len(columns) for c in zip(*columns, strict=True)], ""
        return math.fsum(v for v in values if not isinstance(v, list)) / len(values), ""
