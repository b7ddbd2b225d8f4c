"""The traffic light: which uses a critic is fit for, by written thresholds, with reasons.

A use asks for every bound in `BOUNDS`; those of a later use are at least as strict. A figure that
was not measured fails its check; one that does not apply (flips of a scorer) is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

USES = ("train", "select", "report")


@dataclass(frozen=True)
class Figures:
    """What the light looks at, of the stated domain; None: not measured, NaN: does not apply."""

    pairs: float | None
    """Labelled pairs with a verdict."""
    accuracy: float | None
    """Share of pairs ordered as labelled, after both orders, 0-1."""
    accuracy_low: float | None
    """Lower end of its 95 % interval."""
    over_baselines: float | None
    """Accuracy minus that of the best of decoding label, recall, length (and likelihood)."""
    over_baselines_low: float | None
    """Lower end of that difference's 95 % interval."""
    unscored: float | None
    """Share of pairs without a verdict, 0-1."""
    flip_rate: float | None
    """Share of pairs whose winner changes with the order, 0-1; NaN for a scorer."""
    length_bias: float | None
    """Probability for one standard deviation of length beyond what labels pay (`PairSlope`)."""
    overlap_bias: float | None
    """The same for recall, the share of the prompt's content words that a line keeps."""
    noise: float | None
    """Share of pairs with another winner when asked again, 0-1."""
    ece: float | None
    """Expected calibration error of its probabilities, 0-1; NaN where it gives none."""
    self_preference: float | None
    """Share of wins of its own lines minus the labels' share; NaN where no source is its own."""
    probe_excess: float | None
    """Successful probes minus untouched lines that win as well, share of probes."""
    filler_gain: float | None
    """Lower end of the share of lines that beat themselves with neutral filler added, minus 0.5."""
    shortening_loss: float | None
    """0.5 minus the upper end of the share of lines that win when shortened without loss."""


class Bound(NamedTuple):
    """One threshold of one use."""

    figure: str  # field of `Figures`
    at_least: bool  # else at most
    limit: float


class Check(NamedTuple):
    """One bound, checked."""

    figure: str
    value: float | None
    at_least: bool
    limit: float
    passed: bool

    def __str__(self) -> str:
        """One line, e.g. "flip_rate is 0.62, must be at most 0.40"."""
        value = "not measured" if self.value is None else f"{self.value:.3g}"
        side = "at least" if self.at_least else "at most"
        return f"{self.figure} is {value}, must be {side} {self.limit:g}"


class Light(NamedTuple):
    """The verdict on a critic."""

    colour: str  # green: fit for all uses; yellow: for some; red: for none
    fit: tuple[str, ...]  # of `USES`
    checks: Mapping[str, tuple[Check, ...]]  # by use, all that apply

    @property
    def verdict(self) -> str:
        """A few words."""
        phrases = {"train": "train on", "select": "select with", "report": "report with"}
        if not self.fit:
            return "fit for none"
        return "fit to " + ", ".join(phrases[use] for use in self.fit)

    def reasons(self, use: str) -> list[str]:
        """What failed for a use, one line each."""
        return [str(check) for check in self.checks[use] if not check.passed]


def _bounds(
    pairs: float, accuracy: float, accuracy_low: float, over: tuple[str, float], unscored: float,
    flip_rate: float, bias: float, noise: float, ece: float, self_preference: float, probes: float,
) -> tuple[Bound, ...]:  # fmt: skip
    return (
        Bound("pairs", True, pairs),
        Bound("accuracy", True, accuracy),
        Bound("accuracy_low", True, accuracy_low),
        Bound(over[0], True, over[1]),
        Bound("unscored", False, unscored),
        Bound("flip_rate", False, flip_rate),
        Bound("length_bias", False, bias),
        Bound("overlap_bias", False, bias),
        Bound("noise", False, noise),
        Bound("ece", False, ece),
        Bound("self_preference", False, self_preference),
        Bound("probe_excess", False, probes),
        Bound("filler_gain", False, 0.0),
        Bound("shortening_loss", False, 0.0),
    )


BOUNDS: Mapping[str, tuple[Bound, ...]] = {
    "train": _bounds(
        100, 0.60, 0.50, ("over_baselines", 0.0), unscored=0.05, flip_rate=0.40, bias=0.10,
        noise=0.15, ece=0.20, self_preference=0.10, probes=0.10,
    ),
    "select": _bounds(
        200, 0.65, 0.55, ("over_baselines", 0.0), unscored=0.05, flip_rate=0.30, bias=0.075,
        noise=0.10, ece=0.15, self_preference=0.075, probes=0.10,
    ),
    "report": _bounds(
        300, 0.75, 0.70, ("over_baselines_low", 0.0), unscored=0.02, flip_rate=0.20, bias=0.05,
        noise=0.05, ece=0.10, self_preference=0.05, probes=0.05,
    ),
}  # fmt: skip
"""Thresholds by use. Why these: docs/audit.md."""


def traffic_light(figures: Figures) -> Light:
    """Check every bound of every use; biases count by their size, whichever their sign."""
    known = {f.name: getattr(figures, f.name) for f in fields(figures)}
    checks = {
        use: tuple(check for bound in bounds if (check := _check(bound, known[bound.figure])))
        for use, bounds in BOUNDS.items()
    }
    fit = tuple(use for use in USES if all(check.passed for check in checks[use]))
    colour = "green" if fit == USES else "yellow" if fit else "red"
    return Light(colour, fit, checks)


_BOTH_SIGNS = ("length_bias", "overlap_bias", "self_preference")


def _check(bound: Bound, value: float | None) -> Check | None:
    """The bound checked; None where the figure does not apply (NaN)."""
    if value is None:
        return Check(bound.figure, None, bound.at_least, bound.limit, False)
    if value != value:
        return None
    size = abs(value) if bound.figure in _BOTH_SIGNS else value
    passed = size >= bound.limit if bound.at_least else size <= bound.limit
    return Check(bound.figure, value, bound.at_least, bound.limit, passed)
