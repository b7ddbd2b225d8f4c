"""The ladder as Markdown, as plain text for a terminal and as a dict for JSON.

Text from models is untrusted: control characters are taken out, and whatever Markdown would read
is escaped. Nothing here rounds the dict.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from evaluation.intervals import Interval
from evaluation.ladder import Ladder, Row

NOT_RATABLE = "not ratable by this critic"
_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_{}[]<>#|~!&"})


def strip_controls(text: str) -> str:
    """`text` on one line without control, format and surrogate characters (terminal escapes)."""
    spaced = " ".join(text.split())
    return "".join(c for c in spaced if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))


def escape_markdown(text: str) -> str:
    """`text` on one line such that Markdown, also in a table, shows it letter by letter."""
    return strip_controls(text).translate(_MARKDOWN)


def columns(ladder: Ladder) -> list[tuple[str, Callable[[Row], str]]]:
    """Heads and cells of the table."""
    return [
        ("system", lambda r: r.system + (" (labels)" if r.rated_by == "labels" else "")),
        ("decoding", lambda r: r.decoding),
        ("rating", lambda r: _interval(r.rating) if r.rated_by else NOT_RATABLE),
        (f"win vs {ladder.baseline}, %", lambda r: _percent(r.win and r.win.rate)),
        ("WTR, %", lambda r: _percent(r.win and r.win.wtr, interval_shown=False)),
        ("amusing, %", lambda r: _percent(r.amusing)),
        ("fact kept, %", lambda r: _percent(r.fact, interval_shown=False)),
        ("words", lambda r: f"{r.length:.1f}"),
        ("recall", lambda r: f"{r.recall:.2f}"),
        ("copies, %", lambda r: _share(r.near_copies)),
        ("unlike, %", lambda r: _share(r.out_of_domain)),
        ("distinct-2", lambda r: "-" if r.distinct2 is None else f"{r.distinct2:.2f}"),
        ("4-gram, %", lambda r: _share(r.phrase.share)),
        ("lost/unscored/lines", lambda r: f"{r.lost}/{r.unscored}/{r.lines}"),
        ("marks", lambda r: "; ".join(r.marks)),
    ]


def markdown(ladder: Ladder) -> str:
    """A Markdown table with its caption; ends with a newline."""
    table = columns(ladder)
    lines = [
        "| " + " | ".join(escape_markdown(head) for head, _ in table) + " |",
        "|" + "---|" * len(table),
    ]
    for row in ladder.rows:
        lines.append("| " + " | ".join(escape_markdown(cell(row)) for _, cell in table) + " |")
    return "\n".join([*lines, "", *(escape_markdown(c) for c in captions(ladder)), ""])


JUDGED = 7
"""Columns that say how good a system is; those after them say how its lines are written."""


def plain(ladder: Ladder) -> str:
    """Two aligned tables for a terminal, marks and captions below; ends with a newline.

    One table would be twice as wide as a terminal.
    """
    named, *table = [c for c in columns(ladder) if c[0] != "marks"]
    lines = []
    for part in ([named, *table[: JUDGED - 1]], [named, *table[JUDGED - 1 :]]):
        lines += [*_aligned(ladder, part), ""]
    for row in ladder.rows:
        lines += [strip_controls(f"! {row.system}: {mark}") for mark in row.marks]
    return "\n".join([*lines, "", *(strip_controls(c) for c in captions(ladder)), ""])


def _aligned(ladder: Ladder, table: Sequence[tuple[str, Callable[[Row], str]]]) -> list[str]:
    grid = [[head for head, _ in table]]
    grid += [[strip_controls(cell(row)) for _, cell in table] for row in ladder.rows]
    widths = [max(len(row[k]) for row in grid) for k in range(len(table))]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in grid
    ]


def captions(ladder: Ladder) -> list[str]:
    """What one must know to read the table."""
    out = list(ladder.warnings)
    out.append(
        f"{ladder.prompts} prompts, reporting critic {ladder.critic}: a distilled-critic figure, "
        "provisional until people or an outside LLM have judged. 95 % intervals over prompts. "
        f"Win rate: ties half, ratings up to {ladder.tie:.3f} apart tie; "
        "an empty or unfinished joke rates 0 and loses. "
        f"distinct-2 at {ladder.lines_compared} line(s) a prompt; copies: near-copies of the "
        "prompt; unlike: lines outside the critic's domain; 4-gram: lines with the commonest four "
        "words that are not in the prompt."
    )
    for row in ladder.rows:
        if row.win and row.tie_sensitivity and row.system != ladder.baseline:
            s = row.tie_sensitivity
            out.append(
                f"{row.system}: win {row.win.win:.1%}, tie {row.win.tie:.1%}, loss "
                f"{row.win.loss:.1%}; win rate at tie threshold 0 {s.none:.1%}, doubled "
                f"{s.double:.1%}; smallest detectable difference {row.win.detectable:.1%}."
            )
        if row.note:
            out.append(f"{row.system}: {row.note}")
    return out


def as_dict(ladder: Ladder) -> dict[str, Any]:
    """Everything, for `results.json`: intervals and phrases by field name, None stays null."""
    plain_values = _jsonable(ladder)
    if not isinstance(plain_values, dict):
        raise TypeError("a ladder becomes a dict")
    return plain_values


def samples_markdown(prompts: Sequence[str], lines: Mapping[str, Sequence[str]]) -> str:
    """Prompts with one line of each system below, for people to read; ends with a newline."""
    out = []
    for i, prompt in enumerate(prompts):
        out.append(f"**{escape_markdown(prompt)}**")
        out += [""] + [f"- {escape_markdown(n)}: {escape_markdown(j[i])}" for n, j in lines.items()]
        out.append("")
    return "\n".join(out)


def _jsonable(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {k: _jsonable(getattr(value, k)) for k in asdict(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {k: _jsonable(v) for k, v in value._asdict().items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    return value


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _percent(interval: Interval | None, *, interval_shown: bool = True) -> str:
    if interval is None:
        return "-"
    value = f"{100 * interval.value:.1f}"
    ends = f" [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"
    return value + (ends if interval_shown else "")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
