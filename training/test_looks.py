"""Looks at held-out prompts are counted: date, commit and reason, in a file that is committed."""

import datetime
import subprocess
import sys
from pathlib import Path

from evaluation.render import escape_markdown

HERE = Path(__file__).resolve().parent.parent
LOOKS = HERE / "docs" / "test-looks.md"
HEAD = "# Looks at the test split\n\n| date | commit | what | reason |\n|---|---|---|---|\n"


def check_reason(held_out: bool, split: str, reason: str) -> None:
    """A held-out split needs a reason, and nothing else takes one.

    Raises:
        ValueError: one without the other.
    """
    if held_out != bool(reason.strip()):
        raise ValueError(
            f"--split {split} and --reason {reason!r}: a held-out split and a reason go together, "
            "every look is recorded"
        )


def record_look(what: str, reason: str, *, looks: Path | None = None) -> None:
    """Append a line about a look that is going to be taken.

    Args:
        what: was looked at by whom, e.g. "audit of embedded".
        reason: why.
        looks: the file; None: docs/test-looks.md.
    """
    file = LOOKS if looks is None else looks
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],
        cwd=HERE, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    cells = (datetime.date.today().isoformat(), commit or "unknown", what, reason)
    file.parent.mkdir(exist_ok=True)
    row = "| " + " | ".join(escape_markdown(cell) for cell in cells) + " |\n"
    with file.open("a", encoding="utf-8") as out:  # one write each: looks may be taken at once
        out.write(row if out.tell() else HEAD + row)
    print(f"a look at held-out prompts, recorded in {file.name}; commit it", file=sys.stderr)
