"""When a run stops and which checkpoint it keeps, read from the select critic. Pure functions.

Over-optimisation is the documented failure of humor RL: the training reward rises while the jokes
get worse. So a run stops when the mean of three evaluations is more than one paired standard error
below its best while the training reward rose.
"""

from collections.abc import Sequence
from typing import NamedTuple

from evaluation.intervals import prompt_means, standard_error

WINDOW = 3
"""Evaluations averaged before they are compared: one alone is too noisy."""


class Evaluation(NamedTuple):
    """The select critic's answer at one moment of a run, always on the same prompts."""

    update: int  # updates done
    scores: Sequence[float | None]  # (P,) mean of each prompt's jokes; None without a verdict
    train_reward: float  # mean training reward since the evaluation before


class Stop(NamedTuple):
    """Why a run should stop."""

    best_update: int  # last update of the best window
    drop: float  # how far the window is below the best, units of the score, > 0
    error: float  # paired standard error of the drop
    reward_rise: float  # by how much the training reward rose meanwhile, > 0

    def __str__(self) -> str:
        """One line for the log."""
        return (
            f"the select critic is {self.drop:.3f} below its best (update {self.best_update}), more"
            f" than one paired standard error ({self.error:.3f}), while the training reward rose"
            f" by {self.reward_rise:.3f}"
        )


def should_stop(history: Sequence[Evaluation], window: int = WINDOW) -> Stop | None:
    """Apply the stop rule to all evaluations so far, oldest first.

    Compared are means over `window` successive evaluations, prompt by prompt: the latest with the
    one whose mean was highest (the first of equals). Prompts without a verdict in either are left
    out.

    Returns:
        The reason; None to go on, which is so until there are window + 1 evaluations.

    Raises:
        ValueError: window < 1, or evaluations on different numbers of prompts.
    """
    if window < 1:
        raise ValueError(f"window is {window}, must be at least 1")
    sizes = {len(e.scores) for e in history}
    if len(sizes) > 1:
        raise ValueError(f"evaluations have {sorted(sizes)} prompts, must all have the same")
    if len(history) <= window:
        return None
    windows = [history[i : i + window] for i in range(len(history) - window + 1)]
    scores = [prompt_means(list(zip(*(e.scores for e in w), strict=True))) for w in windows]
    means = [_mean(row) for row in scores]
    known = [i for i, mean in enumerate(means) if mean is not None]
    latest = len(windows) - 1
    if latest not in known:
        return None
    best = max(known, key=lambda i: (means[i] or 0.0, -i))
    drops = [
        b - now
        for b, now in zip(scores[best], scores[latest], strict=True)
        if b is not None and now is not None
    ]
    if best == latest or not drops:
        return None
    drop, error = sum(drops) / len(drops), standard_error(drops)
    rise = _reward(windows[latest]) - _reward(windows[best])
    return Stop(windows[best][-1].update, drop, error, rise) if drop > error and rise > 0 else None


def best_evaluation(history: Sequence[Evaluation]) -> int | None:
    """Index of the evaluation with the highest mean, the first of equals; None without verdicts."""
    means = [_mean(e.scores) for e in history]
    known = [i for i, mean in enumerate(means) if mean is not None]
    return max(known, key=lambda i: (means[i] or 0.0, -i)) if known else None


def _mean(scores: Sequence[float | None]) -> float | None:
    seen = [s for s in scores if s is not None]
    return sum(seen) / len(seen) if seen else None


def _reward(window: Sequence[Evaluation]) -> float:
    return sum(e.train_reward for e in window) / len(window)
