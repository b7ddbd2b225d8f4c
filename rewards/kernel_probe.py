"""Kernel ridge on frozen features, with fold models that never saw a prompt's labels.

A probe standardises pooled states, keeps their first principal components at unit variance, appends
weighted plain features and fits kernel ridge on it. Lines of one prompt share a random offset (a
critic reads all lines of a prompt together), so fitting puts the within-prompt order first:

    A = (K + ridge * (I - share * C))^-1 (Y - mean),   C = centring within each prompt

which minimises ||y - f||^2 + share / (1 - share) * ||C (y - f)||^2 + ridge * |f|^2 for share in
[0, 1), and is plain kernel ridge for share = 0. Means, axes and kernel rows never look at labels,
so the fold models share them and differ in their weights alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

Array = NDArray[np.float32]

KERNELS = ("rbf", "linear")


@dataclass(frozen=True)
class ProbeRecipe:
    """How one probe is fitted."""

    layers: tuple[int, ...]
    """Hidden states it reads, 1 = after the first layer."""
    poolings: tuple[str, ...] = ("mean", "last")
    """How a joke's tokens become one vector; names of `rewards.features.POOLINGS`."""
    plain: tuple[str, ...] = ()
    """Plain features it reads; names of `rewards.features.PLAIN_NAMES`."""
    components: int = 128
    """Principal components of the pooled states, >= 1."""
    plain_weight: float = 2.0
    """Factor of the standardised plain features beside unit-variance components, >= 0."""
    kernel: str = "rbf"
    """`rbf` or `linear`."""
    gamma: float = 0.5
    """Width of the RBF kernel on rows of mean squared norm 1, > 0."""
    ridge: float = 3.0
    """Noise variance over signal variance, > 0."""
    share: float = 0.0
    """Part of the noise that all lines of a prompt have in common, in [0, 1)."""

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel is {self.kernel!r}, allowed are {', '.join(KERNELS)}")
        if self.components < 1 or self.gamma <= 0 or self.ridge <= 0 or self.plain_weight < 0:
            raise ValueError(
                f"a probe needs components >= 1, gamma > 0, ridge > 0, plain_weight >= 0, got "
                f"{self.components}, {self.gamma}, {self.ridge}, {self.plain_weight}"
            )
        if not 0 <= self.share < 1:
            raise ValueError(f"share is {self.share}, allowed is [0, 1)")

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "ProbeRecipe":
        """Undo of `to_json`."""
        lists = {k: tuple(values[k]) for k in ("layers", "poolings", "plain")}
        return ProbeRecipe(**{**values, **lists})


class Prediction(NamedTuple):
    """What a probe says about N jokes."""

    values: Array  # (N, targets) on the scale of the fitted targets
    nearest: Array  # (N,) RBF value of the nearest fitted line of another fold, (0, 1]


@dataclass(frozen=True)
class KernelProbe:
    """A fitted probe; all arrays float32."""

    recipe: ProbeRecipe
    centre: Array  # (P,) mean of the pooled states
    deviation: Array  # (P,) their standard deviation
    axes: Array  # (P, components) from standardised pooled states to unit-variance components
    plain_centre: Array  # (Q,)
    plain_scale: Array  # (Q,) weight over deviation
    norm: Array  # (1,) root mean squared norm of the fitted rows
    points: Array  # (n, components + Q) fitted rows
    folds: NDArray[np.int64]  # (n,) fold of each point
    weights: Array  # (models, n, targets), model 0 = all points, model 1 + f = without fold f
    means: Array  # (models, targets)

    def rows(self, pooled: Array, plain: Array) -> Array:
        """Map (N, P) pooled and (N, Q) plain features to kernel rows."""
        components = ((pooled - self.centre) / self.deviation) @ self.axes
        beside = (plain - self.plain_centre) * self.plain_scale
        joined: Array = (np.concatenate([components, beside], axis=1) / self.norm).astype(
            np.float32
        )
        return joined

    def predict(self, pooled: Array, plain: Array, folds: Sequence[int]) -> Prediction:
        """Score N jokes.

        Args:
            pooled: (N, P) pooled states, as the recipe's layers and poolings give them.
            plain: (N, Q) the recipe's plain features.
            folds: for each joke the fold its prompt's labels are in, -1 if they are in none.
        """
        fold = np.asarray(folds)
        rows = self.rows(pooled, plain)
        kernel = kernel_matrix(rows, self.points, self.recipe)
        values = np.empty((len(fold), self.means.shape[1]), dtype=np.float32)
        for f in np.unique(fold):
            at = fold == f
            values[at] = kernel[at] @ self.weights[1 + f] + self.means[1 + f]
        near = kernel
        if self.recipe.kernel != "rbf":  # an inner product grows with distance from the centre
            near = kernel_matrix(rows, self.points, replace(self.recipe, kernel="rbf"))
        other = np.where(fold[:, None] == self.folds[None, :], -np.inf, near)
        return Prediction(values, other.max(1).astype(np.float32))


