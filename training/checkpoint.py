"""Checkpoints that are whole or absent: written beside, then renamed. Safetensors and JSON only."""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

TENSORS, STATE, ADAPTER = "trainer.safetensors", "state.json", "adapter"
_NAME = re.compile(r"step-(\d{6})")


class CheckpointError(ValueError):
    """A checkpoint is missing, truncated, or of another run."""


class Checkpoint(NamedTuple):
    """What was saved, as read back."""

    step: int
    folder: Path  # holds `adapter/`
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


def save_checkpoint(
    root: Path,
    step: int,
    *,
    save_adapter: Callable[[Path], None],
    tensors: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
) -> Path:
    """Write `root/step-NNNNNN` in one rename; killed at any moment, the one before it stays.

    Args:
        root: folder of all checkpoints of a run.
        step: updates done.
        save_adapter: writes the student's adapter into the folder it is given.
        tensors: optimizer moments, value head.
        state: everything else, JSON-serialisable.
    """
    from safetensors.torch import save_file

    root.mkdir(parents=True, exist_ok=True)
    final, scratch = root / f"step-{step:06d}", root / f".writing-{step:06d}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    save_adapter(scratch / ADAPTER)
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, scratch / TENSORS)
    (scratch / STATE).write_text(json.dumps(dict(state)))
    for file in scratch.rglob("*"):
        if file.is_file():
            _sync(file)
    if final.exists():  # an earlier save of the same step, e.g. after Ctrl-C
        shutil.rmtree(final)
    os.replace(scratch, final)
    _sync(root)
    return final


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        CheckpointError: not there, truncated, or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found = _NAME.fullmatch(folder.name)
    if found is None or not (folder / STATE).exists():
        raise CheckpointError(f"{folder} is not a checkpoint")
    try:
        tensors = load_file(folder / TENSORS)
        state = json.loads((folder / STATE).read_text())
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"checkpoint {folder} cannot be read: {error}") from error
    return Checkpoint(int(found[1]), folder, tensors, state)


def checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = root.iterdir() if root.is_dir() else ()
    return sorted(f for f in found if _NAME.fullmatch(f.name) and (f / STATE).exists())


def prune(root: Path, *, keep: set[int], newest: int = 2) -> None:
    """Delete checkpoints except the newest few and the steps in `keep` (the best)."""
    for folder in checkpoints(root)[:-newest]:
        if int(folder.name.split("-")[1]) not in keep:
            shutil.rmtree(folder)
    for leftover in root.glob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
