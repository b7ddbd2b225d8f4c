"""Run folders: their names, their config, and finding them again. No torch."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from agents.configs import RunConfig

CONFIG_FILE = "config.json"
LAST = "last"
PACKAGES = ("torch", "transformers", "peft", "trl", "gymnasium", "numpy", "safetensors")


def new_folder(algo: str, run: RunConfig) -> Path:
    """A name that is free: `runs/{algo}-{student}-s{seed}-{time}`."""
    student = "".join(c if c.isalnum() or c in "-." else "-" for c in Path(run.student).name)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    first = folder = Path(run.out) / f"{algo}-{student}-s{run.seed}-{stamp}"
    number = 2
    while folder.exists():
        folder = first.with_name(f"{first.name}-{number}")
        number += 1
    return folder


def find_run(name: str, *, out: str = "runs") -> Path:
    """The run folder `name`, or the newest one in `out` for `last`.

    Raises:
        ValueError: there is none.
    """
    if name != LAST:
        return Path(name)
    runs = sorted(Path(out).glob(f"*/{CONFIG_FILE}"), key=lambda f: f.stat().st_mtime)
    if not runs:
        raise ValueError(f"there is no run in {out}/")
    return runs[-1].parent


def read_config(folder: Path) -> dict[str, Any]:
    """What a run was started with.

    Raises:
        ValueError: not a run folder, or a damaged one.
    """
    file = folder / CONFIG_FILE
    if not file.exists():
        raise ValueError(f"{folder} is not a run folder")
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    return content


def write_config(folder: Path, algo: str, options: Any) -> None:
    """Resolved options, versions and commit, in one rename."""
    folder.mkdir(parents=True, exist_ok=True)
    content: Mapping[str, Any] = {
        "algo": algo,
        "options": asdict(options),
        "version": package_version(),
        "commit": _commit(),
        "python": sys.version.split()[0],
        "packages": {name: package_version(name) for name in PACKAGES},
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_whole(folder / CONFIG_FILE, json.dumps(content, indent=1) + "\n")


def write_whole(file: Path, text: str) -> None:
    """Write in one rename: a file that says that something is done is whole, or not there."""
    scratch = file.with_name(f".{file.name}")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, file)


def package_version(package: str = "punchline-rl") -> str:
    """Of an installed package; Punchline's own by default."""
    try:
        return installed(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    here = Path(__file__).resolve().parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
