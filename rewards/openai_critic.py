"""`--critic openai:MODEL`: a language model on any OpenAI-compatible server as critic.

Where the server gives token probabilities, one token is asked for, and its probabilities over the
verdicts are the answer (for ratings: G-Eval, Liu et al. 2023, arXiv:2303.16634; for pairs: multiple
choice). Elsewhere the model gives a short reason, then a verdict that is parsed strictly. A rating
of one token is 0 to 9, where 9 also stands for 10: many vocabularies split "10", and the
probability of "1" would then mean two ratings.

Nothing is asked before the first question, which is preceded by a probe (`rewards.openai_probe`).
What is asked, what it costs and what a failure does: docs/openai.md.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from rewards.ledger import Ledger
from rewards.openai_asker import Asker
from rewards.openai_form import Question, Verdict
from rewards.openai_options import Options
from rewards.openai_probe import Settings
from rewards.verdicts import LETTERS

EXTRA = "pip install 'punchline-rl[llm]'"


@dataclass(frozen=True)
class OpenAIJudge:
    """Which of two jokes is funnier? Shown in the order given: wrap it into `BothOrders`."""

    asker: Asker

    @property
    def name(self) -> str:
        """``openai:MODEL``."""
        return self.asker.name

    def compare(
        self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]
    ) -> list[float | None]:
        """Return P(a[i] is funnier than b[i]); None without a verdict.

        Raises:
            ValueError: the three sequences differ in length; else as `Asker.ask`.
        """
        if not len(prompts) == len(a) == len(b):
            raise ValueError(
                f"compare got {len(prompts)} prompts, {len(a)} jokes a and {len(b)} jokes b"
            )
        return _numbers(
            self.asker.ask([Question(p, (x, y)) for p, x, y in zip(prompts, a, b, strict=True)])
        )

    def probe(self) -> Settings:
        """Find out what the server gives, see `Asker.probe`."""
        return self.asker.probe()

    def metrics(self) -> dict[str, float]:
        """See `Asker.metrics`."""
        return self.asker.metrics()

    def close(self) -> None:
        """Close connections."""
        self.asker.close()


@dataclass(frozen=True)
class OpenAIScorer:
    """How funny is each joke, alone, 0 to 10?"""

    asker: Asker

    @property
    def name(self) -> str:
        """``openai:MODEL``."""
        return self.asker.name

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return the (expected) rating of each joke; None without a verdict.

        Raises:
            ValueError: lengths differ; else as `Asker.ask`.
        """
        if len(prompts) != len(jokes):
            raise ValueError(f"score got {len(prompts)} prompts and {len(jokes)} jokes")
        return _numbers(
            self.asker.ask([Question(p, (joke,)) for p, joke in zip(prompts, jokes, strict=True)])
        )

    def probe(self) -> Settings:
        """Find out what the server gives, see `Asker.probe`."""
        return self.asker.probe()

    def metrics(self) -> dict[str, float]:
        """See `Asker.metrics`."""
        return self.asker.metrics()

    def close(self) -> None:
        """Close connections."""
        self.asker.close()


@dataclass(frozen=True)
class OpenAIRanker:
    """How do all jokes of one prompt compare? Shown in the order given: see `ShuffledRanks`."""

    asker: Asker

    @property
    def name(self) -> str:
        """``openai:MODEL``."""
        return self.asker.name

    def rank(
        self, prompts: Sequence[str], groups: Sequence[Sequence[str]]
    ) -> list[list[float] | None]:
        """Return for each joke the share of its group ranked below; None without a verdict.

        A group of one joke has nothing to be ranked against: None, and nothing is asked.

        Raises:
            ValueError: lengths differ, or a group has more than 26 jokes; else as `Asker.ask`.
        """
        if len(prompts) != len(groups):
            raise ValueError(f"rank got {len(prompts)} prompts and {len(groups)} groups")
        most = max(map(len, groups), default=0)
        if most > len(LETTERS):
            raise ValueError(f"{self.name} ranks up to {len(LETTERS)} jokes a prompt, got {most}")
        asked = [i for i, group in enumerate(groups) if len(group) > 1]
        ranks: list[list[float] | None] = [None if group else [] for group in groups]
        answers = self.asker.ask([Question(prompts[i], groups[i]) for i in asked])
        for i, answer in zip(asked, answers, strict=True):
            ranks[i] = answer if isinstance(answer, list) else None
        return ranks

    def probe(self) -> Settings:
        """Find out what the server gives, see `Asker.probe`."""
        return self.asker.probe()

    def metrics(self) -> dict[str, float]:
        """See `Asker.metrics`."""
        return self.asker.metrics()

    def close(self) -> None:
        """Close connections."""
        self.asker.close()


def openai_critic(
    model: str, *, ledger: Ledger | None = None, **options: str
) -> OpenAIJudge | OpenAIRanker | OpenAIScorer:
    """Make the critic that `openai:MODEL` names; no network until the first question.

    Args:
        model: as the server calls it.
        ledger: where every call is found or kept; without one each question is asked anew.
        options: strings, see `rewards.openai_options.Options`.

    Raises:
        ValueError: no model, an unknown option or a bad value, a bad rubric or price file, a
            missing key or a missing package. One line.
    """
    if importlib.util.find_spec("openai") is None:
        raise ValueError(f"openai:{model} needs the package openai: {EXTRA}")
    if not model.strip():
        raise ValueError("openai: names no model; write openai:MODEL")
    read = Options.from_strings(options)
    asker = Asker(model, read, ledger)
    if read.question == "pairwise":
        return OpenAIJudge(asker)
    return OpenAIRanker(asker) if read.question == "listwise" else OpenAIScorer(asker)


def _numbers(verdicts: Sequence[Verdict]) -> list[float | None]:
    return [None if isinstance(v, list) else v for v in verdicts]
