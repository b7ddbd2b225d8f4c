"""What `compare.py` can compare: methods, studies, tuning trials, `--smoke`. No torch."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GRID_FILE = Path(__file__).resolve().parent / "grid.json"
"""Trials of every method, as many for each, and the best of them."""

CONTROL = "control"
BEST_OF_N = "best-of-n"
PROMPTS_PER_UPDATE, GROUP_SIZE = 8, 8
"""Jokes of an update unless the comparison's own options say otherwise: 64."""

SECONDS_TRAINED, SECONDS_WRITTEN, SECONDS_LOADED = 0.45, 0.15, 25.0
"""Estimates on two slow cores in fp32: a joke of an update, a line written and rated outside of it,
and what a process takes to load student and critics."""


@dataclass(frozen=True)
class Method:
    """One row of a comparison."""

    name: str
    """Of the row and of its run folders."""
    algo: str
    """`--algo` of train.py; empty: nothing is trained."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the defaults of that algorithm."""
    judged: float = 1.0
    """Share of the budget's judged jokes that training asks for; the updates are as many."""
    updates: float = 1.0
    """Share of the budget's updates; below 1 only in the study of data sizes."""
    note: str = ""
    """What a reader must know to compare fairly."""
    judges_first: bool = False
    """Whether all jokes are judged before the first update, so that updates do not last alike."""

    def __post_init__(self) -> None:
        if not 0 <= self.judged <= 1:
            raise ValueError(f"judged of {self.name} is {self.judged}, must lie in 0..1")
        if not 0 < self.updates <= 1:
            raise ValueError(f"updates of {self.name} is {self.updates}, must lie in (0, 1]")


METHODS: Mapping[str, Method] = {
    m.name: m
    for m in (
        Method("sft-more", "sft-more", judged=0.0, note="asks no critic in training"),
        Method("sd", "sd"),
        Method("dpo", "dpo", note="all jokes by the start student", judges_first=True),
        Method(
            "dpo-labels",
            "dpo",
            {"pairs": "labels"},
            judged=0.0,
            note="judges none: its pairs are the labels that the training critic is made of",
        ),
        Method("brio", "brio"),
        Method(
            "brio-dpo",
            "brio-dpo",
            judged=0.75,
            note="pairs of its first quarter are made, not judged",
        ),
        Method("online-dpo", "online-dpo"),
        Method("ppo", "ppo"),
        Method(
            CONTROL, "ppo", {"critic": "likelihood-recall"}, note="its critic knows no humor"
        ),
        Method(BEST_OF_N, "", judged=0.0, note="judges N lines a prompt whenever it is used"),
    )
}  # fmt: skip
DEFAULT_METHODS = (
    "sft-more", "sd", "dpo", "brio", "brio-dpo", "online-dpo", "ppo", "best-of-n", "control",
)  # fmt: skip
SAMPLES_ITS_OWN = ("online-dpo", "ppo")
"""Methods by reinforcement that are also shown with best-of-N on top."""


@dataclass(frozen=True)
class Study:
    """Methods that differ in one thing, and the contrast that is stated beforehand."""

    name: str
    methods: tuple[Method, ...]
    primary: tuple[str, str]
    """Method a is held against b; empty names: no primary contrast."""
    question: str


MAIN = "main"
PRIMARY = ("online-dpo", "dpo")


