"""Figures of a critic on labelled pairs by who wrote them, and the whole audit as one value."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, NamedTuple

import numpy as np

from evaluation.audit import (
    Agreement,
    Cost,
    Favour,
    Noise,
    OrderEffects,
    PairSlope,
    agreement,
    decoding_label,
    order_effects,
    over,
    pair_slope,
    preference,
    preference_reliability,
)
from evaluation.audit_light import Figures, Light
from evaluation.calibration import Reliability
from evaluation.counterfactuals import FILLED, SHORTENED, Change
from evaluation.intervals import Floats, Interval, Values, numbers
from evaluation.probes import ProbeShares
from rewards.text import recall, words

POOLED = "all pairs"
DECODING, RECALL, LENGTH, LIKELIHOOD = "decoding label", "recall", "length", "likelihood"


class LabelledPair(NamedTuple):
    """Two lines for one prompt, one of them labelled funnier."""

    id: str  # of the prompt
    prompt: str
    a: str
    b: str
    label: float  # 1: a is funnier, 0: b
    source_a: str = ""  # who wrote it; "" if unknown
    source_b: str = ""
    group: str = ""  # pairs are reported by it


class Group(NamedTuple):
    """A critic on the pairs of one group."""

    agreement: Agreement
    baselines: Mapping[str, Interval | None]  # accuracy of each, on the same pairs
    over: Mapping[str, Interval | None]  # the critic's accuracy minus each baseline's
    best: str  # the baseline with the highest accuracy; "" without pairs
    order: OrderEffects | None  # of a critic that compares
    length: PairSlope  # a word
    overlap: PairSlope  # for all of the recall
    calibration: Reliability | None  # of a judge's probabilities


@dataclass(frozen=True)
class Audit:
    """Everything an audit found."""

    critic: str
    kind: str  # scorer, judge or ranker
    data: str  # which pairs
    domain: str  # group that the light speaks of
    groups: Mapping[str, Group]
    favours: Mapping[str, Favour]  # by source
    own: str  # source that is the critic itself; "" if none
    rating_calibration: Mapping[str, Reliability]  # of P(rating >= 4), by source; Raters only
    noise: Noise | None
    cost: Cost
    probes: Mapping[str, ProbeShares]  # by kind, and "all"; empty if not run
    recipes: Mapping[str, tuple[str, int, int, str]]  # see `probes.by_recipe`
    changes: Mapping[str, Change]  # counterfactuals by kind; empty if not run
    light: Light

    def to_json(self) -> dict[str, Any]:
        """Plain values, unrounded; NaN becomes None."""
        found: dict[str, Any] = plain(self)
        found["light"]["verdict"] = self.light.verdict
        return found


def baselines(
    pairs: Sequence[LabelledPair], likelihood: Mapping[tuple[str, str], float] | None = None
) -> dict[str, Floats]:
    """What cheap rules prefer, (N,) each: colder decoding, more of the prompt, more words.

    Args:
        pairs: N pairs.
        likelihood: mean log p a token by (prompt, joke), for a fourth rule.
    """
    both = [[(p.prompt, p.a) for p in pairs], [(p.prompt, p.b) for p in pairs]]
    rules: dict[str, Floats] = {
        DECODING: preference(
            [decoding_label(p.source_a) for p in pairs], [decoding_label(p.source_b) for p in pairs]
        ),
        RECALL: preference(*([recall(*line) for line in side] for side in both)),
        LENGTH: preference(*([len(words(joke)) for _, joke in side] for side in both)),
    }
    if likelihood:
        rules[LIKELIHOOD] = preference(*([likelihood.get(x) for x in side] for side in both))
    return rules


def measure(
    pairs: Sequence[LabelledPair],
    first: Values,
    second: Values,
    mean: Values,
    rng: np.random.Generator,
    *,
    compares: bool,
    probabilities: bool,
    likelihood: Mapping[tuple[str, str], float] | None = None,
) -> dict[str, Group]:
    """Measure a critic's answers by group, the largest first and all pairs pooled last.

    Args:
        pairs: N labelled pairs.
        first: (N,) P(a funnier), a shown first.
        second: (N,) the same, b shown first.
        mean: (N,) both orders averaged.
        rng: source of the resamples.
        compares: whether there is an order at all (judges and rankers).
        probabilities: whether `mean` is a probability rather than a hard verdict.
        likelihood: see `baselines`.
    """
    ab, ba, p = numbers(first), numbers(second), numbers(mean)
    rules = baselines(pairs, likelihood)
    names = np.array([x.group for x in pairs], dtype=object)
    out = {}
    for group in [*(name for name, _ in Counter(names.tolist()).most_common()), POOLED]:
        at = np.flatnonzero((names == group) | (group == POOLED)).tolist()
        own = [pairs[i] for i in at]
        label = np.array([x.label for x in own])
        ids = [x.id for x in own]
        accuracy = {k: agreement(r[at], label, ids, rng).accuracy for k, r in rules.items()}
        ranked = sorted(((v.value, k) for k, v in accuracy.items() if v), reverse=True)
        length = [float(len(words(x.a)) - len(words(x.b))) for x in own]
        overlap = [recall(x.prompt, x.a) - recall(x.prompt, x.b) for x in own]
        out[group] = Group(
            agreement(p[at], label, ids, rng),
            accuracy,
            {k: over(p[at], r[at], label, ids, rng) for k, r in rules.items()},
            ranked[0][1] if ranked else "",
            order_effects(ab[at], ba[at], p[at], label, ids, rng) if compares else None,
            pair_slope(p[at], label, length, ids, rng),
            pair_slope(p[at], label, overlap, ids, rng),
            preference_reliability(p[at], label) if probabilities else None,
        )
    return out


def figures(
    group: Group,
    *,
    noise: Noise | None,
    own: Favour | None,
    has_own: bool,
    probes: Mapping[str, ProbeShares],
    changes: Mapping[str, Change],
    rating: Reliability | None = None,
) -> Figures:
    """What the light looks at.

    Args:
        group: of the stated domain.
        noise: over repeats; None if not measured.
        own: how the critic's own source fares.
        has_own: whether a source was named as the critic's own.
        probes: shares by kind; empty if not run.
        changes: counterfactuals; empty if not run.
        rating: calibration of P(rating >= 4) in the domain, for a Rater.
    """
    best = group.over.get(group.best)
    asked = group.agreement.pairs + group.agreement.unscored
    accuracy = group.agreement.accuracy
    calibration = rating or group.calibration
    excess = probes["all"].excess if probes else None
    filled, short = changes.get(FILLED), changes.get(SHORTENED)
    return Figures(
        pairs=group.agreement.pairs,
        accuracy=accuracy and accuracy.value,
        accuracy_low=accuracy and accuracy.low,
        over_baselines=best and best.value,
        over_baselines_low=best and best.low,
        unscored=group.agreement.unscored / asked if asked else None,
        flip_rate=_value(group.order.flip_rate) if group.order else float("nan"),
        length_bias=group.length.bias,
        overlap_bias=group.overlap.bias,
        noise=_value(noise.changed) if noise else None,
        ece=calibration.ece if calibration else float("nan"),
        self_preference=_value(own and own.excess) if has_own else float("nan"),
        probe_excess=_value(excess),
        filler_gain=filled.win.low - 0.5 if filled and filled.win else None,
        shortening_loss=_loss(changes, short),
    )


def _loss(changes: Mapping[str, Change], short: Change | None) -> float | None:
    """0.5 - upper end of the win share; NaN where there was no line to shorten."""
    if not changes:
        return None
    if not short or not short.pairs + short.unscored:
        return float("nan")
    return 0.5 - short.win.high if short.win else None


def _value(interval: Interval | None) -> float | None:
    return interval and interval.value


def plain(value: Any) -> Any:
    """Lists, dicts and numbers of named tuples and dataclasses; NaN and infinity become None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {k: plain(getattr(value, k)) for k in value.__dataclass_fields__}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {k: plain(v) for k, v in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
