"""Takes the shortcut of length and of overlap with the prompt out of a critic's scores.

    debiased = score - sum_c r_c (x_c - mean x_c),   c = length (words), overlap (recall, 0-1)

    none        r = 0
    linear      r = b, the slope of the scores on x: no slope is left
    lowess      the same with a curve (locally weighted lines) instead of a slope
    calibrated  r = b - k b*, b* the slope of the labels: what labelled preferences share stays;
                0 where the labels' slope goes further the same way: a control adds no incentive

k brings labels to the critic's scale: 1 for a critic on the labels' own scale, else the slope of
scores on labels, within prompts and net of the covariates, at least 0. Net of them, since a liking
for length would pass for a coarser scale and be kept (docs/debias.md). Noise of the labels makes k
too small, so that a little too much is taken out; a critic that does not follow the labels has k
near 0 and keeps no slope.
Slopes are fitted jointly over the covariates, within prompts where most lines share their prompt
with another (what a reward compares), else over all lines. A fit sees frozen calibration jokes and
a bounded window of past steps, never the batch that it corrects, and is shrunk to the calibration
jokes' own fit: b = b0 + w (b_window - b0), w = n / (n + prior_jokes).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rewards.text import recall, words

MODES = ("none", "linear", "lowess", "calibrated")
COVARIATES = ("length", "overlap")
DETERMINED = 1e-9
"""Labels whose variance the covariates leave less of than this say nothing beside them."""
SPAN = 0.6
"""Share of the lines that a locally weighted line looks at."""

Floats = NDArray[np.float64]


class LabelledJoke(NamedTuple):
    """A frozen joke that a reward is calibrated on."""

    prompt: str
    joke: str
    label: float | None = None  # rating by people or by a strong judge, any linear scale


class Slopes(NamedTuple):
    """Slopes of one regression, one entry a covariate."""

    slope: Floats  # (C,) change of y per unit of x
    error: Floats  # (C,) standard errors


@dataclass(frozen=True)
class ControlConfig:
    """What is taken out of the scores, and how fast the fit follows the policy."""

    mode: str = "calibrated"
    """none, linear, lowess or calibrated."""
    covariates: tuple[str, ...] = COVARIATES
    """Any of length (words) and overlap (recall of the prompt's content words)."""
    same_scale: bool = False
    """Whether scores are on the labels' own scale (an expected rating)."""
    window: int = 2048
    """Past jokes that a refit sees, >= 0; 0 freezes the fit."""
    prior_jokes: float = 1000.0
    """Weight of the calibration fit, in jokes of the window; > 0."""

    def __post_init__(self) -> None:
        """Check every field."""
        if self.mode not in MODES:
            raise ValueError(f"control is {self.mode!r}, allowed are {', '.join(MODES)}")
        unknown = [c for c in self.covariates if c not in COVARIATES]
        if unknown or not self.covariates:
            raise ValueError(
                f"control covariates are {self.covariates!r}, allowed are {', '.join(COVARIATES)}"
            )
        if self.window < 0 or not self.prior_jokes > 0:
            raise ValueError(
                f"control needs window >= 0 and prior_jokes > 0, got {self.window} and "
                f"{self.prior_jokes}"
            )


def covariates(prompt: str, joke: str, names: Sequence[str]) -> list[float]:
    """The values of the named covariates for one joke."""
    value = {"length": lambda: float(len(words(joke))), "overlap": lambda: recall(prompt, joke)}
    return [value[name]() for name in names]


def fit_slopes(x: Floats, y: Floats, groups: Sequence[int]) -> Slopes:
    """Least-squares slopes of y on x, within groups where at least half of the lines have company.

    Args:
        x: (N, C) covariates.
        y: (N,) scores or labels.
        groups: (N,) which prompt (of which step) each line belongs to.
    """
    xc = np.stack([centred(column, groups) for column in x.T], axis=1)
    yc = centred(y, groups)
    n_groups = len(set(groups)) if _has_company(groups) else 1
    spread = np.linalg.pinv(xc.T @ xc, rcond=1e-10)
    slope = spread @ xc.T @ yc
    left = yc - xc @ slope
    free = max(len(y) - n_groups - x.shape[1], 1)
    return Slopes(slope, np.sqrt(np.diag(spread) * (left @ left) / free))


def centred(v: Floats, groups: Sequence[int]) -> Floats:
    """`v` minus the mean of its group; minus that of all where most lines are alone in theirs.

    Args:
        v: (N,) values.
        groups: (N,) which prompt (of which step) each line belongs to.
    """
    if not _has_company(groups):
        return np.asarray(v - v.mean())
    _, place, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    means: Floats = np.bincount(place, v) / sizes
    return v - means[place]


def _has_company(groups: Sequence[int]) -> bool:
    _, place, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return bool((sizes[place] > 1).mean() >= 0.5)


def local_line(x: Floats, y: Floats, at: Floats) -> Floats:
    """Locally weighted lines through (x, y), read off at `at`: LOWESS without its robust passes.

    Source: Cleveland 1979, doi:10.1080/01621459.1979.10481038; tricube weights over the nearest
    SPAN of the lines.
    """
    near = max(int(np.ceil(SPAN * len(x))), 2)
    values = np.empty(len(at))
    for i, centre in enumerate(at):
        distance = np.abs(x - centre)
        reach = max(float(np.partition(distance, near - 1)[near - 1]), 1e-9) * (1 + 1e-9)
        weight = np.clip(1 - (distance / reach) ** 3, 0, None) ** 3
        mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
        spread = np.average((x - mean_x) ** 2, weights=weight)
        slope = np.average((x - mean_x) * (y - mean_y), weights=weight) / max(spread, 1e-12)
        values[i] = mean_y + (slope * (centre - mean_x) if spread > 1e-12 else 0.0)
    return values


def fit_curves(x: Floats, y: Floats, grids: Sequence[Floats]) -> list[Floats]:
    """An additive smooth of y on the columns of x by backfitting, each curve on its grid."""
    curves = [np.zeros(len(grid)) for grid in grids]
    for _ in range(3):
        for c, grid in enumerate(grids):
            others = sum(
                np.interp(x[:, d], grids[d], curves[d]) for d in range(len(grids)) if d != c
            )
            curve = local_line(x[:, c], y - y.mean() - others, grid)
            curves[c] = curve - np.interp(x[:, c], grid, curve).mean()
    return curves


@dataclass
class Control:
    """A fitted correction that follows the policy. `apply` first, then `observe` the same batch."""

    config: ControlConfig
    refits: list[dict[str, float]] = field(default_factory=list)
    """The last 100 refits: per covariate slope, sign, interval and what is removed."""

    def __post_init__(self) -> None:
        """Start without a fit."""
        self._rows: list[list[float]] = []  # calibration: group, x..., score
        self._labels: list[float | None] = []
        self._window: deque[list[float]] = deque(maxlen=self.config.window)
        self._groups = 0
        self._shift: Floats | None = None  # (C,) removed slopes; None before a fit
        self._curves: list[Floats] = []

    def calibrate(self, jokes: Sequence[LabelledJoke], scores: Sequence[float | None]) -> None:
        """Fit on the frozen calibration jokes; those without a score are left out.

        Raises:
            ValueError: fewer than 10 scored jokes, or `calibrated` with fewer than 10 labels.
        """
        if len(jokes) != len(scores):
            raise ValueError(f"calibrate got {len(jokes)} jokes and {len(scores)} scores")
        if self.config.mode == "none":
            return
        ids = {prompt: k for k, prompt in enumerate(dict.fromkeys(j.prompt for j in jokes))}
        names = self.config.covariates
        kept = [(j, s) for j, s in zip(jokes, scores, strict=True) if s is not None]
        self._rows = [[ids[j.prompt], *covariates(j.prompt, j.joke, names), s] for j, s in kept]
        self._labels = [j.label for j, _ in kept]
        n_labels = sum(label is not None for label in self._labels)
        if len(kept) < 10 or (self.config.mode == "calibrated" and n_labels < 10):
            raise ValueError(
                f"control {self.config.mode!r} needs 10 scored calibration jokes (and labels, for "
                f"'calibrated'), got {len(kept)} and {n_labels}; use control 'none' without them"
            )
        self._refit()

    def apply(
        self, prompts: Sequence[str], jokes: Sequence[str], scores: Sequence[float | None]
    ) -> list[float | None]:
        """Return the debiased scores by the present fit; None stays None.

        Raises:
            ValueError: not calibrated, with a mode other than none.
        """
        if self.config.mode == "none":
            return list(scores)
        if self._shift is None:
            raise ValueError(f"control {self.config.mode!r} was not calibrated before its use")
        return [
            None if score is None else score - self._removed(prompt, joke)
            for prompt, joke, score in zip(prompts, jokes, scores, strict=True)
        ]

    def observe(
        self, prompts: Sequence[str], jokes: Sequence[str], scores: Sequence[float | None]
    ) -> None:
        """Take a corrected batch into the window of past steps and refit for the next one."""
        if self.config.mode == "none" or not self.config.window:
            return
        ids = {p: self._groups + k for k, p in enumerate(dict.fromkeys(prompts))}
        self._groups += len(ids)
        names = self.config.covariates
        for prompt, joke, score in zip(prompts, jokes, scores, strict=True):
            if score is not None:
                self._window.append([ids[prompt], *covariates(prompt, joke, names), score])
        self._refit()

    @property
    def metrics(self) -> dict[str, float]:
        """The last refit; empty before the first."""
        return dict(self.refits[-1]) if self.refits else {}

    def state_dict(self) -> dict[str, Any]:
        """Rows of the calibration jokes and of the window, JSON-serialisable."""
        return {
            "rows": [list(row) for row in self._rows],
            "labels": list(self._labels),
            "window": [list(row) for row in self._window],
            "groups": self._groups,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`; the fit follows from the rows."""
        self._rows = [list(row) for row in state["rows"]]
        self._labels = list(state["labels"])
        self._window = deque((list(row) for row in state["window"]), maxlen=self.config.window)
        self._groups = int(state["groups"])
        if self._rows:
            self._refit()

    def _removed(self, prompt: str, joke: str) -> float:
        x = np.array(covariates(prompt, joke, self.config.covariates))
        if self.config.mode == "lowess":
            return float(
                sum(
                    np.interp(v, grid, curve)
                    for v, grid, curve in zip(x, self._grids, self._curves, strict=True)
                )
            )
        return float((x - self._mean) @ self._shift)

    def _refit(self) -> None:
        rows = np.array(self._rows)
        groups, x, y = rows[:, 0].astype(int), rows[:, 1:-1], rows[:, -1]
        self._mean = x.mean(0)
        prior = fit_slopes(x, y, groups.tolist())
        slope, error = prior
        weight = len(self._window) / (len(self._window) + self.config.prior_jokes)
        enough = len(self._window) >= 10
        if enough:
            past = np.array(self._window)
            recent = fit_slopes(past[:, 1:-1], past[:, -1], past[:, 0].astype(int).tolist())
            slope = prior.slope + weight * (recent.slope - prior.slope)
            error = np.hypot((1 - weight) * prior.error, weight * recent.error)
        shared = np.zeros_like(slope)
        if self.config.mode == "calibrated":
            shared = self._label_slopes(groups, x, y)
        excess = slope - shared
        self._shift = np.where(excess * slope > 0, excess, 0.0)  # it removes, it never adds
        if self.config.mode == "lowess":
            self._grids = [np.linspace(c.min(), c.max(), 25) for c in x.T]
            self._curves = fit_curves(x, y, self._grids)
            if enough:
                newer = fit_curves(past[:, 1:-1], past[:, -1], self._grids)
                self._curves = [
                    (1 - weight) * old + weight * new
                    for old, new in zip(self._curves, newer, strict=True)
                ]
        entry: dict[str, float] = {}
        for c, name in enumerate(self.config.covariates):
            entry |= {
                f"control/{name}_slope": float(slope[c]),
                f"control/{name}_sign": float(np.sign(slope[c])),
                f"control/{name}_low": float(slope[c] - 1.96 * error[c]),
                f"control/{name}_high": float(slope[c] + 1.96 * error[c]),
                f"control/{name}_shared": float(shared[c]),
                f"control/{name}_removed": float(self._shift[c]),
            }
        self.refits = [*self.refits[-99:], entry]

    def _label_slopes(self, groups: NDArray[np.int64], x: Floats, y: Floats) -> Floats:
        """The labels' slopes in units of the scores; frozen, since only these jokes have labels."""
        known = np.array([label is not None for label in self._labels])
        labels = np.array([label for label in self._labels if label is not None], dtype=float)
        own = groups[known].tolist()
        slope = fit_slopes(x[known], labels, own).slope
        if self.config.same_scale:
            return slope
        # Frisch-Waugh: the slope on what x leaves of the labels is the slope on labels net of x.
        beside = centred(labels - x[known] @ slope, own)
        if beside.var() <= DETERMINED * centred(labels, own).var():
            beside = centred(labels, own)
        gain = float(fit_slopes(beside[:, None], y[known], own).slope[0])
        return slope * max(gain, 0.0)
