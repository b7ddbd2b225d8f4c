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

from agents.optim import (
    MAX_SKIPPED,
    Diverged,
    adamw,
    descend,
    load_optimizer_state,
    optimizer_state,
    restore_generator,
    set_learning_rate,
    whole_groups,
)
from agents.preference import Pair, PairLogps, make_pairs, preference_loss
from agents.preference_configs import OnlineDPOConfig
from agents.student import Completions, Student, TokenStats
from rewards.types import Unfinished


class Rollout(NamedTuple):
    """B jokes in groups, how they were received, and the pairs made of them."""

    completions: Completions
    rewards: Tensor  # (B,) NaN where unscored
    scored: Tensor  # (B,) bool
    groups: Tensor  # (B,) int64
    ref_logps: Tensor  # (B, T) nats
    pairs: list[Pair]
    info: Mapping[str, Any]  # of the environment, one entry a joke


class OnlineDPO:
    """The agent: owns optimizer, random numbers and the student that writes; see PPO's contract."""

    def __init__(self, config: OnlineDPOConfig, student: Student, *, seed: int) -> None:
        self.config, self.student = config, student
        self.parameters = student.trainable()
        self.optimizer = adamw((self.parameters, config.learning_rate))
        student.start_reader(temperature=config.temperature)  # before anybody reads, as in PPO
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.skipped = 0  # updates in a row
        self.writer = student.adapter_values()  # who writes the jokes between two refreshes
        self.last_pairs: list[tuple[str, str, str, float]] = []
        """(prompt, chosen, rejected, margin by the training critic) of the last update."""

    # ---- collect

    def collect(self, env: Any) -> Rollout:
        """One step of the vector environment: K jokes for each of its prompts."""
        if self.config.refresh_every and self.step % self.config.refresh_every == 0:
            self.writer = self.student.adapter_values()
        prompts = list(env.shown[:: self.config.group_size])  # one a group, in order
        with self.student.with_values(self.writer):
            completions = self.student.generate(
                prompts,
                self.config.group_size,
                temperature=self.config.temperature,
                max_tokens=self.config.max_tokens,
                generator=self.generator,
            )
        actions = tuple(
            joke if done else Unfinished(joke)
            for joke, done in zip(completions.jokes, completions.finished, strict=True)
        )
        _, rewards, _, _, info = env.step(actions)
        with torch.no_grad():
            reference = self.student.reference_logps(completions)
        scored = torch.as_tensor(np.asarray(info["scored"], dtype=bool))
        gated = torch.tensor([bool(g) for g in info["gate"]])
        rewards = torch.as_tensor(np.asarray(rewards), dtype=torch.float32)
        groups = torch.arange(len(prompts)).repeat_interleave(self.config.group_size)
        pairs = make_pairs(
            rewards,
            scored if self.config.gated_rejected else scored & ~gated,
            groups,
            pairing=self.config.pairs,
            min_margin=self.config.min_margin,
            generator=self.generator,
        )
        return Rollout(completions, rewards, scored, groups, reference, pairs, info)

    # ---- update

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout's pairs; returns the metrics of docs/metrics.md.

        Raises:
            Diverged: no finite gradient for the third update in a row.
        """
        config = self.config
        done, pairs = rollout.completions, rollout.pairs
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

        set_learning_rate(
            self.optimizer, self.step, updates=config.updates, warmup=config.warmup_updates
        )
        minibatches = [
            sorted({i for p in within(rows) for i in (p.chosen, p.rejected)})
            for _ in range(config.epochs)
            for rows in whole_groups(rollout.groups, config.minibatches, self.generator)
        ]
        descent = descend(
            self.student, self.optimizer, self.parameters, done, minibatches, loss_of,
            lambda rows: len(within(rows)), grad_clip=config.grad_clip,
        )  # fmt: skip
        self.skipped = self.skipped + 1 if descent.skipped else 0
        if self.skipped >= MAX_SKIPPED:
            raise Diverged(f"no finite gradient in {self.skipped} updates in a row", rollout)
        self.step += 1
        self.last_pairs = [
            (done.prompts[p.chosen], done.jokes[p.chosen], done.jokes[p.rejected],
             float(rollout.info["raw"][p.chosen] - rollout.info["raw"][p.rejected]))
            for p in pairs
        ]  # fmt: skip
        n = max(seen["n"], 1.0)
        return self._describe(rollout) | {
            "loss/preference": descent.loss,
            "pairs/count": float(len(pairs)),
            "pairs/margin": float(np.mean([p.margin for p in pairs])) if pairs else math.nan,
            "pairs/chosen_reward": seen["chosen"] / n,
            "pairs/rejected_reward": seen["rejected"] / n,
            "pairs/accuracy": seen["right"] / n,
            "policy/kl_per_joke": float(np.mean(list(kl.values()))) if kl else math.nan,
            "policy/grad_norm": descent.grad_norm,
            "policy/learning_rate": self.optimizer.param_groups[0]["lr"],
            "policy/skipped": float(descent.skipped),
        }

    def _describe(self, rollout: Rollout) -> dict[str, float]:
        finite = rollout.rewards[rollout.scored]
        return {
            "reward/mean": float(finite.mean()) if len(finite) else math.nan,
            "reward/std": float(finite.std()) if len(finite) > 1 else math.nan,
            "joke/words": float(np.mean(rollout.info["length"])),
            "joke/recall": float(np.mean(rollout.info["recall"])),
            "joke/tokens": float(rollout.completions.mask.sum(-1).float().mean()),
            "joke/finished": float(np.mean(rollout.completions.finished)),
        }

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """`tensors` for safetensors and `scalars` for JSON; with the adapter, all of the agent."""
        tensors, steps = optimizer_state(self.optimizer, self.parameters)
        tensors |= {f"writer/{name}": value for name, value in self.writer.items()}
        scalars = {
            "step": self.step,
            "skipped": self.skipped,
            "generator": self.generator.get_state().tolist(),
            "optimizer_steps": steps,
        }
        return {"tensors": tensors, "scalars": scalars}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`; the student's adapter is loaded by the caller."""
        tensors, scalars = state["tensors"], state["scalars"]
        self.step, self.skipped = int(scalars["step"]), int(scalars["skipped"])
        restore_generator(self.generator, scalars["generator"])
        load_optimizer_state(self.optimizer, self.parameters, tensors, scalars["optimizer_steps"])
        self.writer = {
            name: tensors[f"writer/{name}"].to(value.device) for name, value in self.writer.items()
        }
        self.student.changed()


def flip_probability(margins: Sequence[float], confidence: float) -> Tensor:
    """How probably the critic ordered a pair wrongly: 1 / (1 + exp(confidence * margin)), (N,)."""
    return torch.sigmoid(-confidence * torch.tensor(list(margins)))
