"""A fitted critic as one file pair: probes, calibration, domain guard; safetensors and JSON.

Figures belong to what ships, so arrays are rounded to half precision before anything is measured.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from rewards.features import PLAIN_NAMES, plain_features, pool
from rewards.kernel_probe import Array, KernelProbe, Prediction, ProbeRecipe

TARGETS = ("rating", "amusing", "fact")
"""What a critic's probes predict: mean rating 0-10, P(rating >= 4), P(fact kept)."""

MODEL_FILE, MANIFEST_FILE = "model.safetensors", "manifest.json"
AWAY, LOW = 0.01, 0.01
"""Beyond the 99th percentile of held-out start lines a joke gets at most what 1 % of them get."""


class Judged(NamedTuple):
    """What a critic says about N jokes."""

    score: NDArray[np.float64]  # (N,) expected rating, 0-10
    amusing: NDArray[np.float64]  # (N,) P(rating >= 4)
    fact: NDArray[np.float64]  # (N,) P(fact kept)
    away: NDArray[np.bool_]  # (N,) out of domain: the three are at most the pessimistic ones


class Inputs(NamedTuple):
    """Features of N jokes for every probe of a critic."""

    pooled: list[Array]  # a probe: (N, P)
    plain: Array  # (N, len(PLAIN_NAMES))


@dataclass(frozen=True)
class Calibration:
    """From the probes' mean output to the answers, fitted on out-of-fold predictions."""

    rating: tuple[float, float] = (1.0, 0.0)
    """Slope and intercept of the expected rating."""
    amusing: tuple[float, float] = (1.0, 0.0)
    """Slope and intercept of the logit (Platt); slope >= 0."""
    fact: tuple[float, float] = (1.0, 0.0)
    """The same for the fact."""
    nearest: float = 0.0
    """Domain guard: below this kernel value a joke is out of domain."""
    pessimistic: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Most an out-of-domain joke can get: rating, P(rating >= 4), P(fact kept)."""


@dataclass(frozen=True)
class FittedCritic:
    """Probes whose mean is calibrated."""

    probes: tuple[KernelProbe, ...]
    calibration: Calibration
    folds: Mapping[str, int]
    """Fold of each fitted prompt by `prompt_key`; other prompts are scored by the full model."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Hidden states that the probes read, ascending."""
        return tuple(sorted({layer for p in self.probes for layer in p.recipe.layers}))

    def inputs(
        self,
        prompts: Sequence[str],
        jokes: Sequence[str],
        states: Sequence[Array],
        logps: Sequence[Array],
        layers: Sequence[int],
    ) -> Inputs:
        """Features of jokes from their (T, layers, hidden) states and (T,) log-probabilities."""
        return make_inputs([p.recipe for p in self.probes], prompts, jokes, states, logps, layers)

    def judge(self, prompts: Sequence[str], inputs: Inputs) -> Judged:
        """Answer for N jokes; a fitted prompt is answered by the model that did not see it."""
        folds = [self.folds.get(prompt_key(p), -1) for p in prompts]
        raw = raw_predictions(self.probes, inputs, folds)
        c = self.calibration
        away = raw.nearest < c.nearest
        score, amusing, fact = (
            np.where(away, np.minimum(values, low), values)
            for values, low in zip(answers(c, raw.values), c.pessimistic, strict=True)
        )
        return Judged(score, amusing, fact, away)


def answers(c: Calibration, raw: Array) -> list[NDArray[np.float64]]:
    """Expected rating, P(rating >= 4) and P(fact kept) of (N, 3) raw values, before the guard."""
    score = np.clip(c.rating[0] * raw[:, 0].astype(np.float64) + c.rating[1], 0, 10)
    lines = ((c.amusing, raw[:, 1]), (c.fact, raw[:, 2]))
    return [score, *(sigmoid(slope * values + start) for (slope, start), values in lines)]


def make_inputs(
    recipes: Sequence[ProbeRecipe],
    prompts: Sequence[str],
    jokes: Sequence[str],
    states: Sequence[Array],
    logps: Sequence[Array],
    layers: Sequence[int],
) -> Inputs:
    """Pool states for each recipe; `layers` names the second axis of `states`.

    Raises:
        ValueError: a recipe reads a layer that `layers` lacks.
    """
    place = {layer: i for i, layer in enumerate(layers)}
    pooled = []
    done: dict[tuple[tuple[int, ...], tuple[str, ...]], Array] = {}
    for recipe in recipes:
        missing = [layer for layer in recipe.layers if layer not in place]
        if missing:
            raise ValueError(f"the critic reads layers {missing}, the reader gives {list(layers)}")
        columns = [place[layer] for layer in recipe.layers]
        key = (recipe.layers, recipe.poolings)
        if key not in done:
            done[key] = np.stack(
                [pool(s[:, columns].astype(np.float32), recipe.poolings) for s in states]
            )
        pooled.append(done[key])
    triples = zip(prompts, jokes, logps, strict=True)
    return Inputs(pooled, np.stack([plain_features(p, j, x) for p, j, x in triples]))


def raw_predictions(
    probes: Sequence[KernelProbe], inputs: Inputs, folds: Sequence[int]
) -> Prediction:
    """Mean of the probes' values; the first probe's nearest kernel value."""
    said = []
    for probe, pooled in zip(probes, inputs.pooled, strict=True):
        columns = [PLAIN_NAMES.index(name) for name in probe.recipe.plain]
        said.append(probe.predict(pooled, inputs.plain[:, columns], folds))
    return Prediction(np.mean([p.values for p in said], axis=0), said[0].nearest)


