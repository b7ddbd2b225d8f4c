"""PPO on whole jokes, token by token: collect, advantages, clipped loss, update.

Schulman et al. 2017, arXiv:1707.06347, with the details of "The N implementation details of RLHF
with PPO" (Huang et al. 2024). What differs, and why: the default advantage has no value head (a
group baseline, RLOO); advantages get one scale for the whole batch instead of whitening or a
group's deviation; a joke without a verdict trains nothing at all.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.configs import PPOConfig
from agents.learner import as_completions, epoch_rows, judged
from agents.losses import (
    KLController,
    explained_variance,
    gae,
    group_advantages,
    kl_estimates,
    masked_mean,
    policy_loss,
    scale_advantages,
    token_rewards,
    value_loss,
    whiten,
)
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
from agents.sft_more import IMITATED, corpus_examples
from agents.student import Completions, Student, TokenStats

SAMPLER_TOLERANCE = 1e-3
"""Nats a token by which sampler and training forward may differ before the forward is used."""

RATIO_TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.1}
"""How far from 1 the mean ratio of the very first minibatch of an update may be."""


class Rollout(NamedTuple):
    """What one call of `collect` brings: B jokes in groups, and how they were received."""

    completions: Completions
    rewards: Tensor  # (B,) NaN where unscored
    scored: Tensor  # (B,) bool
    groups: Tensor  # (B,) int64
    old_logps: Tensor  # (B, T) nats
    ref_logps: Tensor  # (B, T) nats
    values: Tensor | None  # (B, T), gae only
    info: Mapping[str, Any]  # of the environment, one entry a joke
    sampler_gap: float | None  # nats a token, sampler against training forward, if measured


class PPO:
    """The agent: owns optimizer, KL controller and random numbers; the student is passed in.

    Args:
        config: sizes and rates.
        student: what learns.
        seed: of sampling, minibatches and which train jokes are imitated.
        examples: (prompt, joke) to imitate where `imitation_coef` asks for it; None: the corpus'.
    """

    def __init__(
        self,
        config: PPOConfig,
        student: Student,
        *,
        seed: int,
        examples: Sequence[tuple[str, str]] | None = None,
    ) -> None:
        self.config, self.student, self.seed = config, student, seed
        self.parameters = student.trainable(last_layers=config.train_layers)
        self.values = {}
        if config.advantage == "gae":
            head = student.value_head or student.add_value_head()
            self.values = {f"value_head.{n}": p for n, p in head.named_parameters()}
        self.optimizer = adamw(
            (self.parameters, config.learning_rate), (self.values, config.value_learning_rate)
        )
        # before anybody reads: widened in mid-update, a resumed run would read twice what the
        # uninterrupted one reads once, in other batches
        student.start_reader(temperature=config.temperature)
        self.kl = KLController(config.kl_coef, config.kl_target, config.kl_horizon)
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.skipped = 0  # updates in a row
        self.entropy: float | None = None  # nats a token, mean over the last update
        self.examples = list(examples or ())
        if config.imitation_coef and examples is None:
            self.examples = corpus_examples(simple=True)
        self._sampler_is_exact: bool | None = {"sampler": True, "forward": False}.get(
            config.old_logps
        )

    # ---- collect

    def collect(self, env: Any) -> Rollout:
        """One step of the vector environment: K jokes for each of its prompts."""
        prompts = list(env.shown[:: self.config.group_size])  # one a group, in order
        completions = self.student.generate(
            prompts,
            self.config.group_size,
            temperature=self.config.temperature,
            max_tokens=self.config.max_tokens,
            generator=self.generator,
        )
        received = judged(env, completions, len(prompts))
        with torch.no_grad():
            old, values, gap = self._old_logps(completions)
            reference = self.student.reference_logps(completions)
        return Rollout(
            completions,
            received.rewards,
            received.scored,
            received.groups,
            old,
            reference,
            values,
            received.info,
            gap,
        )

    def _old_logps(self, completions: Completions) -> tuple[Tensor, Tensor | None, float | None]:
        """Of the policy that sampled: the sampler's own where that is exact, else a forward."""
        if self._sampler_is_exact and not self.values:
            return completions.logps, None, None
        logps = torch.zeros(completions.mask.shape)
        values = torch.zeros(completions.mask.shape) if self.values else None
        for rows in self.student.micro_batches(completions, range(len(completions.jokes))):
            stats = self.student.token_stats(completions, rows)
            logps[rows] = stats.logps.cpu()
            if values is not None and stats.values is not None:
                values[rows] = stats.values.cpu()
        gap = float(masked_mean((logps - completions.logps).abs(), completions.mask))
        if self._sampler_is_exact is None:
            self._sampler_is_exact = gap < SAMPLER_TOLERANCE
        return logps, values, gap

    # ---- update

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns the metrics of docs/metrics.md.

        Raises:
            Diverged: no finite gradient for the third update in a row.
            RuntimeError: the first ratio is not 1, so old and new log-probabilities disagree.
        """
        mask = rollout.completions.mask & rollout.scored[:, None]  # unscored jokes never train
        kl = kl_estimates(rollout.old_logps, rollout.ref_logps, mask)
        advantages, returns = self._advantages(rollout, kl.k1, mask)
        metrics = self._describe(rollout, kl.k1, kl.k3, mask, advantages)
        metrics |= self._optimise(rollout, advantages, returns, mask)
        self.step += 1
        if bool(mask.any()):
            per_token = float(masked_mean(kl.k1, mask))
            self.kl = self.kl.after(per_token, int(rollout.scored.sum()))
        return metrics

    def _advantages(
        self, rollout: Rollout, k1: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T) advantages, and the targets of the value head."""
        scores = torch.where(rollout.scored, rollout.rewards, 0.0)
        if rollout.values is not None:
            token = token_rewards(scores, k1, rollout.completions.mask, beta=self.kl.beta)
            result = gae(token, rollout.values, mask, gamma=self.config.gamma, lam=self.config.lam)
            return whiten(result.advantages, mask), result.returns
        penalised = scores - self.kl.beta * k1.sum(-1)
        advantages = group_advantages(
            penalised,
            rollout.scored,
            rollout.groups,
            divide_by_std=self.config.advantage == "grpo",
        )
        if self.config.advantage == "rloo":
            advantages = scale_advantages(advantages, rollout.scored)
        return advantages[:, None] * mask, None

    def _optimise(
        self, rollout: Rollout, advantages: Tensor, returns: Tensor | None, mask: Tensor
    ) -> dict[str, float]:
        config = self.config
        warming = returns is not None and self.step < config.value_warmup_updates
        floored = self.entropy is not None and self.entropy < config.entropy_floor
        bonus = config.entropy_coef if floored and not warming else 0.0
        now = dict.fromkeys(("loss", "clipped", "approx_kl", "value", "entropy", "ratio"), 0.0)
        last, totals = dict(now), dict.fromkeys((*now, "tokens"), 0.0)
        first_ratio, stopped, imitated = math.nan, False, []
        set_learning_rate(
            self.optimizer, self.step, updates=config.updates, warmup=config.warmup_updates
        )

        def tokens_of(rows: Sequence[int]) -> int:
            return int(mask[list(rows)].sum())

        def loss_of(part: list[int], stats: TokenStats) -> tuple[Tensor, int]:
            where, logps, entropy = mask[part], stats.logps.cpu(), stats.entropy.cpu()
            policy = policy_loss(
                logps, rollout.old_logps[part], advantages[part], where, clip=config.clip
            )
            loss = policy.loss * 0.0 if warming else policy.loss
            if bonus:
                loss = loss - bonus * (entropy * where).sum()  # L - c sum_t H_t
            if returns is not None and rollout.values is not None:
                assert stats.values is not None  # gae always has a head
                fit = value_loss(
                    stats.values.cpu(), rollout.values[part], returns[part], where,
                    clip=config.value_clip,
                )  # fmt: skip
                loss = loss + fit
                now["value"] += float(fit.detach())
            gap = torch.where(where, logps.detach() - rollout.old_logps[part], 0.0)
            now["ratio"] += float((gap.exp() * where).sum())
            now["loss"] += float(policy.loss.detach())
            now["clipped"] += float(policy.clipped)
            now["approx_kl"] += float(policy.approx_kl)
            now["entropy"] += float((entropy.detach() * where).sum())
            return loss, int(where.sum())

        def ready(rows: Sequence[int]) -> None:
            nonlocal first_ratio
            for key in now:
                last[key], now[key] = now[key], 0.0
            if math.isnan(first_ratio):
                first_ratio = last["ratio"] / tokens_of(rows)
                self._check_first_ratio(first_ratio)

        def stop(rows: Sequence[int]) -> bool:
            nonlocal stopped
            for key in last:
                totals[key] += last[key]
            totals["tokens"] += tokens_of(rows)
            stopped = last["approx_kl"] / tokens_of(rows) > 1.5 * config.max_approx_kl
            return stopped  # as SB3's target_kl

        def imitation(number: int) -> Tensor:
            loss = self._imitation(number % config.minibatches)
            imitated.append(float(loss.detach()))
            return config.imitation_coef * loss  # + gamma L_ptx

        minibatches = [
            rows
            for _ in range(config.epochs)
            for rows in whole_groups(rollout.groups, config.minibatches, self.generator)
        ]
        descent = descend(
            self.student, self.optimizer, self.parameters, rollout.completions, minibatches,
            loss_of, tokens_of, grad_clip=config.grad_clip, heads=self.values,
            beside=imitation if config.imitation_coef and not warming else None,
            ready=ready, stop=stop, entropy_gradient=bonus > 0,
        )  # fmt: skip
        self.skipped = self.skipped + 1 if descent.skipped else 0
        if self.skipped >= MAX_SKIPPED:
            raise Diverged(f"no finite gradient in {self.skipped} updates in a row", rollout)
        n = max(totals["tokens"], 1.0)
        if totals["tokens"]:
            self.entropy = totals["entropy"] / n
        out = {
            "loss/policy": totals["loss"] / n,
            "policy/clip_fraction": totals["clipped"] / n,
            "policy/approx_kl": totals["approx_kl"] / n,
            "policy/entropy": totals["entropy"] / n,
            "policy/first_ratio": first_ratio,
            "policy/grad_norm": descent.grad_norm,
            "policy/learning_rate": self.optimizer.param_groups[0]["lr"],
            "policy/skipped": float(descent.skipped),
            "policy/stopped_early": float(stopped),
        }
        if config.entropy_floor:
            out["policy/entropy_coef"] = bonus
        if imitated:
            out["loss/imitation"] = sum(imitated) / len(imitated)
        if returns is not None and rollout.values is not None:
            out["loss/value"] = totals["value"] / n
            out["value/explained_variance"] = explained_variance(rollout.values, returns, mask)
        return out

    def _imitation(self, minibatch: int) -> Tensor:
        """() nats a token of train jokes: PPO-ptx, Ouyang et al. 2022, arXiv:2203.02155, Eq. 2.

        As many jokes an update as it has prompts, spread over its minibatches.
        """
        size = self.config.prompts_per_update
        rows = epoch_rows(len(self.examples), size, batch=self.step, seed=self.seed)
        mine = [self.examples[i] for i in rows[minibatch :: self.config.minibatches]]
        jokes = as_completions(self.student.format, mine, temperature=IMITATED)
        stats = self.student.token_stats(jokes, range(len(mine)))
        return -stats.logps.cpu().sum() / int(jokes.mask.sum())

    def _check_first_ratio(self, ratio: float) -> None:
        tolerance = RATIO_TOLERANCE.get(self.student.base.model.dtype, 0.1)
        if math.isfinite(ratio) and abs(ratio - 1) > tolerance:
            raise RuntimeError(
                f"mean ratio of the first minibatch is {ratio:.4f}, must be 1 +- {tolerance}: the "
                f"old log-probabilities are not of the policy that sampled "
                f"(try --old-logps forward)"
            )

    def _describe(
        self, rollout: Rollout, k1: Tensor, k3: Tensor, mask: Tensor, advantages: Tensor
    ) -> dict[str, float]:
        scored = rollout.scored
        lengths = rollout.completions.mask.sum(-1).float()
        finite = rollout.rewards[scored]
        metrics = {
            "reward/mean": float(finite.mean()) if len(finite) else math.nan,
            "reward/std": float(finite.std()) if len(finite) > 1 else math.nan,
            "policy/kl_per_joke": float(k1.sum(-1)[scored].mean()) if len(finite) else math.nan,
            "policy/kl_per_token": float(masked_mean(k1, mask)),
            "policy/kl_k3_per_token": float(masked_mean(k3, mask)),
            "policy/kl_coef": self.kl.beta,
            "policy/advantage_std": float(advantages[mask].std()) if len(finite) > 1 else 0.0,
            "joke/words": float(np.mean(rollout.info["length"])),
            "joke/recall": float(np.mean(rollout.info["recall"])),
            "joke/tokens": float(lengths.mean()),
            "joke/finished": float(np.mean(rollout.completions.finished)),
        }
        if rollout.sampler_gap is not None:
            metrics["policy/sampler_gap"] = rollout.sampler_gap
        return metrics

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """`tensors` for safetensors and `scalars` for JSON; with the adapter, all of the agent."""
        tensors = {f"value/{n}": p.detach().clone() for n, p in self.values.items()}
        moments, steps = optimizer_state(self.optimizer, self.parameters | self.values)
        tensors |= moments
        scalars = {
            "step": self.step,
            "skipped": self.skipped,
            "kl_beta": self.kl.beta,
            "entropy": self.entropy,
            "sampler_is_exact": self._sampler_is_exact,
            "generator": self.generator.get_state().tolist(),
            "optimizer_steps": steps,
        }
        return {"tensors": tensors, "scalars": scalars}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`; the student's adapter is loaded by the caller."""
        tensors, scalars = state["tensors"], state["scalars"]
        self.step, self.skipped = int(scalars["step"]), int(scalars["skipped"])
        self.kl = self.kl._replace(beta=float(scalars["kl_beta"]))
        self.entropy = scalars["entropy"]
        self._sampler_is_exact = scalars["sampler_is_exact"]
        restore_generator(self.generator, scalars["generator"])
        for name, parameter in self.values.items():
            parameter.data.copy_(tensors[f"value/{name}"])
        load_optimizer_state(
            self.optimizer, self.parameters | self.values, tensors, scalars["optimizer_steps"]
        )
        self.student.changed()
