"""A comparison as a plan: settings, the runs that follow from them, and which of them are there.

Every run lies in `runs/NAME/` below the comparison's folder, where train.py can resume it. What is
done is recognised by its results.json and the same options. No torch here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rewards.from_file import members
from training.presets import (
    DEFAULT_METHODS,
    GROUP_SIZE,
    MAIN,
    PROMPTS_PER_UPDATE,
    Grid,
    Method,
    Study,
    study_of,
)
from training.run_folder import write_whole

MANIFEST = "comparison.json"
REPORT = "report"
SPLITS = (REPORT, "test", "headline", "summary")
"""The split of the developing; all others are last looks and need a reason."""
TRIAL_SEED = 1_000
"""Of tuning trials: none of the seeds that are compared."""
ALIKE = {"table": False, "stop_rule": False}
"""Of every run: it writes no table, for it is evaluated; and none stops early, so that all have as
many updates."""
OWNED = ("seed", "updates", "out", "ledger", "replay", *ALIKE, "report_critic")
"""Options of a run that the comparison sets itself."""


@dataclass(frozen=True)
class Settings:
    """What a comparison compares, and at what cost."""

    study: str = MAIN
    algos: tuple[str, ...] = DEFAULT_METHODS
    critics: tuple[str, ...] = ()
    """Of the study `critic`."""
    budget: int = 640
    """Judged jokes of a run's training, cached or not; a whole number of updates."""
    seeds: int = 3
    primary_seeds: int = 5
    """Seeds of the two methods of the primary contrast, at least `seeds`."""
    trials: int = 0
    """Tuning trials of each method; 0: the committed best."""
    pool: int = 64
    """Lines a prompt for the best-of-N curve; 0: no curve."""
    size: int = 0
    """Prompts of an evaluation at most; 0: all."""
    splits: tuple[str, ...] = (REPORT,)
    reason: str = ""
    """Of a look at held-out splits."""
    critic: str = "embedded-report"
    """Reports; no run sees it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of train.py for every run."""

    def __post_init__(self) -> None:
        for name, least in (
            ("budget", 1),
            ("seeds", 1),
            ("primary_seeds", 1),
            ("trials", 0),
            ("size", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}, must be >= {least}"
                )
        if self.pool and not 4 <= self.pool <= 256:
            raise ValueError(f"--pool is {self.pool}, must be 0 or lie in 4..256")
        owned = sorted({name.replace("-", "_") for name in self.options} & set(OWNED))
        if owned:
            raise ValueError(f"--config sets {owned[0]!r}, which the comparison sets itself")
        if self.budget % self.jokes_per_update:
            raise ValueError(
                f"--budget judged_jokes={self.budget} is no whole number of updates of "
                f"{self.jokes_per_update} jokes"
            )
        for split in self.splits:
            if split not in SPLITS:
                raise ValueError(f"--split is {split!r}, allowed are {', '.join(SPLITS)}")
        if REPORT not in self.splits or list(self.splits) != sorted(self.splits, key=SPLITS.index):
            raise ValueError(
                f"--split is {' '.join(self.splits)}: report comes first and is always among them, "
                f"for references and best-of-N are made on it; then of {', '.join(SPLITS[1:])}"
            )
        held_out = [s for s in self.splits if s != REPORT]
        if bool(held_out) != bool(self.reason.strip()):
            raise ValueError(
                f"--split {' '.join(self.splits)} and --reason {self.reason!r}: held-out splits "
                "and a reason go together, every look is recorded"
            )
        select = self.options.get("select_critic", "embedded-select")
        specs = [self.options.get("critic", "embedded"), select, *self.critics]
        seen = {name for spec in specs for name in members(str(spec))}
        if seen & set(members(self.critic)):
            raise ValueError(f"--critic {self.critic} must be one that no run has seen")

    @property
    def jokes_per_update(self) -> int:
        """Judged jokes of an update."""
        prompts = int(self.options.get("prompts_per_update", PROMPTS_PER_UPDATE))
        group = int(self.options.get("group_size", GROUP_SIZE))
        return max(prompts * group, 1)

    @property
    def updates(self) -> int:
        """Updates of a run."""
        return self.budget // self.jokes_per_update

    def make_study(self) -> Study:
        """The methods and the primary contrast.

        Raises:
            ValueError: unknown names, or a study's critic that reports.
        """
        return study_of(self.study, self.algos, self.updates, self.critics)


EXTENDED = ("algos", "seeds", "primary_seeds", "splits", "reason", "pool")
"""Settings that a later sitting may change: they add runs and change none."""


