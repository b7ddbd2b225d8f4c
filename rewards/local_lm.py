"""`local:MODEL`: any Hugging Face causal language model in process, as a critic.

The rubric's question is put to the model, and the probabilities of the verdict tokens at the next
position are the answer: P(A) of A and B, the expected rating of 0-9, or log P(first) of each
letter (`rewards.verdict_reader`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from models.load import Base, load_base
from models.sources import ALIASES, resolve
from rewards.protocols import Critic
from rewards.rubric import load_rubric
from rewards.verdict_reader import VerdictCounts, VerdictReader

LEAST_PROBABILITY = 1e-6
"""A ranker's log probabilities end here: a letter that is never named is not minus infinity."""


@dataclass(frozen=True)
class LocalJudge:
    """A `Judge`: P(A) of the verdicts A and B, a shown as A. It may well prefer a slot."""

    reader: VerdictReader
    name: str
    identity: tuple[str, ...] = ()
    """What decides the answers: hash of the weights, rubric, frame and least mass."""

    @property
    def counts(self) -> VerdictCounts:
        """Captured mass and failures so far."""
        return self.reader.counts

    def compare(
        self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]
    ) -> list[float | None]:
        """Return P(a[i] funnier than b[i]), a shown first; None without a verdict.

        Raises:
            ValueError: the three sequences differ in length.
        """
        if not len(prompts) == len(a) == len(b):
            raise ValueError(
                f"compare got {len(prompts)} prompts, {len(a)} jokes a and {len(b)} jokes b"
            )
        answers = self.reader.read(prompts, list(zip(a, b, strict=True)))
        return [None if x is None else x[0] for x in answers]


@dataclass(frozen=True)
class LocalScorer:
    """A `Scorer`: the expected rating over the digits 0 to 9, where 9 also stands for 10."""

    reader: VerdictReader
    name: str
    identity: tuple[str, ...] = ()

    @property
    def counts(self) -> VerdictCounts:
        """Captured mass and failures so far."""
        return self.reader.counts

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return the expected rating of each joke, 0-9; None without a verdict.

        Raises:
            ValueError: the sequences differ in length.
        """
        if len(prompts) != len(jokes):
            raise ValueError(f"score got {len(prompts)} prompts and {len(jokes)} jokes")
        answers = self.reader.read(prompts, [(joke,) for joke in jokes])
        return [None if x is None else math.fsum(i * p for i, p in enumerate(x)) for x in answers]


@dataclass(frozen=True)
class LocalRanker:
    """A `Ranker`: log P of each letter as the first of the ranking.

    Source: single-token listwise ranking, Reddy et al. 2024, arXiv:2406.15657.
    """

    reader: VerdictReader
    name: str
    identity: tuple[str, ...] = ()

    @property
    def counts(self) -> VerdictCounts:
        """Captured mass and failures so far."""
        return self.reader.counts

    def rank(
        self, prompts: Sequence[str], groups: Sequence[Sequence[str]]
    ) -> list[list[float] | None]:
        """Return a score for each joke of `groups[i]`, nats; None without a verdict.

        Raises:
            ValueError: the sequences differ in length, or a group is not of 2 to 26 jokes.
        """
        if len(prompts) != len(groups):
            raise ValueError(f"rank got {len(prompts)} prompts and {len(groups)} groups")
        answers = self.reader.read(prompts, groups)
        return [
            None if x is None else [math.log(max(p, LEAST_PROBABILITY)) for p in x] for x in answers
        ]


CRITICS: dict[str, Callable[..., Critic]] = {
    "pairwise": LocalJudge,
    "pointwise": LocalScorer,
    "listwise": LocalRanker,
}


def local_critic(
    model: str,
    *,
    base: Base | None = None,
    question: str = "pairwise",
    rubric: str = "",
    min_mass: str = "0.5",
    batch_tokens: str = "4096",
    device: str = "",
) -> Critic:
    """Make the critic of ``local:MODEL``; options are the strings of `--critic-arg`.

    Args:
        model: an alias, a folder, a GGUF file or a hub id (`models.load.load_base`).
        base: loaded weights without adapters; used, not copied, where `model` names the same ones.
        question: ``pairwise``, ``pointwise`` or ``listwise``.
        rubric: a rubric file instead of the shipped one.
        min_mass: least probability on the verdict tokens, 0-1.
        batch_tokens: padded tokens of a forward pass.
        device: where it computes; by default beside `base`, else on a GPU where there is one.

    Raises:
        ValueError: a bad option, no such model, or no causal language model.
        WeightsError: weights could not be had; the message has the command.
    """
    if question not in CRITICS:
        raise ValueError(f"question is {question!r}, allowed are {', '.join(CRITICS)}")
    asked = load_rubric(question, Path(rubric) if rubric else None)
    mass, tokens = _number("min_mass", min_mass, float), _number("batch_tokens", batch_tokens, int)
    loaded = _weights(model, base, device)
    reader = VerdictReader(loaded, asked, min_mass=mass, batch_tokens=int(tokens))
    return CRITICS[question](reader, f"local:{model}", (loaded.sha256, *reader.identity))


def _weights(model: str, base: Base | None, device: str) -> Base:
    try:
        where = resolve(model)
    except ValueError:
        raise ValueError(
            f"{model!r} is neither a local folder, a GGUF file, a hub id (owner/name), nor one of "
            f"{', '.join(ALIASES)}"
        ) from None
    if base is not None:
        if any(hasattr(module, "lora_A") for module in base.model.modules()):
            raise ValueError("base carries adapters; a critic needs the bare weights")
        beside = str(base.model.get_input_embeddings().weight.device)
        device = device or beside
        same = model == base.name or (isinstance(where, Path) and where == resolve(base.name))
        if same and device == beside:
            return base
    return load_base(model, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _number(name: str, value: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{name} is {value!r}, need {kind.__name__}") from None
