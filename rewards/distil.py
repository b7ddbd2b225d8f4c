"""Fits an embedded critic to labelled jokes.

    python -m rewards.distil --kind embedded --labels data/judgments.jsonl --out my-critic

One pass of the frozen backbone over the labelled lines, then seconds of linear algebra. With
another base, start adapter, prompts or labels it makes the critic that belongs to them. Only lines
of the start student and its near descendants are fitted: other hands' lines reverse the sign of
likelihood and destroy the order of the student's own (docs/log.md).
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewards.embedded import BASE, KINDS, START
from rewards.features import PLAIN_NAMES, Array
from rewards.fitted import (
    Calibration,
    FittedCritic,
    Inputs,
    calibrate,
    make_inputs,
    prompt_key,
    raw_predictions,
    rounded,
    save_critic,
)
from rewards.kernel_probe import ProbeRecipe, fit_probe
from rewards.labels import RATABLE, Line, hashed_fold, read_labels, targets_of

DATA = Path(__file__).resolve().parent.parent / "data"


@dataclass(frozen=True)
class CriticRecipe:
    """What a kind of critic is made of."""

    role: str
    """Whose labels of `roles.json` fit it: train, select or report."""
    backbone: str
    """`start` or `base`."""
    probes: tuple[ProbeRecipe, ...]
    """Their outputs are averaged."""


_ALL = PLAIN_NAMES
RECIPES: Mapping[str, CriticRecipe] = {
    "embedded": CriticRecipe(
        "train",
        START,
        (
            ProbeRecipe((8, 16), ("mean", "last"), _ALL, components=256),
            ProbeRecipe((12, 16, 20, 24), ("mean", "last", "tail"), _ALL, components=256),
        ),
    ),
    "embedded-select": CriticRecipe(
        "select",
        START,
        (ProbeRecipe((8, 20), ("mean", "tail"), _ALL, components=96, kernel="linear"),),
    ),
    "embedded-report": CriticRecipe(
        "report",
        BASE,
        (ProbeRecipe((16, 24), ("mean", "last"), _ALL, components=64, plain_weight=3.0),),
    ),
}
"""Chosen on out-of-fold and validation figures together; all that was tried is in docs/log.md."""


def fit_critic(
    recipe: CriticRecipe,
    lines: Sequence[Line],
    inputs: Inputs,
    folds: Mapping[str, int] | None = None,
) -> tuple[FittedCritic, Array]:
    """Fit the probes, then calibrate on predictions of fold models; no forward pass.

    Args:
        recipe: what to fit.
        lines: labelled jokes.
        inputs: their features for the recipe's probes.
        folds: fold by prompt id; by hash of the id where it is missing.

    Returns:
        The critic as it ships (half precision) and its (n, 3) raw out-of-fold values.
    """
    of_line = [(folds or {}).get(x.id, hashed_fold(x.id)) for x in lines]
    targets = targets_of(lines)
    ids = [x.id for x in lines]
    probes = []
    for probe, pooled in zip(recipe.probes, inputs.pooled, strict=True):
        columns = [PLAIN_NAMES.index(name) for name in probe.plain]
        fitted = fit_probe(probe, pooled, inputs.plain[:, columns], targets, ids, of_line)
        probes.append(rounded(fitted))
    raw = raw_predictions(probes, inputs, of_line)
    own = np.array([not x.source.startswith("rl") for x in lines])
    keys = {prompt_key(x.prompt): f for x, f in zip(lines, of_line, strict=True)}
    return FittedCritic(tuple(probes), calibrate(raw, targets, own), keys), raw.values


def manifest_body(
    kind: str,
    recipe: CriticRecipe,
    lines: Sequence[Line],
    *,
    base_name: str,
    base_sha256: str,
    start_sha256: str,
    format_kind: str,
    labels: Sequence[Path],
) -> dict[str, Any]:
    """Provenance of a critic; `save_critic` adds recipe and calibration, figures come later."""
    return {
        "kind": kind,
        "role": recipe.role,
        "backbone": recipe.backbone,
        "base": base_name,
        "base_sha256": base_sha256,
        "start_sha256": start_sha256,
        "format": format_kind,
        "labels": [
            {"file": p.name, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()} for p in labels
        ],
        "prompt_ids": sorted({x.id for x in lines}),
        "sources": sorted({x.source for x in lines}),
        "lines": len(lines),
        "ratable": list(RATABLE),
        "tie_threshold": None,
        "error_correlation": {},
        "figures": {},
    }


def read_inputs(
    recipe: CriticRecipe, lines: Sequence[Line], *, base: str, start: Path
) -> tuple[Inputs, dict[str, str]]:
    """One pass of the backbone over the lines; also the hashes and format for the manifest."""
    from models.adapters import Merged, add_adapter, read_adapter
    from models.format import COMPACT
    from models.load import base_format, fingerprint, load_base
    from models.reader import Reader
    from rewards.embedded import cut

    loaded = load_base(base)
    format = base_format(loaded, COMPACT)
    model = loaded.model
    if recipe.backbone == START:
        config, tensors = read_adapter(start, loaded)
        model = Merged(add_adapter(model, "start", config, tensors), "start").model
    layers = sorted({layer for probe in recipe.probes for layer in probe.layers})
    reader = Reader(model, layers=layers, pad=loaded.pad, keep=0)
    parts: list[Inputs] = []
    for at in range(0, len(lines), 256):
        batch = lines[at : at + 256]
        prompts, jokes = [x.prompt for x in batch], [x.joke for x in batch]
        readings = reader.read(
            [format.encode_prompt(p) for p in prompts],
            [cut(format.encode_joke(j)) for j in jokes],
        )
        states = [r.states.numpy() for r in readings]
        logps = [r.logps[0].numpy() for r in readings]
        parts.append(make_inputs(recipe.probes, prompts, jokes, states, logps, layers))
        print(f"read {at + len(batch)} of {len(lines)} lines", file=sys.stderr, flush=True)
    pooled = [np.concatenate(columns) for columns in zip(*(p.pooled for p in parts), strict=True)]
    known = {
        "base_name": base,
        "base_sha256": loaded.sha256,
        "start_sha256": fingerprint(start),
        "format_kind": format.kind,
    }
    return Inputs(pooled, np.concatenate([p.plain for p in parts])), known


@dataclass(frozen=True)
class Config:
    """Options of ``python -m rewards.distil``."""

    kind: str
    """embedded, embedded-select or embedded-report."""
    labels: tuple[Path, ...]
    """Files of judgments, as data/judgments.jsonl."""
    out: Path
    """Folder for the critic; must not exist."""
    roles: Path | None = DATA / "roles.json"
    """Which prompts' labels fit which critic, by id; None uses all prompts in the files."""
    base: str = "smollm2-135m"
    """The student's base: alias, folder, GGUF file or hub id."""
    start: Path = DATA / "start"
    """The start student's adapter."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"--kind is {self.kind!r}, allowed are {', '.join(KINDS)}")
        if self.out.exists():
            raise ValueError(f"--out {self.out} exists: a fitted critic is never overwritten")
        for file in (*self.labels, *([self.roles] if self.roles else [])):
            if not file.is_file():
                raise ValueError(f"no such file: {file}")


def distil(config: Config) -> Calibration:
    """Fit the critic a config asks for and write it to its folder."""
    recipe = RECIPES[config.kind]
    ids, folds = None, None
    if config.roles is not None:
        roles = json.loads(config.roles.read_text())
        ids, folds = roles["labels"][recipe.role], roles["folds"]
    lines = read_labels(config.labels, ids)
    inputs, known = read_inputs(recipe, lines, base=config.base, start=config.start)
    critic, _ = fit_critic(recipe, lines, inputs, folds)
    body = manifest_body(config.kind, recipe, lines, labels=config.labels, **known)
    save_critic(config.out, critic, body)
    return critic.calibration


def main() -> int:
    """Command line; exit 2 on bad input."""
    import tyro

    try:
        distil(tyro.cli(Config, description=__doc__))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