def calibrate(
    raw: Prediction, targets: Array, guard_lines: NDArray[np.bool_] | None = None
) -> Calibration:
    """Fit the answers to out-of-fold predictions.

    Args:
        raw: predictions for N lines by models that did not see their prompts.
        targets: (N, 3) as `TARGETS`.
        guard_lines: (N,) which lines are the start student's own; all when None.
    """
    x, y = raw.values[:, 0].astype(np.float64), targets[:, 0].astype(np.float64)
    slope = max(0.0, float(np.cov(x, y, bias=True)[0, 1] / max(x.var(), 1e-12)))
    intercept = float(y.mean() - slope * x.mean())
    own = np.ones(len(y), dtype=bool) if guard_lines is None else guard_lines
    fitted = Calibration(
        (slope, intercept),
        platt(raw.values[:, 1], targets[:, 1]),
        platt(raw.values[:, 2], targets[:, 2]),
        float(np.quantile(raw.nearest[own], AWAY)),
    )
    rating, amusing, fact = (
        float(np.quantile(values[own], LOW)) for values in answers(fitted, raw.values)
    )
    return replace(fitted, pessimistic=(rating, amusing, fact))


def platt(values: Array, shares: Array, *, steps: int = 50) -> tuple[float, float]:
    """Slope (>= 0) and intercept of the logistic regression of shares in [0, 1] on values.

    Platt 1999, fitted by Newton's method with a unit-variance prior on the slope of standardised
    values, so that separable or constant values stay finite.
    """
    x, y = values.astype(np.float64), shares.astype(np.float64)
    centre, scale = x.mean(), max(x.std(), 1e-9)
    design = np.stack([(x - centre) / scale, np.ones_like(x)], axis=1)
    prior = np.array([0.1, 1e-3])
    beta = np.zeros(2)
    for _ in range(steps):
        p = sigmoid(design @ beta)
        gradient = design.T @ (p - y) + prior * beta
        hessian = (design * (p * (1 - p))[:, None]).T @ design + np.diag(prior)
        step = np.linalg.solve(hessian, gradient)
        beta = beta - step * min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))
    if beta[0] <= 0:
        share = float(np.clip(y.mean(), 1e-6, 1 - 1e-6))
        return 0.0, float(np.log(share / (1 - share)))
    return float(beta[0] / scale), float(beta[1] - beta[0] * centre / scale)


def sigmoid(x: NDArray[Any]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1 + np.tanh(np.asarray(x, dtype=np.float64) / 2))


def prompt_key(prompt: str) -> str:
    """Content hash of a prompt, outer spaces apart."""
    clean = prompt.strip().encode("utf-8", errors="replace")
    return hashlib.sha256(clean).hexdigest()[:16]


def rounded(probe: KernelProbe) -> KernelProbe:
    """The probe with its large arrays at half precision, as it ships."""
    large = ("axes", "points", "weights")
    half = {k: getattr(probe, k).astype(np.float16).astype(np.float32) for k in large}
    return replace(probe, **half)


def save_critic(folder: Path, critic: FittedCritic, manifest: Mapping[str, Any]) -> None:
    """Write `model.safetensors` and `manifest.json` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {}
    for i, probe in enumerate(critic.probes):
        for field in fields(KernelProbe)[1:]:
            value = getattr(probe, field.name)
            if field.name in ("axes", "points", "weights"):
                value = value.astype(np.float16)
            arrays[f"{i}.{field.name}"] = np.ascontiguousarray(
                value.astype(np.int8) if field.name == "folds" else value
            )
    save_file(arrays, folder / MODEL_FILE)
    (folder / MODEL_FILE).chmod(0o644)
    c = critic.calibration
    body = {
        **manifest,
        "layers": list(critic.layers),
        "probes": [p.recipe.to_json() for p in critic.probes],
        "calibration": {f.name: getattr(c, f.name) for f in fields(Calibration)},
        "folds": dict(critic.folds),
        "model_sha256": hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest(),
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")


def load_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a critic.

    Raises:
        ValueError: there is no critic in `folder`.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise ValueError(f"no critic in {folder.name!r}: {MANIFEST_FILE} is missing")
    manifest: dict[str, Any] = json.loads(path.read_text())
    return manifest


def load_critic(folder: Path) -> tuple[FittedCritic, dict[str, Any]]:
    """Undo of `save_critic`.

    Raises:
        ValueError: no critic there, or the model file is not the one the manifest names.
    """
    manifest = load_manifest(folder)
    data = folder / MODEL_FILE
    found = hashlib.sha256(data.read_bytes()).hexdigest() if data.is_file() else "nothing"
    if found != manifest["model_sha256"]:
        raise ValueError(
            f"critic {folder.name!r}: {MODEL_FILE} has hash {found[:12]}, "
            f"its manifest names {manifest['model_sha256'][:12]}"
        )
    arrays = load_file(data)
    probes = []
    for i, recipe in enumerate(manifest["probes"]):
        values: dict[str, Any] = {
            f.name: arrays[f"{i}.{f.name}"].astype(np.int64 if f.name == "folds" else np.float32)
            for f in fields(KernelProbe)[1:]
        }
        probes.append(KernelProbe(ProbeRecipe.from_json(recipe), **values))
    c: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in manifest["calibration"].items()
    }
    return FittedCritic(tuple(probes), Calibration(**c), manifest["folds"]), manifest