def main_study(names: Sequence[str]) -> Study:
    """The comparison of the papers' methods.

    Raises:
        ValueError: an unknown or repeated name, or none.
    """
    unknown = [n for n in names if n not in METHODS]
    if unknown or not names:
        raise ValueError(f"--algos has {unknown or names!r}, allowed are {', '.join(METHODS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"--algos names a method twice: {' '.join(names)}")
    primary = PRIMARY if set(PRIMARY) <= set(names) else ("", "")
    return Study(MAIN, tuple(METHODS[n] for n in names), primary, "online against offline")


def _feedback_frequency(updates: int, _critics: Sequence[str]) -> Study:
    """The student that writes the jokes is renewed once, twice, or at every update."""
    rows = [
        Method(
            f"refresh-{times}-of-{updates}",
            "online-dpo",
            {"refresh_every": -(-updates // times)},
            note=f"jokes by {times} student(s) in turn",
        )
        for times in dict.fromkeys((1, min(2, updates), updates))
    ]
    return Study(
        "feedback-frequency", tuple(rows), (rows[-1].name, rows[0].name), "does frequency help"
    )


def _data_size(_updates: int, _critics: Sequence[str]) -> Study:
    """A third, two thirds and all of the judged jokes, by as many updates."""
    rows = [
        Method(f"online-dpo-{name}", "online-dpo", updates=share, note=f"{name} of the budget")
        for name, share in (("1-3", 1 / 3), ("2-3", 2 / 3), ("all", 1.0))
    ]
    return Study("data-size", tuple(rows), (rows[-1].name, rows[0].name), "does more feedback help")


def _debias(_updates: int, _critics: Sequence[str]) -> Study:
    """Length and overlap taken out of the critic's score, or not; the prices on both as well."""
    off = {"control": "none", "reward": "humor=1,novelty=1"}
    rows = (Method("debias-on", "ppo"), Method("debias-off", "ppo", off, note="no length control"))
    return Study("debias", rows, ("debias-on", "debias-off"), "does debiasing help")


ENSEMBLE = "file:examples/ensemble.yaml"
"""By its place within Punchline, so that records of runs name no machine's folders."""


def _critic(_updates: int, critics: Sequence[str]) -> Study:
    """The same algorithm by several training critics; the first is what the others are held to."""
    specs = list(critics) or ["embedded", "likelihood-recall", ENSEMBLE]
    if len(specs) < 2 or len(set(specs)) < len(specs):
        raise ValueError(f"--critics is {' '.join(specs)}: the study needs two or more, each once")
    rows = tuple(
        Method("critic-" + "".join(c if c.isalnum() else "-" for c in s), "ppo", {"critic": s})
        for s in specs
    )
    question = f"does {specs[0]} train better than {specs[1]}"
    return Study("critic", rows, (rows[0].name, rows[1].name), question)


def _collapse(_updates: int, _critics: Sequence[str]) -> Study:
    """PPO on the bare critic, and with one restraint at a time; where each ends is the result."""
    bare: dict[str, Any] = {"reward": "humor=1", "control": "none", "kl_coef": 0.0}
    restraints: dict[str, dict[str, Any]] = {
        "kl": {"kl_coef": 0.04},
        "kl-target": {"kl_coef": 0.04, "kl_target": 0.2},
        "length-control": {"control": "calibrated"},
        "novelty": {"reward": "humor=1,novelty=1"},
        "literal-clip": {"score_clip": "literal"},
        "ensemble": {"critic": ENSEMBLE},
        "entropy-floor": {"entropy_floor": 1.1},
        "imitation": {"imitation_coef": 0.1},
        "stop-rule": {"stop_rule": True},
    }
    rows = [Method("bare", "ppo", bare, note="the critic alone, nothing holds the student")]
    rows += [Method(f"bare+{name}", "ppo", bare | more) for name, more in restraints.items()]
    rows.append(Method("default", "ppo", note="all default restraints"))
    return Study("collapse", tuple(rows), ("default", "bare"), "do restraints help")


STUDIES: Mapping[str, Callable[[int, Sequence[str]], Study]] = {
    "feedback-frequency": _feedback_frequency,
    "data-size": _data_size,
    "debias": _debias,
    "critic": _critic,
    "collapse": _collapse,
}


def study_of(name: str, algos: Sequence[str], updates: int, critics: Sequence[str] = ()) -> Study:
    """The study by its name, or the main comparison where there is none.

    Args:
        name: one of STUDIES; empty or "main": methods by name.
        algos: names of the methods, main comparison only.
        updates: of a run; the studies' variants are fractions of it.
        critics: training critics of the study `critic`.

    Raises:
        ValueError: unknown names.
    """
    if critics and name != "critic":
        raise ValueError("--critics belongs to --study critic")
    if name in ("", MAIN):
        return main_study(algos)
    if name not in STUDIES:
        raise ValueError(f"--study is {name!r}, allowed are {', '.join(STUDIES)}")
    return STUDIES[name](updates, critics)


# ---- tuning


@dataclass(frozen=True)
class Grid:
    """What was or will be tried for a method."""

    best: Mapping[str, Any]
    """Options that are used when no trials are asked for."""
    trials: tuple[Mapping[str, Any], ...]


def read_grid(file: Path = GRID_FILE) -> dict[str, Grid]:
    """The grid by method, or by algorithm where its methods share one.

    Raises:
        ValueError: not JSON, a missing field, or methods with different numbers of trials.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        grids = {
            n: Grid(dict(g["best"]), tuple(map(dict, g["trials"]))) for n, g in content.items()
        }
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"grid {file}: {error!r}; need best and trials for each") from error
    sizes = {name: len(grid.trials) for name, grid in grids.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"grid {file}: every method needs as many trials, it has {sizes}")
    return grids


# ---- a quick look at the whole path

SMOKE: Mapping[str, Any] = {
    "algos": ("sft-more", "dpo", "online-dpo", "best-of-n"),
    "seeds": 1,
    "primary_seeds": 1,
    "budget": 32,
    "pool": 8,
    "size": 8,
    "options": {
        "prompts_per_update": 4,
        "group_size": 4,
        "select_size": 6,
        "select_jokes": 1,
        "eval_every": 2,
    },
}
"""Settings of `--smoke`: two updates of 16 jokes; the path is whole, its figures mean nothing."""
