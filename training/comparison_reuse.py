"""Runs of another comparison with the same options and seed, copied instead of made again.

Studies share arms: their default one is a run that the main comparison has. No torch here.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.comparison import MANIFEST, PlannedRun, find, read_json, write_json
from training.comparison_runs import Record, seconds_of

FREE = ("out", "ledger")
"""Options that name places; nothing else may differ."""

Options = Mapping[str, Mapping[str, Any]]
"""All options of a run by their part, defaults filled in, as its config.json has them."""


def take_over(
    planned: Sequence[PlannedRun],
    other: Path,
    record: Record,
    complete: Callable[[PlannedRun], Options],
) -> list[str]:
    """Copy what another comparison has finished of this plan; returns the names of the runs.

    Args:
        planned: runs; those that were begun here stay as they are.
        other: folder of the other comparison.
        record: told where each run is from, and the seconds that it took there.
        complete: fills in the defaults of a planned run.

    Raises:
        ValueError: `other` is no comparison, or damaged.
    """
    theirs = read_json(other / MANIFEST)["runs"]
    configs = [
        (file, read_json(file))
        for file in sorted(other.glob("runs/*/*/config.json"))
        if (file.parent / "results.json").exists() and (file.parent / "checkpoints").exists()
    ]
    taken = []
    for run in planned:
        if find(run) is not None:
            continue
        wanted = _comparable(run.algo, complete(run))
        for file, stored in configs:
            if _comparable(stored["algo"], stored["options"]) == wanted:
                name = file.parent.parent.name
                _copy(file.parent, run, stored)
                source = f"{name} of {other.resolve().name}"
                record.take(run.name, source, seconds_of(theirs.get(name, {})))
                taken.append(run.name)
                break
    return taken


def _comparable(algo: str, options: Options) -> Any:
    parts = {
        part: {name: value for name, value in values.items() if name not in FREE}
        for part, values in options.items()
    }
    return json.loads(json.dumps([algo, parts]))  # tuples are lists


def _copy(folder: Path, run: PlannedRun, stored: Mapping[str, Any]) -> None:
    """Into the place of the planned run, in one rename; its options name the new places."""
    home = Path(run.options["out"])
    home.mkdir(parents=True, exist_ok=True)
    scratch = home / f".{folder.name}"
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(folder, scratch)
    places = {name: run.options[name] for name in FREE if name in run.options}
    parts = {
        part: {name: places.get(name, value) for name, value in values.items()}
        for part, values in stored["options"].items()
    }
    write_json(scratch / "config.json", {**stored, "options": parts})
    os.replace(scratch, home / folder.name)
