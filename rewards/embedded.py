"""The embedded critics: a probe on the frozen start student, offline, on the scale of the corpus.

`embedded` trains, `embedded-select` stops runs and picks checkpoints, `embedded-report` makes the
final figures. They are fitted on the labels of different prompts and are of different kinds; each
is tied by hash to the base and to the start adapter. Only lines of the start student and of its
descendants near it are ratable (manifest `ratable`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.fitted import FittedCritic, load_critic, load_manifest
from rewards.types import Rating

if TYPE_CHECKING:  # importing the module stays free of torch: manifests are read without it
    from models.format import Format
    from models.reader import Reader

KINDS = ("embedded", "embedded-select", "embedded-report")
START, BASE = "start", "base"
FOLDER = Path(__file__).resolve().parent.parent / "data" / "critics"

TOKEN_LIMIT = 96
"""A longer joke is read up to here; the end token still comes last."""

NOTHING = Rating(0.0, 0.0, 0.0, True)
"""What an empty joke gets."""


def critic_folder(kind: str, folder: Path | None = None) -> Path:
    """Where a critic lives: `folder` itself, or the shipped one of this kind.

    Raises:
        ValueError: no such kind.
    """
    if folder is None and kind not in KINDS:
        raise ValueError(f"embedded critic is {kind!r}, allowed are {', '.join(KINDS)}")
    return FOLDER / kind if folder is None else folder


def manifest_of(kind: str, folder: Path | None = None) -> dict[str, Any]:
    """The manifest of a critic, without loading it."""
    return load_manifest(critic_folder(kind, folder))


def layers_of(kind: str, folder: Path | None = None) -> tuple[int, ...]:
    """Hidden states its `Reader` must return, 1 = after the first layer."""
    return tuple(manifest_of(kind, folder)["layers"])


def backbone_of(kind: str, folder: Path | None = None) -> str:
    """Which model it reads: `start` (the merged start student) or `base` (the bare base)."""
    return str(manifest_of(kind, folder)["backbone"])


class EmbeddedCritic:
    """A `Scorer` and `Rater` made of a fitted probe and a frozen reader.

    Args:
        fitted: the probes.
        manifest: provenance and figures, see `rewards.distil`.
        reader: the frozen model of the manifest's backbone; its layers include the probes' and its
            temperatures include 1.
        format: how that model was shown prompts and jokes when the probes were fitted.

    Raises:
        ValueError: the reader lacks a layer or temperature 1, or the format is of another kind.
    """

    def __init__(
        self,
        fitted: FittedCritic,
        manifest: Mapping[str, Any],
        reader: "Reader",
        format: "Format",
    ) -> None:
        missing = sorted(set(fitted.layers) - set(reader.layers))
        if missing or 1.0 not in reader.temperatures:
            raise ValueError(
                f"critic {manifest['kind']!r} reads layers {list(fitted.layers)} at temperature 1, "
                f"the reader gives layers {list(reader.layers)} at {list(reader.temperatures)}"
            )
        if format.kind != manifest["format"]:
            raise ValueError(
                f"critic {manifest['kind']!r} was fitted on format {manifest['format']!r}, "
                f"the student's is {format.kind!r}"
            )
        self.manifest = manifest
        self._fitted = fitted
        self._reader = reader
        self.format = format

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Expected rating 0-10; an out-of-domain joke gets at most the pessimistic score."""
        return [r if r is None else r.score for r in self.rate(prompts, jokes)]

    def rate(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[Rating | None]:
        """Rate each joke; None where the model's numbers are not finite.

        Raises:
            ValueError: the two sequences differ in length.
        """
        if len(prompts) != len(jokes):
            raise ValueError(f"rate got {len(prompts)} prompts and {len(jokes)} jokes")
        out: list[Rating | None] = [NOTHING] * len(jokes)
        told = [i for i, joke in enumerate(jokes) if joke.strip()]
        if not told:
            return out
        readings = self._reader.read(
            [self.format.encode_prompt(prompts[i]) for i in told],
            [cut(self.format.encode_joke(jokes[i])) for i in told],
        )
        states = [r.states.numpy() for r in readings]
        at_one = self._reader.temperatures.index(1.0)  # now: a shared reader may have been widened
        logps = [r.logps[at_one].numpy() for r in readings]
        finite = [bool(np.isfinite(s).all() and np.isfinite(x).all())
                  for s, x in zip(states, logps, strict=True)]  # fmt: skip
        for i, known in zip(told, finite, strict=True):
            if not known:
                out[i] = None
        at = [k for k, known in enumerate(finite) if known]
        if not at:
            return out
        asked, said = [prompts[told[k]] for k in at], [jokes[told[k]] for k in at]
        inputs = self._fitted.inputs(
            asked, said, [states[k] for k in at], [logps[k] for k in at], self._reader.layers
        )
        judged = self._fitted.judge(asked, inputs)
        for place, k in enumerate(at):
            out[told[k]] = Rating(
                float(judged.score[place]),
                float(judged.amusing[place]),
                float(judged.fact[place]),
                bool(judged.away[place]),
            )
        return out


def cut(tokens: Sequence[int]) -> list[int]:
    """At most `TOKEN_LIMIT` tokens of a joke, the end token kept."""
    return list(tokens) if len(tokens) <= TOKEN_LIMIT else [*tokens[: TOKEN_LIMIT - 1], tokens[-1]]


def load_embedded(
    kind: str,
    *,
    reader: "Reader",
    format: "Format",
    start_sha256: str,
    base_sha256: str,
    folder: Path | None = None,
) -> EmbeddedCritic:
    """Load a critic and check that it was fitted on these very weights.

    Args:
        kind: one of `KINDS`; with `folder` only a name.
        reader: a `Reader` of the backbone (`backbone_of`) with its layers (`layers_of`).
        format: the start student's format.
        start_sha256: hash of the start adapter's tensors.
        base_sha256: hash of the base's tensors.
        folder: a critic of one's own, as `rewards.distil` writes it.

    Raises:
        ValueError: unknown kind, damaged files, other weights, or a reader that does not fit.
    """
    fitted, manifest = load_critic(critic_folder(kind, folder))
    # A critic of the bare base is tied to the start adapter as well: its labels judged that
    # student's lines, and no other's are ratable.
    for name, given in (("base_sha256", base_sha256), ("start_sha256", start_sha256)):
        if manifest[name] != given:
            raise ValueError(
                f"critic {kind!r} was fitted with {name} {manifest[name][:12]}, this student has "
                f"{given[:12]}; refit it: python -m rewards.distil --kind {kind} "
                f"--labels JUDGMENTS.jsonl --out DIR"
            )
    return EmbeddedCritic(fitted, manifest, reader, format)


def check_roles(train: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Refuse a select or report critic whose labels the training critic was fitted on.

    Args:
        train: manifest of the training critic.
        other: manifest of the selecting or reporting critic.

    Raises:
        ValueError: they share labelled prompts, with the ids.
    """
    shared = sorted(set(train.get("prompt_ids", ())) & set(other.get("prompt_ids", ())))
    if shared:
        raise ValueError(
            f"critic {other.get('kind')!r} shares the labels of {len(shared)} prompts with the "
            f"training critic {train.get('kind')!r}: {', '.join(shared[:20])}"
            + (" ..." if len(shared) > 20 else "")
        )
