"""What a comparison of methods measured: systems, runs, methods, trials. Read, not worked out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from evaluation.contrasts import BestOfN, Side
from evaluation.diversity import Phrase
from evaluation.win_rate import LOST, Scores

Column = Sequence[float | None]


@dataclass(frozen=True)
class Evaluated:
    """One system on the prompts of a split, one value a prompt in their order."""

    prompts: tuple[str, ...]
    ratings: Column
    amusing: Column
    fact: Column
    words: Column
    recall: Column
    scores: Scores
    """Of each joke; where a results file has none, each prompt's mean rating."""
    decoding: str = ""
    reason: str = ""
    """Why the critic may not rate these lines."""
    kl: float | None = None
    """Nats a joke to the start student, of the policy sampled at 0.7."""
    gap: float | None = None
    """Win rate against start-tuned by its training critic, less that by the report critic."""
    phrase: Phrase | None = None
    """The commonest phrase of its lines that their prompts do not have."""
    labels: str = ""
    """Where its ratings come from if not from the critic: `2 by definition`."""

    @property
    def side(self) -> Side:
        """As one side of a contrast, with a single seed."""
        return Side([self.scores], [self.ratings])


def read_system(record: Mapping[str, Any], where: str) -> Evaluated:
    """A system of `evaluate.py`'s results.json.

    Raises:
        ValueError: a missing field, or lists of other lengths than the prompts.
    """
    name = record.get("name", "?")
    lists: dict[str, list[Any]] = {}
    for key in ("prompts", "rating", "amusing", "fact", "words", "recall"):
        if not isinstance(record.get(key), list):
            raise ValueError(f"{where}: system {name!r} has no list {key!r}")
        lists[key] = record[key]
    gap = record.get("gap")
    scores = record.get("scores") or [[r] for r in lists["rating"]]
    lost = record.get("lost") or [[False] * len(row) for row in scores]
    for key, values in {**lists, "scores": scores, "lost": lost}.items():
        if len(values) != len(lists["prompts"]):
            raise ValueError(
                f"{where}: system {name!r} has {len(values)} values of {key!r} for "
                f"{len(lists['prompts'])} prompts"
            )
    if record.get("scores"):  # an empty or unfinished joke loses; see `win_rate.LOST`
        scores = [
            [LOST if gone else x for x, gone in zip(*row, strict=True)]
            for row in zip(scores, lost, strict=True)
        ]
    return Evaluated(
        tuple(lists["prompts"]),
        lists["rating"],
        lists["amusing"],
        lists["fact"],
        lists["words"],
        lists["recall"],
        scores,
        str(record.get("decoding", "")),
        str(record.get("reason", "")),
        None if record.get("kl") is None else float(record["kl"]),
        None if gap is None else float(gap["value"]),
        record.get("phrase"),
        str(record.get("note", "")) if record.get("rated_by") == "labels" else "",
    )


class Look(NamedTuple):
    """What the select critic said at one step."""

    step: int
    rating: float | None
    """Mean at the training temperature."""
    told: Mapping[str, float | None] = MappingProxyType({})
    """Other metrics of that step, by their keys (docs/metrics.md)."""


@dataclass(frozen=True)
class SeedRun:
    """One run of a method."""

    name: str
    seed: int
    state: str
    """done, or what it is instead: planned, stopped, failed, not evaluated."""
    reason: str = ""
    judged: int | None = None
    """Jokes judged in training."""
    labels: int | None = None
    """Judged lines that its training critic or its pairs are made of; None: not known."""
    selecting: int | None = None
    """Jokes judged by the select critic, the same for all methods."""
    seconds: float | None = None
    """Of training with its looks; None where a sitting was cut off."""
    best_step: int | None = None
    looks: tuple[Look, ...] = ()
    systems: Mapping[str, Evaluated] = field(default_factory=dict)
    """By split; of the best checkpoint within the bounds."""
    ended: Mapping[str, Evaluated] = field(default_factory=dict)
    """The same of the last checkpoint, whatever bounds it breaks."""
    with_best_of_4: Evaluated | None = None
    """Four of its own lines, the training critic picks; first split."""


@dataclass(frozen=True)
class MethodRuns:
    """A method with its seeds; none where nothing is trained."""

    name: str
    note: str
    runs: tuple[SeedRun, ...]
    judges_first: bool = False
    """Whether all jokes of a run are judged before its first update."""

    def evaluated(self, split: str) -> list[Evaluated]:
        """The seeds that have figures on a split."""
        return [r.systems[split] for r in self.runs if split in r.systems]

    def ended(self, split: str) -> list[Evaluated]:
        """The last checkpoints of the seeds."""
        return [r.ended[split] for r in self.runs if split in r.ended]


class Trial(NamedTuple):
    """One tuning trial of a method, on select prompts."""

    method: str
    options: str
    best_step: int | None
    """Within the bounds; 0: the start."""
    rating: float | None
    """By the select critic at that step."""
    chosen: bool


@dataclass(frozen=True)
class Comparison:
    """Everything that was measured."""

    study: str
    question: str
    primary: tuple[str, str]
    splits: tuple[str, ...]
    methods: tuple[MethodRuns, ...]
    references: Mapping[str, Mapping[str, Evaluated]]
    """By split, then by name."""
    critic: str
    tie: float
    budget: int
    curve: BestOfN | None = None
    with_best_of: tuple[str, ...] = ()
    """Methods that are planned to be shown with best-of-4 on top."""
    warnings: tuple[str, ...] = ()
    """What a reader must know of the critic."""
    accuracy: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By split, where judged pairs of its domain are there: how many the critic orders right."""
    missing: tuple[str, ...] = ()
    """Evaluations of the references that failed."""
    trials: tuple[Trial, ...] = ()
    """Of tuning; none: every method has its committed options."""
