"""What the methods that learn from whole jokes share: a learner and its judged candidates.

A method owns a `Learner` and says only what it learns from and by which loss.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

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
from agents.student import Completions, Student, TokenStats
from models.format import Format
from rewards.types import Unfinished


class LearnerConfig(Protocol):
    """What a learner asks of its method's options."""

    @property
    def updates(self) -> int:
        """Updates of the run."""
        ...

    @property
    def warmup_updates(self) -> int:
        """Updates over which the learning rate rises."""
        ...

    @property
    def learning_rate(self) -> float:
        """AdamW's peak."""
        ...

    @property
    def group_size(self) -> int:
        """Jokes a prompt, K."""
        ...

    @property
    def epochs(self) -> int:
        """Passes an update."""
        ...

    @property
    def minibatches(self) -> int:
        """Optimizer steps a pass."""
        ...

    @property
    def temperature(self) -> float:
        """Of sampling."""
        ...

    @property
    def max_tokens(self) -> int:
        """Limit of a joke."""
        ...

    @property
    def grad_clip(self) -> float:
        """Largest norm of the gradient."""
        ...


class Candidates(NamedTuple):
    """B jokes in groups of K, and how they were received."""

    completions: Completions
    rewards: Tensor  # (B,) NaN where unscored
    scored: Tensor  # (B,) bool
    usable: Tensor  # (B,) bool, scored and not gated: what a student may be taught
    groups: Tensor  # (B,) int64
    info: Mapping[str, Any]  # of the environment, one entry a joke

    def describe(self) -> dict[str, float]:
        """The metrics of docs/metrics.md that need no training."""
        finite = self.rewards[self.scored]
        return {
            "reward/mean": float(finite.mean()) if len(finite) else math.nan,
            "reward/std": float(finite.std()) if len(finite) > 1 else math.nan,
            "joke/words": float(np.mean(self.info["length"])),
            "joke/recall": float(np.mean(self.info["recall"])),
            "joke/tokens": float(self.completions.mask.sum(-1).float().mean()),
            "joke/finished": float(np.mean(self.completions.finished)),
        }


class Learner:
    """Optimizer, random numbers, the student that learns and the one that writes.

    Args:
        config: sizes and rates.
        student: what learns.
        seed: of sampling and minibatches.
        writes: whether the method learns from the student's own jokes; then the writer's values
            are part of the state.
    """

    def __init__(
        self, config: LearnerConfig, student: Student, *, seed: int, writes: bool = True
    ) -> None:
        self.config, self.student, self.seed = config, student, seed
        self.parameters = student.trainable()
        self.optimizer = adamw((self.parameters, config.learning_rate))
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.skipped = 0  # updates in a row
        self.writer = student.adapter_values() if writes else {}
        if writes:
            student.start_reader(temperature=config.temperature)  # before anybody reads, as in PPO

    # ---- what it learns from

    def write(self, prompts: Sequence[str], *, refresh_every: int) -> Completions:
        """K jokes for each prompt, by the student as it was at the last refresh.

        Args:
            prompts: one a group.
            refresh_every: updates between refreshes; 0: never, the start student writes.
        """
        if refresh_every and self.step % refresh_every == 0:
            self.writer = self.student.adapter_values()
        with self.student.with_values(self.writer):
            return self.student.generate(
                prompts,
                self.config.group_size,
                temperature=self.config.temperature,
                max_tokens=self.config.max_tokens,
                generator=self.generator,
            )

    def candidates(self, env: Any, *, refresh_every: int) -> Candidates:
        """One step of the vector environment: K jokes for each of its prompts, judged."""
        prompts = list(env.shown[:: self.config.group_size])  # one a group, in order
        completions = self.write(prompts, refresh_every=refresh_every)
        return judged(env, completions, len(prompts))

    def minibatches(self, groups: Tensor, wanted: Collection[int]) -> list[list[int]]:
        """Rows of `wanted` in `epochs * minibatches` parts that keep groups whole."""
        return [
            [i for i in rows if i in wanted]
            for _ in range(self.config.epochs)
            for rows in whole_groups(groups, self.config.minibatches, self.generator)
        ]

    # ---- learning

    def learn(
        self,
        completions: Completions,
        minibatches: Sequence[Sequence[int]],
        loss_of: Callable[[list[int], TokenStats], tuple[Tensor, int]],
        count_of: Callable[[Sequence[int]], int],
        rollout: Any,
    ) -> tuple[float, dict[str, float]]:
        """One update by `agents.optim.descend`; returns the mean loss and ``policy/...`` metrics.

        Raises:
            Diverged: no finite gradient for the third update in a row; carries `rollout`.
        """
        self.set_rate()
        descent = descend(
            self.student, self.optimizer, self.parameters, completions, minibatches, loss_of,
            count_of, grad_clip=self.config.grad_clip,
        )  # fmt: skip
        self.skipped = self.skipped + 1 if descent.skipped else 0
        if self.skipped >= MAX_SKIPPED:
            raise Diverged(f"no finite gradient in {self.skipped} updates in a row", rollout)
        self.step += 1
        return descent.loss, {
            "policy/grad_norm": descent.grad_norm,
            "policy/learning_rate": self.rate,
            "policy/skipped": float(descent.skipped),
        }

    def set_rate(self) -> None:
        """The learning rate of the present update."""
        set_learning_rate(
            self.optimizer,
            self.step,
            updates=self.config.updates,
            warmup=self.config.warmup_updates,
        )

    @property
    def rate(self) -> float:
        """AdamW's present learning rate."""
        return float(self.optimizer.param_groups[0]["lr"])

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


