"""A causal language model in process asked a rubric's question: probabilities of verdict tokens.

Nothing is generated, so nothing is parsed, and the same question has the same answer.
"""

import copy
import hashlib
import inspect
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from torch import Tensor

from models.load import Base
from rewards.rubric import Rubric, render, renormalise, verdict_tokens

MOST_LETTERS = 26
SHARED_BY = 4
"""From so many questions of one prompt on, the prompt's own tokens are computed once."""


@dataclass
class VerdictCounts:
    """What a local critic has seen so far."""

    asked: int = 0
    mass: float = 0.0
    """Sum over answered questions of the probability that fell on verdict tokens."""
    causes: Counter[str] = field(default_factory=Counter)
    """Why questions have no verdict."""

    def metrics(self) -> dict[str, float]:
        """Mean captured mass, and questions without a verdict by cause since the start."""
        read = self.asked - self.causes["too long"] - self.causes["control token"]
        mass = {"critic/verdict_mass": self.mass / read} if read else {}
        return mass | {f"critic/failed/{cause}": float(n) for cause, n in self.causes.items()}


class VerdictReader:
    """Asks a causal LM a rubric's question and reads the probabilities of the verdict tokens.

    What all questions share (system text and rubric) is computed once in the reader's life; what
    the questions of one prompt share, once a call. Rows are batched by length and padded on the
    right, so that positions and recurrent states of any model are those of a row of its own.

    Args:
        base: model and tokenizer; with a chat template the question is a chat, else plain text
            that ends in "Answer:".
        rubric: what to ask.
        min_mass: least probability that must fall on verdict tokens, 0-1; below it there is no
            verdict.
        batch_tokens: padded tokens of a forward pass, the shared ones included; >= 1.

    Raises:
        ValueError: a setting is out of range, or the vocabulary lacks a verdict token.
    """

    def __init__(
        self, base: Base, rubric: Rubric, *, min_mass: float = 0.5, batch_tokens: int = 4096
    ) -> None:
        """See the class."""
        if not 0 <= min_mass <= 1:
            raise ValueError(f"min_mass is {min_mass}, need a share in [0, 1]")
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens is {batch_tokens}, need >= 1")
        self.rubric, self.min_mass, self.batch_tokens = rubric, min_mass, batch_tokens
        self.counts = VerdictCounts()
        self._model, self._tokenizer, self._pad = base.model, base.tokenizer, base.pad
        self._chat = bool(getattr(base.tokenizer, "chat_template", None))
        self._system_role = True
        self._limit = getattr(base.model.config, "max_position_embeddings", None) or math.inf
        takes = inspect.signature(base.model.forward).parameters
        self._keeps_logits = "logits_to_keep" in takes
        self._special = frozenset(base.tokenizer.all_special_ids)
        self._tokens = self._vocabulary()
        n = 2 if rubric.question != "pointwise" else 1
        frames = [self._text("0", ["0"] * n), self._text("Zebras.", ["Why?"] * n)]
        self._lead = self._lead_of(frames[0])
        encoded = [self._encode(frame) for frame in frames]
        # Two tokens less: one that ends the shared text may also begin what follows.
        self._shared = encoded[0][: max(shared_length(encoded) - 2, 0)]
        # Transformers renamed the argument in 5.24; both names are in use.
        self._past = "cache" if "cache" in takes else "past_key_values"
        self._cache: Any = None
        self._identity = hashlib.sha256(repr(encoded).encode()).hexdigest()

    @property
    def identity(self) -> tuple[str, ...]:
        """What decides the answers beside the weights: rubric, frame and least mass."""
        return (self.rubric.sha256, self._identity, str(self.min_mass))

    def verdicts(self, n: int) -> list[str]:
        """The verdict tokens of a question about `n` jokes; ratings are one digit, 9 is 9-10.

        Many vocabularies split "10" into two tokens, and the first of them is also the rating 1.
        """
        if self.rubric.question == "pointwise":
            return verdict_tokens("pointwise")[:10]
        return verdict_tokens(self.rubric.question, n)

    def read(
        self, prompts: Sequence[str], shown: Sequence[Sequence[str]]
    ) -> list[list[float] | None]:
        """Return the probabilities of the verdicts for each question; None without a verdict."""
        asked = list(zip(prompts, map(tuple, shown), strict=True))
        unique = list(dict.fromkeys(asked))
        self.counts.asked += len(unique)
        ids = [self._question(*question) for question in unique]
        logps: dict[int, Tensor] = {}  # question -> (tokens,) log p of each verdict token
        for cache, prefix, members in self._shares([p for p, _ in unique], ids):
            rows = {i: ids[i][prefix:] for i in members}
            for part in self._batches(rows, prefix):
                read = self._forward([rows[i] for i in part], cache, prefix)
                logps.update(zip(part, read, strict=True))
        answers = {
            question: self._probabilities(logps[i], len(question[1])) if i in logps else None
            for i, question in enumerate(unique)
        }
        return [answers[question] for question in asked]

    # ---- text to tokens

    def _text(self, prompt: str, jokes: Sequence[str]) -> str:
        messages = render(self.rubric, prompt, jokes, digits=True)
        if not self._chat:
            return "\n\n".join(m["content"] for m in messages) + "\nAnswer:"
        if self._system_role:
            try:
                return self._templated(messages)
            except TemplateError:  # some templates know no system role
                self._system_role = False
        joined = "\n\n".join(m["content"] for m in messages)
        return self._templated([{"role": "user", "content": joined}])

    def _templated(self, messages: list[dict[str, str]]) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,  # templates of models that think first; others ignore it
            )
        )

    def _encode(self, text: str) -> list[int]:
        # A template writes its own begin token; plain text gets the tokenizer's.
        return list(self._tokenizer.encode(text, add_special_tokens=not self._chat))

    def _lead_of(self, text: str) -> list[int]:
        """The token that every verdict starts with, where vocabularies split " 5" in two."""
        before = self._encode(text)
        space = "" if self._chat else " "
        rests = []
        for verdict in self.verdicts(2):
            ids = self._encode(text + space + verdict)
            if ids[: len(before)] != before:
                return []
            rests.append(ids[len(before) :])
        first = {tuple(rest[:1]) for rest in rests}
        return rests[0][:1] if len(first) == 1 and all(len(rest) > 1 for rest in rests) else []

    def _question(self, prompt: str, jokes: Sequence[str]) -> list[int]:
        """Token ids of a question; empty, its cause counted, where it cannot be asked."""
        ids = [*self._encode(self._text(prompt, jokes)), *self._lead]
        frame = self._encode(self._text("0", ["0"] * len(jokes)))
        if sum(i in self._special for i in ids) != sum(i in self._special for i in frame):
            self.counts.causes["control token"] += 1  # a joke that wrote one would steer the chat
            return []
        if len(ids) > self._limit:
            self.counts.causes["too long"] += 1
            return []
        return ids

    def _vocabulary(self) -> dict[str, int]:
        """Raw token -> id of every token that `renormalise` may count for a verdict."""
        wanted = self.verdicts(MOST_LETTERS)
        vocabulary = self._tokenizer.get_vocab()
        found = {
            token: i
            for token, i in vocabulary.items()
            if len(token) <= 2 and renormalise({token: 0.0}, wanted)[1] > 0
        }
        for verdict in wanted:
            if not any(renormalise({token: 0.0}, [verdict])[1] for token in found):
                raise ValueError(f"the model's vocabulary has no token for the verdict {verdict!r}")
        return found

    # ---- tokens to log-probabilities

    def _shares(
        self, prompts: Sequence[str], ids: Sequence[list[int]]
    ) -> list[tuple[Any, int, list[int]]]:
        """Questions by what they share: (its keys and values, its length, the questions)."""
        if self._cache is None and self._shared:
            self._cache = self._extended(None, self._shared)
            if self._cache is None or any(getattr(self._cache, "is_linear", ())):
                # recurrent layers do not go on exactly from a kept state by several tokens
                self._shared, self._cache = [], None
        n = len(self._shared) if self._cache is not None else 0
        usual = [i for i, x in enumerate(ids) if len(x) > n > 0 and x[:n] == self._shared[:n]]
        others = sorted({i for i, x in enumerate(ids) if x} - set(usual))
        groups: dict[str, list[int]] = {}
        for i in usual:
            groups.setdefault(prompts[i], []).append(i)
        shares: list[tuple[Any, int, list[int]]] = []
        few: list[int] = []
        for members in groups.values():
            rows = [ids[i] for i in members]
            common = min(shared_length(rows), min(map(len, rows)) - 1)
            if len(members) < SHARED_BY or common <= n:
                few += members
                continue
            shares.append((self._extended(self._cache, rows[0][n:common]), common, members))
        return [(self._cache, n, few), *shares, (None, 0, others)]

    @torch.inference_mode()
    def _extended(self, cache: Any, ids: Sequence[int]) -> Any:
        """Keys and values after `ids`; `cache` itself stays as it is."""
        row = torch.tensor([list(ids)], device=self._device)
        more: dict[str, Any] = {self._past: copy.deepcopy(cache)}
        if self._keeps_logits:
            more["logits_to_keep"] = 1
        out = self._model(input_ids=row, use_cache=True, **more)
        return getattr(out, self._past, None)

    def _batches(self, rows: dict[int, list[int]], prefix: int) -> list[list[int]]:
        """Questions of similar length together; decided by the lengths alone."""
        batches: list[list[int]] = []
        for i in sorted(rows, key=lambda i: (len(rows[i]), i)):
            width = prefix + len(rows[i])
            if not batches or (len(batches[-1]) + 1) * width > self.batch_tokens:
                batches.append([])
            batches[-1].append(i)
        return batches

    @torch.inference_mode()
    def _forward(self, rows: list[list[int]], cache: Any, prefix: int) -> Tensor:
        """(B, tokens) log p of each verdict token after each row, nats."""
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self._pad)
        mask = torch.zeros((len(rows), prefix + longest), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : prefix + len(row)] = 1
        last = torch.tensor([len(row) - 1 for row in rows], device=self._device)
        where, at = torch.unique(last, return_inverse=True)
        more: dict[str, Any] = {"logits_to_keep": where} if self._keeps_logits else {}
        if cache is not None:
            more[self._past] = copy.deepcopy(cache)
            more[self._past].batch_repeat_interleave(len(rows))
        out = self._model(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            use_cache=cache is not None,
            **more,
        )
        picked = at if self._keeps_logits else last
        logits = out.logits[torch.arange(len(rows), device=self._device), picked].float()
        chosen = torch.tensor(list(self._tokens.values()), device=self._device)
        logps: Tensor = logits.log_softmax(-1)[:, chosen].cpu()
        return logps

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._model.get_input_embeddings().weight.device
        return device

    def _probabilities(self, logps: Tensor, n: int) -> list[float] | None:
        if not torch.isfinite(logps).all():
            self.counts.causes["not finite"] += 1
            return None
        by_token = dict(zip(self._tokens, logps.tolist(), strict=True))
        probabilities, mass = renormalise(by_token, self.verdicts(n))
        self.counts.mass += mass
        if mass < self.min_mass or not mass:
            self.counts.causes["mass"] += 1
            return None
        return probabilities


def shared_length(rows: Sequence[list[int]]) -> int:
    """How many leading tokens all rows have in common."""
    first, last = min(rows), max(rows)  # in lexical order: what these two share, all share
    different = (i for i, (x, y) in enumerate(zip(first, last, strict=False)) if x != y)
    return next(different, min(len(first), len(last)))
