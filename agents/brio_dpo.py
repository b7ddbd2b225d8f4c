"""BRIO-DPO: first the teacher's jokes over the student's by ranking, then online DPO.

Small But Funny (Ravi et al. 2024, arXiv:2402.18113), its best student. What differs: the paper
ranks two jokes of the teacher by the teacher itself in the first phase; the shipped critic may not
rate a teacher's joke, so here each stands above all K of the student's own by construction, and
nobody is asked. In the second phase the paper's pairs come from one student and its reference is
the student after BRIO; here pairs are fresh (`refresh_every`) and the reference is the start
student, as for every method.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from agents.brio import BRIO, RankedJokes
from agents.feedback_configs import BrioDPOConfig
from agents.learner import as_completions, epoch_rows, joined
from agents.online_dpo import OnlineDPO
from agents.online_dpo import Rollout as PairedJokes
from agents.student import Student


class Phase(NamedTuple):
    """What one call of `collect` brings, and to whom."""

    brio: RankedJokes | None
    dpo: PairedJokes | None


class BrioDPO:
    """The agent: a BRIO agent for the first updates, an OnlineDPO agent for the others.

    Args:
        config: sizes and rates of both.
        student: what learns.
        seed: of everything random.
        examples: (prompt, joke) of the teacher; None: the corpus' train jokes.
    """

    def __init__(
        self,
        config: BrioDPOConfig,
        student: Student,
        *,
        seed: int,
        examples: Sequence[tuple[str, str]] | None = None,
    ) -> None:
        self.config, self.student, self.seed = config, student, seed
        self.brio = BRIO(config.first, student, seed=seed, examples=examples)
        self.dpo = OnlineDPO(config.second, student, seed=seed)

    @property
    def step(self) -> int:
        """Updates done, of both phases."""
        return self.brio.step + self.dpo.step

    @property
    def last_pairs(self) -> list[tuple[str, str, str, float]]:
        """(prompt, chosen, rejected, margin by the training critic) of the last update."""
        return self.dpo.last_pairs

    def collect(self, env: Any) -> Phase:
        """Teacher over student jokes, and later judged pairs of one step of the environment."""
        if self.brio.step < self.config.first_updates:
            return Phase(self._teacher_over_student(), None)
        return Phase(None, self.dpo.collect(env))

    def update(self, rollout: Phase) -> dict[str, float]:
        """Learn from one rollout; returns the metrics of docs/metrics.md.

        Raises:
            Diverged: no finite gradient for the third update in a row.
        """
        if rollout.brio is not None:
            return self.brio.update(rollout.brio)
        assert rollout.dpo is not None  # a phase has one of the two
        return self.dpo.update(rollout.dpo)

    def _teacher_over_student(self) -> RankedJokes:
        """K jokes of the student for prompts of the teacher's, whose joke is the best of each."""
        config, known = self.config, list(self.brio.teacher)
        rows = epoch_rows(
            len(known), config.prompts_per_update, batch=self.brio.step, seed=self.seed
        )
        prompts = list(dict.fromkeys(known[i] for i in rows))  # an epoch's end may repeat one
        own = self.brio.learner.write(prompts, refresh_every=1)
        with torch.no_grad():
            reference = self.student.reference_logps(own).sum(-1)
        texts = [(p, self.brio.teachers_joke(p)) for p in prompts]
        taught = as_completions(self.student.format, texts, temperature=config.temperature)
        groups = torch.arange(len(prompts))
        usable = torch.tensor(
            [done and bool(j) for done, j in zip(own.finished, own.jokes, strict=True)]
        )
        return RankedJokes(
            joined(own, taught),
            torch.tensor([0.0] * len(own.jokes) + [1.0] * len(texts)),  # by construction
            torch.cat([usable, torch.ones(len(texts), dtype=torch.bool)]),
            torch.cat([groups.repeat_interleave(config.group_size), groups]),
            {g: len(own.jokes) + g for g in range(len(prompts))},
            reference,
            {
                "reward/mean": math.nan,  # nobody judged
                "joke/tokens": float(own.mask.sum(-1).float().mean()),
                "joke/finished": sum(own.finished) / len(own.finished),
            },
        )

    def state_dict(self) -> dict[str, Any]:
        """`tensors` for safetensors and `scalars` for JSON; with the adapter, all of the agent."""
        parts = {"brio": self.brio.state_dict(), "dpo": self.dpo.state_dict()}
        return {
            "tensors": {
                f"{name}/{key}": value
                for name, part in parts.items()
                for key, value in part["tensors"].items()
            },
            "scalars": {name: part["scalars"] for name, part in parts.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`; the student's adapter is loaded by the caller."""
        for name, agent in (("brio", self.brio), ("dpo", self.dpo)):
            lead = f"{name}/"
            mine = {k.removeprefix(lead): v for k, v in state["tensors"].items()
                    if k.startswith(lead)}  # fmt: skip
            agent.load_state_dict({"tensors": mine, "scalars": state["scalars"][name]})