def judged(env: Any, completions: Completions, n_prompts: int) -> Candidates:
    """Let the environment judge the jokes of its present prompts, in their order."""
    actions = tuple(
        joke if done else Unfinished(joke)
        for joke, done in zip(completions.jokes, completions.finished, strict=True)
    )
    _, rewards, _, _, info = env.step(actions)
    scored = torch.as_tensor(np.asarray(info["scored"], dtype=bool))
    gated = torch.tensor([bool(g) for g in info["gate"]])
    return Candidates(
        completions,
        torch.as_tensor(np.asarray(rewards), dtype=torch.float32),
        scored,
        scored & ~gated,
        torch.arange(n_prompts).repeat_interleave(len(actions) // n_prompts),
        info,
    )


def as_completions(
    fmt: Format, pairs: Sequence[tuple[str, str]], *, temperature: float
) -> Completions:
    """Given (prompt, joke) texts as if a student had written them, with their end tokens.

    Their `logps` are 0: nobody sampled them.

    Raises:
        ValueError: no pairs.
    """
    if not pairs:
        raise ValueError("as_completions got no (prompt, joke) pairs")
    joke_ids = [fmt.encode_joke(joke) for _, joke in pairs]
    mask = torch.zeros(len(pairs), max(map(len, joke_ids)), dtype=torch.bool)
    for i, ids in enumerate(joke_ids):
        mask[i, : len(ids)] = True
    return Completions(
        [prompt for prompt, _ in pairs],
        [joke for _, joke in pairs],
        [fmt.encode_prompt(prompt) for prompt, _ in pairs],
        joke_ids,
        [True] * len(pairs),
        torch.zeros(mask.shape),
        mask,
        temperature,
    )


def joined(one: Completions, other: Completions) -> Completions:
    """The jokes of both, `one` first.

    Raises:
        ValueError: their log-probabilities are of different temperatures.
    """
    if one.temperature != other.temperature:
        raise ValueError(f"joined got temperatures {one.temperature} and {other.temperature}")
    width = max(one.mask.shape[1], other.mask.shape[1])
    logps = torch.zeros(len(one.jokes) + len(other.jokes), width)
    mask = torch.zeros(logps.shape, dtype=torch.bool)
    at = 0
    for part in (one, other):
        rows, columns = part.mask.shape
        logps[at : at + rows, :columns] = part.logps
        mask[at : at + rows, :columns] = part.mask
        at += rows
    return Completions(
        [*one.prompts, *other.prompts],
        [*one.jokes, *other.jokes],
        [*one.prompt_ids, *other.prompt_ids],
        [*one.joke_ids, *other.joke_ids],
        [*one.finished, *other.finished],
        logps,
        mask,
        one.temperature,
    )


def epoch_rows(n: int, size: int, *, batch: int, seed: int) -> list[int]:
    """Which of `n` rows make up the `batch`-th batch, when each is used once before any again.

    Every epoch has its own order, known from its number, so no place in it needs to be saved.

    Args:
        n: rows, >= 1.
        size: rows a batch, >= 1.
        batch: number of the batch, from 0.
        seed: of all orders.
    """
    orders: dict[int, list[int]] = {}
    rows = []
    for place in range(batch * size, (batch + 1) * size):
        epoch, at = divmod(place, n)
        if epoch not in orders:
            generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
            orders[epoch] = torch.randperm(n, generator=generator).tolist()
        rows.append(orders[epoch][at])
    return rows
