"""A comparison's report with its raw data, to be committed, checked and continued by others.

Weights, logs and text samples stay behind, and so do the paths of the machine: what named a file of
the comparison names it from its folder. `compare.py --out COPY --report-only` works the figures out
again, and more seeds can be run there: what is done counts as done. No torch here.
"""

import json
from pathlib import Path
from typing import Any

from training.comparison import MANIFEST

KEPT = (
    MANIFEST,
    "figures.json",
    "table.md",
    "report.html",
    "runs/*/*/config.json",
    "runs/*/*/results.json",
    "runs/*/*/metrics.jsonl",
    "evaluations/*/*/results.json",
)
"""Patterns of what is copied."""
DERIVED = ("blind", "pairs", "table")
"""Of an evaluation: large, and worked out from its systems."""


def publish(root: Path, target: Path) -> int:
    """Copy a comparison's record; returns the number of files.

    Args:
        root: the comparison's folder.
        target: made if it is not there; files of an earlier copy are replaced.

    Raises:
        ValueError: the target is the comparison itself, or holds another one.
    """
    if target.resolve() == root.resolve():
        raise ValueError(f"--publish {target} is the comparison's own folder")
    if target.exists() and any(target.iterdir()) and not (target / MANIFEST).exists():
        raise ValueError(f"--publish {target} is neither empty nor an earlier copy")
    files = [file for pattern in KEPT for file in sorted(root.glob(pattern))]
    told: dict[Path, set[str]] = {}
    for file in files:
        text = file.read_text(encoding="utf-8").replace(str(root.absolute()), ".")
        if file.is_relative_to(root / "evaluations"):
            lean = _lean(json.loads(text), told.setdefault(file.parent.parent, set()))
            text = json.dumps(lean, separators=(",", ":"), ensure_ascii=False) + "\n"
        copy = target / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")
    return len(files)


def _lean(results: dict[str, Any], told: set[str]) -> dict[str, Any]:
    """An evaluation without what follows from its systems or is in an earlier file of its split."""
    lean = {key: value for key, value in results.items() if key not in DERIVED}
    lean["systems"] = [s for s in results["systems"] if s["name"] not in told]
    if told:
        lean.pop("prompts", None)
    told |= {s["name"] for s in results["systems"]}
    return lean
