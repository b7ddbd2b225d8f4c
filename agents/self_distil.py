"""Self-distillation: imitate those of the student's own jokes that the critic likes best.

BART-SD of Small But Funny (Ravi et al. 2024, arXiv:2402.18113). With K candidates a prompt it is
rejection-sampling fine-tuning (RAFT, Dong et al. 2023, arXiv:2304.06767). What differs: the
preferred joke is the best of K instead of the better of two, a joke must also lie above its
prompt's mean, and jokes are written anew every `refresh_every` updates. The loss is at the sampling
temperature: at 1 the student would sharpen even where the critic does not care, since it imitates
lines that were drawn at a lower one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.feedback_configs import SelfDistilConfig
from agents.learner import Candidates, Learner
from agents.student import Student, TokenStats


class Rollout(NamedTuple):
    """Judged jokes, and which of them are worth imitating."""

    candidates: Candidates
    ref_logps: Tensor  # (B, T) nats
    kept: list[int]  # rows of the candidates


class SelfDistil:
    """The agent; see PPO's contract."""

    def __init__(self, config: SelfDistilConfig, student: Student, *, seed: int) -> None:
        self.config, self.student = config, student
        self.learner = Learner(config, student, seed=seed)

    @property
    def step(self) -> int:
        """Updates done."""
        return self.learner.step

    def collect(self, env: Any) -> Rollout:
        """One step of the vector environment: K jokes for each of its prompts, the best kept."""
        mine = self.learner.candidates(env, refresh_every=self.config.refresh_every)
        with torch.no_grad():
            reference = self.student.reference_logps(mine.completions)
        kept = best_jokes(mine.rewards, mine.usable, mine.groups, keep=self.config.keep)
        return Rollout(mine, reference, kept)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Imitate the kept jokes; returns the metrics of docs/metrics.md.

        Raises:
            Diverged: no finite gradient for the third update in a row.
        """
        mine, kept = rollout.candidates, rollout.kept
        mask, reference = mine.completions.mask, rollout.ref_logps.sum(-1)
        kl: dict[int, float] = {}

        def loss_of(part: list[int], stats: TokenStats) -> tuple[Tensor, int]:
            logps = stats.logps.cpu()
            kl.update(zip(part, (logps.detach().sum(-1) - reference[part]).tolist(), strict=True))
            # L = -1/N sum_i sum_t log pi(y_it | y_i,<t, x_i), N tokens; descend divides by N
            return -logps.sum(), tokens_of(part)

        def tokens_of(rows: Sequence[int]) -> int:
            return int(mask[list(rows)].sum())

        loss, policy = self.learner.learn(
            mine.completions, self.learner.minibatches(mine.groups, set(kept)), loss_of, tokens_of,
            rollout,
        )  # fmt: skip
        return (
            mine.describe()
            | policy
            | {
                "loss/imitation": loss,
                "imitation/jokes": float(len(kept)),
                "imitation/lead": _lead(mine, kept),
                "policy/kl_per_joke": float(np.mean(list(kl.values()))) if kl else math.nan,
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """`tensors` for safetensors and `scalars` for JSON; with the adapter, all of the agent."""
        return self.learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`; the student's adapter is loaded by the caller."""
        self.learner.load_state_dict(state)


def best_jokes(rewards: Tensor, usable: Tensor, groups: Tensor, *, keep: int) -> list[int]:
    """The `keep` best usable jokes of each group that lie above the mean of its usable ones.

    Args:
        rewards: (B,); entries that are not usable are ignored whatever they hold, NaN too.
        usable: (B,) bool; False for jokes without a verdict and gated ones.
        groups: (B,) int64, equal for jokes of one prompt.
        keep: most jokes a group, >= 1.

    Raises:
        ValueError: keep < 1, or shapes that differ.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}, must be >= 1")
    if not rewards.shape == usable.shape == groups.shape or rewards.ndim != 1:
        shapes = [tuple(t.shape) for t in (rewards, usable, groups)]
        raise ValueError(f"best_jokes needs three tensors of one shape (B,), got {shapes}")
    kept: list[int] = []
    for group in groups.unique():
        rows = torch.nonzero((groups == group) & usable)[:, 0].tolist()
        rows.sort(key=lambda i: -float(rewards[i]))  # stable: equal rewards keep their order
        # a mean in float64: equal rewards are then never above their own mean by rounding
        mean = float(rewards[rows].double().mean()) if rows else math.nan
        kept += [i for i in rows[:keep] if float(rewards[i]) > mean]
    return kept


def _lead(candidates: Candidates, kept: Sequence[int]) -> float:
    """Mean reward of the kept jokes minus the mean of all usable ones; NaN without any."""
    if not kept:
        return math.nan
    usable = candidates.rewards[candidates.usable]
    return float(candidates.rewards[list(kept)].mean() - usable.mean())
