"""Carrying out a comparison's plan over several sittings: each run its own process.

What is done is skipped, what is half-done is resumed; what fails is kept as a row with its reason
and tried again in the next sitting. No torch here.
"""

import functools
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.compare_types import Look
from evaluation.render import strip_controls
from training.comparison import (
    EXTENDED,
    MANIFEST,
    PlannedRun,
    Settings,
    find,
    grid_of,
    is_code,
    plan_trials,
    read_json,
    write_json,
)
from training.presets import Grid, Study
from training.workers import HERE, STOPPED, Workers

EXIT_STOPPED = 3
REASON = 300
"""Characters of a reason that are kept."""


class TrialsOpen(Exception):
    """Tuning goes on in the next sitting."""


Runner = Callable[[Sequence[str], Path], int]
"""Runs a command with its output appended to a file; returns the exit status."""


class Record:
    """comparison.json: the settings, and what became of every run so far."""

    def __init__(self, root: Path, settings: Settings) -> None:
        """Read the record of an earlier sitting, or begin one in memory.

        Args:
            root: the comparison's folder.
            settings: of this sitting.

        Raises:
            ValueError: another comparison, or a damaged file.
        """
        self._lock = threading.RLock()  # runs go on at once
        self.file = root / MANIFEST
        self.settings = settings
        self.runs: dict[str, Any] = {}
        self.tuned: dict[str, Any] = {}
        if self.file.exists():
            stored = read_json(self.file)
            now = json.loads(json.dumps(asdict(settings)))
            for name, value in stored["settings"].items():
                if name not in EXTENDED and now.get(name) != value:
                    raise ValueError(
                        f"{root} compares with {name} {value!r}, not {now.get(name)!r}; a later "
                        f"sitting may change {', '.join(EXTENDED)} only"
                    )
            self.runs, self.tuned = stored["runs"], stored["tuned"]

    def write(self) -> None:
        """Write it in one rename."""
        with self._lock:
            content = {"settings": asdict(self.settings), "tuned": self.tuned, "runs": self.runs}
            write_json(self.file, content)

    def add(self, name: str, state: str, reason: str, *, seconds: float | None = None) -> None:
        """Note what became of a run; `seconds` of this attempt, None if nothing was run."""
        with self._lock:
            entry = self.runs.setdefault(name, {"attempts": []})
            entry |= {"state": state, "reason": reason}
            if seconds is not None:
                entry["attempts"].append(round(seconds, 1))
            self.write()

    def take(self, name: str, source: str, seconds: float | None) -> None:
        """Note that a run was copied from another comparison, where it took `seconds`."""
        with self._lock:
            entry = self.runs.setdefault(name, {"attempts": []})
            entry |= {"state": "done", "reason": "", "taken_from": source}
            entry["attempts"] = [] if seconds is None else [round(seconds, 1)]
            self.write()

    def seconds(self, name: str) -> float | None:
        """Of all attempts; None where one was cut off before it could be noted."""
        return seconds_of(self.runs.get(name, {}))

    def begin(self, name: str) -> None:
        """Note that an attempt begins; one that is still noted was cut off."""
        with self._lock:
            entry = self.runs.setdefault(name, {"attempts": []})
            entry["cut_off"] = entry.get("cut_off", False) or entry.get("state") == "running"
            entry |= {"state": "running", "reason": ""}
            self.write()


def seconds_of(entry: Mapping[str, Any]) -> float | None:
    """What a run in a comparison's record took; None where that is not known."""
    spent = entry.get("attempts", [])
    return sum(spent) if spent and not entry.get("cut_off") else None


def tune(
    settings: Settings,
    study: Study,
    grid: Mapping[str, Grid],
    root: Path,
    record: Record,
    workers: Workers,
) -> None:
    """Run the trials and note the best options of each method, by the select critic.

    A trial that failed has been tried and loses; where all did, the committed options are noted.
    One that was stopped is still to be made: nothing is decided before, all methods get as many.

    Raises:
        TrialsOpen: some trials were stopped.
        ValueError: the grid has too few trials.
        KeyboardInterrupt: Ctrl-C.
    """
    scores: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    plan = [p for p in plan_trials(settings, study, grid, root) if p.method not in record.tuned]
    tasks = [functools.partial(train, planned, root, record, workers.run) for planned in plan]
    for planned, folder in zip(plan, workers.all(tasks), strict=True):
        found = scores.setdefault(planned.method, [])
        rating = None if folder is None else best_look(folder)
        if rating is not None:
            found.append((rating, dict(planned.tried)))
    left = [p.name for p in plan if record.runs[p.name]["state"] == "stopped"]
    if left:
        raise TrialsOpen(f"tuning is not finished: {', '.join(left)} stopped")
    methods = {m.name: m for m in study.methods}
    for method, found in scores.items():
        committed = grid_of(grid, methods[method])
        usual = {} if committed is None else dict(committed.best)
        record.tuned[method] = max(found, key=lambda pair: pair[0])[1] if found else usual
    record.write()


def best_look(folder: Path) -> float | None:
    """The select critic's mean rating at the step that a finished run calls its best."""
    best = read_json(folder / "results.json")["best_step"]
    return {look.step: look.rating for look in looks(folder)}.get(best)


def looks(folder: Path) -> list[Look]:
    """What the select critic said of a run, look by look."""
    file = folder / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    records = [json.loads(line) for line in lines]
    return [Look(r["step"], r["select/rating"], r) for r in records if "select/rating" in r]


def train(planned: PlannedRun, root: Path, record: Record, run: Runner) -> Path | None:
    """Start or resume one run, unless it is done; returns its folder if it is done now.

    Raises:
        ValueError: its folder holds another run.
    """
    found = find(planned)
    if found is not None and found.done:
        state = record.runs.get(planned.name, {}).get("state")
        if state == "running":  # its sitting was killed, so nobody noted how long it took
            record.begin(planned.name)
        if state != "done":
            record.add(planned.name, "done", "")
        return found.folder
    if found is None:
        file = root / "options" / f"{planned.name}.json"
        write_json(file, dict(planned.options))
        command = ["--algo", planned.algo, "--config", str(file)]
    else:
        command = ["--resume", str(found.folder)]
        if any(is_code(str(planned.options.get(key, ""))) for key in ("critic", "select_critic")):
            command.append("--trust-critic")  # the plan names it, so it may be imported again
    log = root / "logs" / f"{planned.name}.log"
    record.begin(planned.name)
    began = time.monotonic()
    status = run([sys.executable, str(HERE / "train.py"), *command], log)
    seconds = time.monotonic() - began
    found = find(planned)
    if status == 0 and found is not None and found.done:
        record.add(planned.name, "done", "", seconds=seconds)
        return found.folder
    killed = status < 0  # by a signal: nothing is known of the run itself
    state = "stopped" if killed or status in (EXIT_STOPPED, *STOPPED) else "failed"
    reason = "told to end" if status in STOPPED else last_line(log) or f"exit status {status}"
    record.add(planned.name, state, reason, seconds=seconds)
    return None


def last_line(log: Path) -> str:
    """The last line with something in it, without control characters."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [line for line in map(strip_controls, text.splitlines()) if line]
    return lines[-1][:REASON] if lines else ""
