"""What a run writes while it goes: metrics, TensorBoard scalars and texts, a progress line."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"


class RunLog:
    """Appends to the run folder; on resume everything after the checkpoint is cut first."""

    def __init__(self, folder: Path, *, from_step: int = -1, talk: int = 1) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        for name in (METRICS, SAMPLES):
            cut_after(folder / name, from_step)
        self.folder = folder
        self.progress = Progress(quiet=talk == 0)
        self._talk = talk
        self._metrics = (folder / METRICS).open("a")
        self._samples = (folder / SAMPLES).open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=from_step + 1)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._metrics.close()
        self._samples.close()
        self._board.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line a step; NaN becomes null, as JSON has no NaN."""
        line = {k: (v if math.isfinite(v) else None) for k, v in values.items()}
        self._metrics.write(json.dumps({"step": step, **line}) + "\n")
        self._metrics.flush()
        if self._talk > 1:
            for key, value in sorted(line.items()):
                self.progress.say(f"    {key:<32} {value}")
        for key, value in values.items():
            if math.isfinite(value):
                self._board.add_scalar(key, value, step)

    def texts(
        self,
        step: int,
        prompts: Sequence[str],
        before: Sequence[str],
        now: Sequence[str],
        scores: Sequence[float | None],
    ) -> None:
        """The same prompts each time: the start's joke beside the present one."""
        rows = [
            {"step": step, "prompt": p, "start": b, "now": n, "score": s}
            for p, b, n, s in zip(prompts, before, now, scores, strict=True)
        ]
        self._samples.writelines(json.dumps(row) + "\n" for row in rows)
        self._samples.flush()
        lines = ["| prompt | start | now | select critic |", "|---|---|---|---|"]
        for p, b, n, s in zip(prompts, before, now, scores, strict=True):
            cells = [*(plain(x).replace("|", "\\|") for x in (p, b, n)), _number(s)]
            lines.append("| " + " | ".join(cells) + " |")
        self._board.add_text("jokes", "\n".join(lines), step)
        self._board.flush()


class Progress:
    """A line a step; rewritten in place on a terminal, plain lines elsewhere."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """One line that stays."""
        if not self._quiet:
            print(text, file=self._stream, flush=True)

    def step(self, done: int, total: int, first: int, parts: Mapping[str, str], jokes: int) -> None:
        """Progress with speed and the time left, reckoned from the steps of this process."""
        elapsed = time.monotonic() - self._began
        steps = max(done - first, 1)
        left = elapsed / steps * (total - done)
        shown = "  ".join(f"{k} {v}" for k, v in parts.items())
        speed = jokes * steps / max(elapsed, 1e-9)
        self.say(f"update {done}/{total}  {shown}  {speed:.1f} jokes/s  ETA {_clock(left)}")

    def restart_clock(self) -> None:
        """Speed counts from here: loading is over."""
        self._began = time.monotonic()


def cut_after(file: Path, step: int) -> None:
    """Keep the lines of a JSON-lines file whose step is at most `step`; atomic."""
    if not file.exists():
        return
    kept: list[str] = []
    for line in file.read_text().splitlines():
        try:
            record: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            break  # the process was killed inside this line; nothing good follows
        if record["step"] > step:
            break
        kept.append(line)
    scratch = file.with_suffix(".cut")
    scratch.write_text("".join(line + "\n" for line in kept))
    os.replace(scratch, file)


def plain(text: str) -> str:
    """Text without control characters, line breaks shown as spaces: safe on a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
