"""Online DPO: pairs from the student's own jokes of this moment, a preference loss over them.

Guo et al. 2024, arXiv:2402.04792. One knob, `refresh_every`, leads from online (1: pairs of the
present student) over iterative (n: the jokes of n updates are written by the student as it was at
the first of them) to offline (0: all by the start student); the papers call it the frequency of
feedback. What differs from TRL's: K jokes a prompt instead of two, several ways to pair them, ties
and jokes without a verdict are left out instead of guessed, gated jokes too unless asked for.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.learner import Candidates, Learner
from agents.preference import Pair, PairLogps, make_pairs, preference_loss
from agents.preference_configs import OnlineDPOConfig
from agents.student import Student, TokenStats


class Rollout(NamedTuple):
    """Judged jokes, and the pairs made of them."""

    candidates: Candidates
    ref_logps: Tensor  # (B, T) nats
    pairs: list[Pair]


class OnlineDPO:
    """The agent; see PPO's contract."""

    def __init__(self, config: OnlineDPOConfig, student: Student, *, seed: int) -> None:
        self.config, self.student = config, student
        self.learner = Learner(config, student, seed=seed)
        self.last_pairs: list[tuple[str, str, str, float]] = []
        """(prompt, chosen, rejected, margin by the training critic) of the last update."""

    @property
    def step(self) -> int:
        """Updates done."""
        return self.learner.step

    # ---- collect

    def collect(self, env: Any) -> Rollout:
        """One step of the vector environment: K jokes for each of its prompts, paired."""
        mine = self.learner.candidates(env, refresh_every=self.config.refresh_every)
        with torch.no_grad():
            reference = self.student.reference_logps(mine.completions)
        pairs = make_pairs(
            mine.rewards,
            mine.scored if self.config.gated_rejected else mine.usable,
            mine.groups,
            pairing=self.config.pairs,
            min_margin=self.config.min_margin,
            generator=self.learner.generator,
        )
        return Rollout(mine, reference, pairs)

    # ---- update

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout's pairs; returns the metrics of docs/metrics.md.

        Raises:
            Diverged: no finite gradient for the third update in a row.
        """
        config = self.config
        done, pairs = rollout.candidates.completions, rollout.pairs
        reference, lengths = rollout.ref_logps.sum(-1), done.mask.sum(-1).float()
        seen = {"chosen": 0.0, "rejected": 0.0, "right": 0.0, "n": 0.0}
        kl: dict[int, float] = {}

        def within(rows: Sequence[int]) -> list[Pair]:
            here = set(rows)
            return [p for p in pairs if p.chosen in here]

        def loss_of(part: list[int], stats: TokenStats) -> tuple[Tensor, int]:
            mine = within(part)
            logps = stats.logps.cpu().sum(-1)
            kl.update(zip(part, (logps.detach() - reference[part]).tolist(), strict=True))
            chosen = [part.index(p.chosen) for p in mine]
            rejected = [part.index(p.rejected) for p in mine]
            theirs = PairLogps(reference[part][chosen], reference[part][rejected])
            terms = preference_loss(
                PairLogps(logps[chosen], logps[rejected]),
                theirs,
                beta=config.beta,
                kind=config.loss,
                tokens=PairLogps(lengths[part][chosen], lengths[part][rejected]),
                flipped=flip_probability([p.margin for p in mine], config.confidence),
            )
            seen["chosen"] += float(terms.chosen_reward.sum())
            seen["rejected"] += float(terms.rejected_reward.sum())
            seen["right"] += float((terms.chosen_reward > terms.rejected_reward).sum())
            seen["n"] += len(mine)
            return terms.loss * len(mine), len(mine)

        paired = {i for p in pairs for i in (p.chosen, p.rejected)}
        loss, policy = self.learner.learn(
            done, self.learner.minibatches(rollout.candidates.groups, paired), loss_of,
            lambda rows: len(within(rows)), rollout,
        )  # fmt: skip
        raw = rollout.candidates.info["raw"]
        self.last_pairs = [
            (done.prompts[p.chosen], done.jokes[p.chosen], done.jokes[p.rejected],
             float(raw[p.chosen] - raw[p.rejected]))
            for p in pairs
        ]  # fmt: skip
        n = max(seen["n"], 1.0)
        return (
            rollout.candidates.describe()
            | policy
            | {
                "loss/preference": loss,
                "pairs/count": float(len(pairs)),
                "pairs/margin": float(np.mean([p.margin for p in pairs])) if pairs else math.nan,
                "pairs/chosen_reward": seen["chosen"] / n,
                "pairs/rejected_reward": seen["rejected"] / n,
                "pairs/accuracy": seen["right"] / n,
                "policy/kl_per_joke": float(np.mean(list(kl.values()))) if kl else math.nan,
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """`tensors` for safetensors and `scalars` for JSON; with the adapter, all of the agent."""
        return self.learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`; the student's adapter is loaded by the caller."""
        self.learner.load_state_dict(state)


def flip_probability(margins: Sequence[float], confidence: float) -> Tensor:
    """How probably the critic ordered a pair wrongly: 1 / (1 + exp(confidence * margin)), (N,)."""
    return torch.sigmoid(-confidence * torch.tensor(list(margins)))