class PlannedRun(NamedTuple):
    """One call of train.py."""

    name: str
    method: str
    algo: str
    kind: str  # seed; extra, for the primary contrast alone; trial
    options: Mapping[str, Any]  # flat, as `train.py --config` takes them
    tried: Mapping[str, Any]  # what a trial tries, or what was committed or found


def plan_runs(
    settings: Settings, study: Study, grid: Mapping[str, Grid], tuned: Mapping[str, Any], root: Path
) -> list[PlannedRun]:
    """The runs of all seeds, seed by seed, so that an early end leaves all methods alike.

    Args:
        settings: of the comparison.
        study: its methods.
        grid: the committed options by method or algorithm.
        tuned: options found by trials, by method; they stand in for the committed ones.
        root: the comparison's folder.
    """
    most = max(settings.seeds, settings.primary_seeds if study.primary[0] else 0)
    runs = []
    for seed in range(most):
        for method in study.methods:
            extra = seed >= settings.seeds
            if not method.algo or (extra and method.name not in study.primary):
                continue
            best = tuned.get(method.name)
            if best is None:
                tried = grid_of(grid, method)
                best = {} if tried is None else tried.best
            name = f"{method.name}-s{seed}"
            options = _options(settings, method, best, seed, name, root)
            kind = "extra" if extra else "seed"
            runs.append(PlannedRun(name, method.name, method.algo, kind, options, best))
    return runs


def plan_trials(
    settings: Settings, study: Study, grid: Mapping[str, Grid], root: Path
) -> list[PlannedRun]:
    """As many trials for each method, with a seed that is not compared.

    Raises:
        ValueError: the grid has fewer trials than asked for, or none for a method.
    """
    runs = []
    for method in study.methods if settings.trials else ():
        if not method.algo:
            continue
        tried = grid_of(grid, method)
        trials = () if tried is None else tried.trials
        if len(trials) < settings.trials:
            raise ValueError(
                f"--trials is {settings.trials}, the grid has {len(trials)} for {method.algo}"
            )
        for i, trial in enumerate(trials[: settings.trials]):
            name = f"{method.name}-trial-{i}"
            options = _options(settings, method, trial, TRIAL_SEED, name, root)
            runs.append(PlannedRun(name, method.name, method.algo, "trial", options, trial))
    return runs


def grid_of(grid: Mapping[str, Grid], method: Method) -> Grid | None:
    """What is committed for a method by its own name, else for its algorithm."""
    return grid.get(method.name, grid.get(method.algo))


def _options(
    settings: Settings, method: Method, best: Mapping[str, Any], seed: int, name: str, root: Path
) -> dict[str, Any]:
    return {
        "prompts_per_update": PROMPTS_PER_UPDATE,
        "group_size": GROUP_SIZE,
        **ALIKE,
        "report_critic": settings.critic,
        **{key.replace("-", "_"): value for key, value in settings.options.items()},
        **best,
        **method.options,
        "updates": max(1, round(settings.updates * method.updates)),
        "seed": seed,
        "out": str(root / "runs" / name),
        "ledger": str(root / "ledger.sqlite"),
    }


# ---- what is there


class Found(NamedTuple):
    """The run folder of a planned run."""

    folder: Path
    done: bool


def find(planned: PlannedRun) -> Found | None:
    """The newest run folder of a planned run; None before its first update.

    Raises:
        ValueError: it holds a run with other options: they must not meet.
    """
    home = Path(planned.options["out"])
    configs = sorted(home.glob("*/config.json"), key=lambda file: file.stat().st_mtime)
    if not configs:
        return None
    folder = configs[-1].parent
    stored = read_json(configs[-1])
    flat = {k: v for part in stored["options"].values() for k, v in part.items()}
    wanted = {"algo": planned.algo, **planned.options}
    for name, value in json.loads(json.dumps(wanted)).items():
        there = stored["algo"] if name == "algo" else flat.get(name)
        if there != value and name not in ("out", "ledger"):
            raise ValueError(
                f"{folder} was run with {name} {there!r}, the plan wants {value!r}: such runs must "
                "not meet; choose another --out, or remove that folder"
            )
    return Found(folder, (folder / "results.json").exists())


def is_code(spec: str) -> bool:
    """Whether a critic's spec names something that would be imported or asked."""
    return ":" in spec and not spec.startswith("fake:")


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: not there or damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def write_json(file: Path, content: Any) -> None:
    """Write in one rename."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(content, indent=1, allow_nan=False) + "\n")
