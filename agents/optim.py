"""What every agent's optimizer shares: schedule, saved state, and one pass over minibatches."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agents.student import Completions, Student, TokenStats

MAX_SKIPPED = 3
"""Updates in a row without a finite gradient before training stops."""


class Diverged(RuntimeError):
    """No finite gradient several times in a row; carries the batch for a look."""

    def __init__(self, message: str, rollout: Any) -> None:
        super().__init__(message)
        self.rollout = rollout


def adamw(*groups: tuple[Mapping[str, nn.Parameter], float]) -> torch.optim.AdamW:
    """AdamW as RL from feedback uses it, each group with its own peak learning rate.

    Args:
        groups: (parameters by name, peak rate).
    """
    return torch.optim.AdamW(
        [{"params": list(named.values()), "peak": rate} for named, rate in groups],
        lr=groups[0][1],
        betas=(0.9, 0.95),
        eps=1e-5,  # PyTorch's 1e-8 is over-aggressive in the first steps
        weight_decay=0.0,
    )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, step: int, *, updates: int, warmup: int
) -> None:
    """Linear warm-up over `warmup` updates, then linearly to a tenth of the peak."""
    factor = min(1.0, (step + 1) / (warmup + 1)) * (1 - 0.9 * step / updates)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def optimizer_state(
    optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """AdamW's moments by parameter name, for safetensors, and its step counts, for JSON."""
    tensors: dict[str, Tensor] = {}
    steps: dict[str, float] = {}
    for name, parameter in named.items():
        state = optimizer.state.get(parameter, {})
        if state:
            tensors[f"exp_avg/{name}"] = state["exp_avg"]
            tensors[f"exp_avg_sq/{name}"] = state["exp_avg_sq"]
            steps[name] = float(state["step"])
    return tensors, steps


def load_optimizer_state(
    optimizer: torch.optim.Optimizer,
    named: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    steps: Mapping[str, float],
) -> None:
    """Undo of `optimizer_state`."""
    for name, parameter in named.items():
        if name in steps:
            optimizer.state[parameter] = {
                "step": torch.tensor(steps[name]),
                "exp_avg": tensors[f"exp_avg/{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].to(parameter.device),
            }


class Descent(NamedTuple):
    """What one pass over minibatches did."""

    loss: float  # mean over the terms that were summed
    grad_norm: float  # mean over optimizer steps, before clipping
    skipped: bool  # a step was left out: its gradient was not finite


def descend(
    student: Student,
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, nn.Parameter],
    completions: Completions,
    minibatches: Sequence[Sequence[int]],
    loss_of: Callable[[list[int], TokenStats], tuple[Tensor, int]],
    count_of: Callable[[Sequence[int]], int],
    *,
    grad_clip: float,
    heads: Mapping[str, nn.Parameter] | None = None,
    beside: Callable[[int], Tensor] | None = None,
    ready: Callable[[Sequence[int]], None] | None = None,
    stop: Callable[[Sequence[int]], bool] | None = None,
    entropy_gradient: bool = False,
) -> Descent:
    """One optimizer step a minibatch, each computed in micro-batches that keep groups whole.

    Args:
        student: what learns.
        optimizer: of `parameters`.
        parameters: exactly these get gradients.
        completions: the jokes.
        minibatches: rows of `completions`.
        loss_of: (rows of a micro-batch, what the student says of them) -> sum of its loss terms
            and how many there are.
        count_of: rows of a minibatch -> its number of loss terms; 0 leaves it out.
        grad_clip: largest norm of the gradient.
        heads: parameters outside the student that `loss_of` trains too.
        beside: number of a minibatch -> a loss of its own that is added to the minibatch's mean.
        ready: called with a minibatch's rows when its gradient is there, before it is looked at.
        stop: asked after the step of a minibatch, with its rows; True ends the descent.
        entropy_gradient: whether the entropies that `loss_of` sees carry gradient.
    """
    trained = [*parameters.values(), *(heads or {}).values()]
    total, n_terms, norms, skipped = 0.0, 0, [], False
    with student.training(parameters):
        for number, rows in enumerate(minibatches):
            expected = count_of(rows)
            if expected == 0:
                continue
            optimizer.zero_grad(set_to_none=True)
            summed = 0.0
            for part in student.micro_batches(completions, rows):
                stats = student.token_stats(completions, part, entropy_gradient=entropy_gradient)
                loss, n = loss_of(part, stats)
                if n:
                    (loss / expected).backward()
                    summed += float(loss.detach())
            if beside is not None:
                beside(number).backward()
            if ready is not None:
                ready(rows)
            norm = float(torch.nn.utils.clip_grad_norm_(trained, grad_clip))
            if not math.isfinite(norm) or not math.isfinite(summed):
                skipped = True
                continue
            optimizer.step()
            norms.append(norm)
            total += summed
            n_terms += expected
            if stop is not None and stop(rows):
                break
    student.changed()
    return Descent(
        total / n_terms if n_terms else math.nan,
        sum(norms) / len(norms) if norms else math.nan,
        skipped,
    )


def whole_groups(groups: Tensor, minibatches: int, generator: torch.Generator) -> list[list[int]]:
    """Rows in `minibatches` parts; a group stays whole, so its prompt is computed once."""
    order = torch.randperm(int(groups.max()) + 1, generator=generator)
    parts = order.tensor_split(minibatches)
    return [[i for i, g in enumerate(groups.tolist()) if g in set(part.tolist())] for part in parts]


def restore_generator(generator: torch.Generator, state: Any) -> None:
    """Set a generator to a state that was kept as a list of bytes."""
    generator.set_state(torch.tensor(state, dtype=torch.uint8))
