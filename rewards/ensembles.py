"""Several scorers as one: mean, minimum, and mean minus the members' disagreement.

A policy that exploits one critic's errors seldom exploits those of all: ensembles are a known
defence against over-optimisation (Coste et al. 2024, arXiv:2310.02743). In all three, one member
without a verdict is no verdict of the whole: over the others a mean would move and a minimum would
be too high exactly where a critic refuses. A member that raises fails the whole call, by its own
cause.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rewards.calls import as_numbers, critic_name
from rewards.protocols import Scorer


@dataclass(frozen=True)
class Standardised:
    """A scorer on another scale: (score - center) / scale, so that members are comparable.

    The two numbers are given, not taken from a batch: what a joke earns does not depend on its
    neighbours.
    """

    scorer: Scorer
    center: float = 0.0
    """Mean of the scorer's scores on some frozen jokes."""
    scale: float = 1.0
    """Their standard deviation; finite and > 0."""

    def __post_init__(self) -> None:
        """Check the two numbers."""
        if not math.isfinite(self.center) or not 0 < self.scale < math.inf:
            raise ValueError(
                f"center is {self.center} and scale is {self.scale}, need finite ones, scale > 0"
            )

    @property
    def name(self) -> str:
        """The wrapped scorer's name."""
        return critic_name(self.scorer)

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return the standardised scores; None stays None."""
        raw = as_numbers(self.scorer.score(prompts, jokes), len(jokes), self.name)
        return [None if x is None else (x - self.center) / self.scale for x in raw]


@dataclass(frozen=True)
class MeanOfScorers:
    """Weighted mean of several scorers; None as soon as one has no verdict."""

    members: Sequence[tuple[float, Scorer]]
    """(weight, scorer); weights finite, their sum > 0."""
    name: str = "mean"

    def __post_init__(self) -> None:
        """Check the weights."""
        weights = [weight for weight, _ in self.members]
        if not all(map(math.isfinite, weights)) or not math.fsum(weights) > 0:
            raise ValueError(
                f"a mean needs members with a positive sum of finite weights, got {weights}"
            )

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return the weighted mean of the members' scores.

        Raises:
            ValueError: a member gave another number of answers.
        """
        weights = [weight for weight, _ in self.members]
        rows = _rows([scorer for _, scorer in self.members], prompts, jokes)
        return [None if row is None else _mean(row, weights) for row in rows]


@dataclass(frozen=True)
class MinOfScorers:
    """The least of several scores: a joke must please every member. "WCO" in the paper.

    Members need one scale, see `Standardised`.
    """

    members: Sequence[Scorer]
    name: str = "min"

    def __post_init__(self) -> None:
        """Check that there are members."""
        if not self.members:
            raise ValueError("min needs members")

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return the least score of each joke; None as soon as one member has no verdict.

        Raises:
            ValueError: a member gave another number of answers.
        """
        rows = _rows(self.members, prompts, jokes)
        return [None if row is None else min(row) for row in rows]


@dataclass
class Disagreement:
    """What `PenalisedMean` has seen so far."""

    jokes: int = 0
    std: float = 0.0
    """Sum of the members' standard deviations over jokes."""

    def metrics(self) -> dict[str, float]:
        """Mean standard deviation over members; it rises when a policy leaves what they know."""
        return {"critic/ensemble_std": self.std / self.jokes} if self.jokes else {}


@dataclass(frozen=True)
class PenalisedMean:
    """Weighted mean minus beta times the members' standard deviation.

        score = m - beta * sqrt(sum_i w_i (x_i - m)^2 / sum_i w_i),   m the weighted mean

    The paper's "UWO" takes the variance; the standard deviation has the scores' own unit, so beta
    means the same on every scale. Members need one scale, see `Standardised`.

    Source: Coste et al. 2024, arXiv:2310.02743.
    """

    members: Sequence[tuple[float, Scorer]]
    """(weight, scorer), two or more; weights finite and > 0."""
    beta: float = 1.0
    """Standard deviations taken off the mean; finite and >= 0."""
    name: str = "penalised"
    counts: Disagreement = field(default_factory=Disagreement, compare=False)

    def __post_init__(self) -> None:
        """Check members, weights and beta."""
        weights = [weight for weight, _ in self.members]
        if len(weights) < 2:
            raise ValueError(f"penalised needs 2 members or more, got {len(weights)}")
        if not all(0 < weight < math.inf for weight in weights):
            raise ValueError(f"penalised needs finite weights > 0, got {weights}")
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta is {self.beta}, need a finite number >= 0")

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return the penalised mean of each joke; None as soon as one member has no verdict.

        Raises:
            ValueError: a member gave another number of answers.
        """
        weights = [weight for weight, _ in self.members]
        rows = _rows([scorer for _, scorer in self.members], prompts, jokes)
        return [None if row is None else self._penalised(row, weights) for row in rows]

    def _penalised(self, row: Sequence[float], weights: Sequence[float]) -> float:
        mean = _mean(row, weights)
        std = math.sqrt(_mean([(x - mean) ** 2 for x in row], weights))
        self.counts.jokes += 1
        self.counts.std += std
        return mean - self.beta * std


def _mean(row: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(w * x for w, x in zip(weights, row, strict=True)) / math.fsum(weights)


def _rows(
    scorers: Sequence[Scorer], prompts: Sequence[str], jokes: Sequence[str]
) -> list[list[float] | None]:
    """Each joke's scores by member; None where one is missing."""
    columns = [as_numbers(s.score(prompts, jokes), len(jokes), critic_name(s)) for s in scorers]
    rows: list[list[float] | None] = []
    for row in zip(*columns, strict=True):
        known = [x for x in row if x is not None]
        rows.append(known if len(known) == len(row) else None)
    return rows
