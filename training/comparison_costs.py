"""What a comparison has still to spend, for `compare.py --dry-run`. No torch here."""

import math
from collections.abc import Sequence

from training.comparison import REPORT, PlannedRun, Settings, find
from training.presets import SECONDS_LOADED, SECONDS_TRAINED, SECONDS_WRITTEN

PROMPTS = 102
"""Of a split, for estimates."""


def costs(settings: Settings, runs: Sequence[PlannedRun]) -> list[str]:
    """What is still to be spent, a line a method and a sum; done runs cost nothing.

    Raises:
        ValueError: a folder holds another run.
    """
    judged_share = {m.name: m.judged for m in settings.make_study().methods}
    prompts = min(settings.size or PROMPTS, PROMPTS)
    lines = [f"{'method':<22}{'kind':<7}{'runs':>5}{'done':>6}{'judged':>9}{'select':>9}"
             f"{'minutes':>9}"]  # fmt: skip
    total = [0.0] * 5
    groups: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault((run.method, run.kind), []).append(run)
    for (method, kind), some in groups.items():
        left = [r for r in some if (found := find(r)) is None or not found.done]
        judged = selecting = seconds = 0.0
        for run in left:
            o = run.options
            jokes = o["updates"] * o["prompts_per_update"] * o["group_size"]
            seen = math.ceil(o["updates"] / o.get("eval_every", 4)) + 1
            size = o.get("select_size", 48)
            looked = (seen * (o.get("select_jokes", 2) + 1) + 1) * size
            judged += jokes * judged_share[method]
            selecting += looked
            seconds += SECONDS_LOADED + jokes * SECONDS_TRAINED
            seconds += looked * SECONDS_WRITTEN
            if kind != "trial":
                once = SECONDS_LOADED + (5 * prompts + 3 * size) * SECONDS_WRITTEN
                seconds += once * len(settings.splits)
        row = [float(len(some)), float(len(some) - len(left)), judged, selecting, seconds / 60]
        total = [a + b for a, b in zip(total, row, strict=True)]
        lines.append(_cost_row(method, kind, row))
    if settings.pool and REPORT in settings.splits:
        pooled = settings.pool * prompts
        lines.append(_cost_row(f"pool of {settings.pool}", "once", [
            0, 0, pooled, 0, (pooled * SECONDS_WRITTEN + SECONDS_LOADED) / 60]))  # fmt: skip
        total[4] += (pooled * SECONDS_WRITTEN + SECONDS_LOADED) / 60
    lines.append(_cost_row("all", "", total))
    lines.append(
        f"{settings.updates} updates of {settings.jokes_per_update} jokes a run; the pool's "
        "judgments are of the evaluation and in no budget; minutes on two slow cores"
    )
    return lines


def _cost_row(method: str, kind: str, row: Sequence[float]) -> str:
    runs, done, judged, selecting, minutes = row
    return (f"{method:<22}{kind:<7}{runs:>5.0f}{done:>6.0f}{judged:>9.0f}{selecting:>9.0f}"
            f"{minutes:>9.0f}")  # fmt: skip