def kernel_matrix(a: Array, b: Array, recipe: ProbeRecipe) -> Array:
    """Kernel values (len(a), len(b)) of rows a and b."""
    inner = a @ b.T
    if recipe.kernel == "linear":
        return np.asarray(inner, dtype=np.float32)
    square = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * inner
    return np.asarray(np.exp(-recipe.gamma * np.maximum(square, 0)), dtype=np.float32)


def fit_probe(
    recipe: ProbeRecipe,
    pooled: Array,
    plain: Array,
    targets: Array,
    prompts: Sequence[str],
    folds: Sequence[int],
) -> KernelProbe:
    """Fit the model of all points and one for each fold left out.

    Args:
        recipe: see `ProbeRecipe`.
        pooled: (n, P) pooled states.
        plain: (n, Q) plain features.
        targets: (n, targets) what is predicted, e.g. rating, rating >= 4, fact kept.
        prompts: what joins the lines of one prompt.
        folds: fold of each line's prompt, 0, 1, ...; -1 = in every fold model.

    Raises:
        ValueError: lengths differ, too few lines, or a prompt in two folds.
    """
    n = len(pooled)
    if not n == len(plain) == len(targets) == len(prompts) == len(folds):
        raise ValueError(
            f"fit_probe got {n} pooled, {len(plain)} plain, {len(targets)} targets, "
            f"{len(prompts)} prompts, {len(folds)} folds"
        )
    if n <= recipe.components:
        raise ValueError(f"{recipe.components} components need more lines than {n}")
    fold = np.asarray(folds, dtype=np.int64)
    group = np.unique(np.asarray(prompts), return_inverse=True)[1]
    if len(np.unique(np.stack([group, fold]), axis=1).T) != group.max() + 1:
        raise ValueError("the lines of one prompt are in more than one fold")
    centre = pooled.mean(0)
    deviation = np.maximum(pooled.std(0), 1e-6)
    z = (pooled - centre) / deviation
    axes = principal_axes(z, recipe.components)
    plain_centre = plain.mean(0)
    plain_scale = recipe.plain_weight / np.maximum(plain.std(0), 1e-6)
    raw = np.concatenate([z @ axes, (plain - plain_centre) * plain_scale], axis=1)
    norm = np.sqrt((raw**2).sum(1).mean()).reshape(1)
    points = (raw / norm).astype(np.float32)
    kernel = kernel_matrix(points, points, recipe).astype(np.float64)
    noise = recipe.ridge * prompt_noise(group, recipe.share)
    models = 2 + int(fold.max())
    weights = np.zeros((models, n, targets.shape[1]))
    means = np.zeros((models, targets.shape[1]))
    for model in range(models):
        at = np.flatnonzero(fold != model - 1) if model else np.arange(n)
        means[model] = targets[at].mean(0)
        system = kernel[np.ix_(at, at)] + noise[np.ix_(at, at)]
        weights[model, at] = np.linalg.solve(system, targets[at] - means[model])
    arrays = (centre, deviation, axes, plain_centre, plain_scale, norm, points)
    centre, deviation, axes, plain_centre, plain_scale, norm, points = (
        a.astype(np.float32) for a in arrays
    )
    return KernelProbe(
        recipe, centre, deviation, axes, plain_centre, plain_scale, norm, points, fold,
        weights.astype(np.float32), means.astype(np.float32),
    )  # fmt: skip


def prompt_noise(group: NDArray[np.int64], share: float) -> NDArray[np.float64]:
    """Return I - share * C, C = centring within each group: noise in part common to a group."""
    same = (group[:, None] == group[None, :]).astype(np.float64)
    size = same.sum(1)
    noise: NDArray[np.float64] = np.eye(len(group)) * (1 - share) + share * same / size[:, None]
    return noise


def principal_axes(z: Array, components: int) -> Array:
    """Return axes (P, components) that turn standardised z (n, P) into unit-variance components.

    Components whose variance vanishes become zero.
    """
    x = z.astype(np.float64)
    n, width = x.shape
    wide = n < width  # the smaller of the two Gram matrices has the same non-zero spectrum
    gram = x @ x.T if wide else x.T @ x
    size = len(gram)
    values, vectors = eigh(gram, subset_by_index=[max(0, size - components), size - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    if wide:
        vectors = x.T @ vectors / np.sqrt(np.maximum(values, 1e-9))
    keep = values > 1e-6 * max(values[0], 1e-12)
    spread = np.where(keep, 1 / np.sqrt(np.maximum(values, 1e-12) / n), 0.0)
    return np.asarray(vectors * spread, dtype=np.float32)
