"""What critics cost and how often they failed, by run and critic, read from a ledger.

python -m rewards.spend FILE [--run NAME]
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from rewards.ledger_file import open_to_read

EXIT_BAD_INPUT = 2
_CALLS = """
SELECT run, critic, count(*), sum(value IS NULL), sum(prompt_tokens), sum(completion_tokens),
       sum(money)
FROM calls GROUP BY run, critic ORDER BY min(id)
"""
_CAUSES = """
SELECT run, critic, cause, count(*), sum(prompt_tokens + completion_tokens), sum(money)
FROM calls WHERE value IS NULL GROUP BY run, critic, cause ORDER BY min(id)
"""
_IN_FLIGHT = """
SELECT run, sum(requests), sum(tokens), sum(money) FROM in_flight GROUP BY run ORDER BY run
"""
Stored = str | bytes
Pair = tuple[Stored, Stored]


def spend_tables(file: Path, run: str | None = None) -> str:
    """Describe a ledger in text: spend, hit rate and latency; failures by cause; calls in flight.

    A request is a recorded call, answered or failed. The hit rate is the share of answers that
    were found instead of asked for. Calls in flight belong to a process at work or were left by a
    killed one; the budget counts them.

    Args:
        file: the ledger; it may be in use and stays as it is.
        run: only this run's part; None: all.

    Raises:
        ValueError: no such file, not a ledger, or a damaged one.
    """
    with closing(open_to_read(file)) as connection:
        connection.execute("BEGIN")  # one view of a file that others may be writing to
        calls = {(r, c): rest for r, c, *rest in connection.execute(_CALLS)}
        found = {(r, c): n for r, c, n in connection.execute("SELECT run, critic, n FROM found")}
        latencies: dict[Pair, list[float]] = {}
        for r, c, seconds in connection.execute("SELECT run, critic, seconds FROM calls"):
            latencies.setdefault((r, c), []).append(seconds)
        causes = connection.execute(_CAUSES).fetchall()
        in_flight = connection.execute(_IN_FLIGHT).fetchall()

    def is_wanted(stored: Stored) -> bool:
        return run is None or stored == run

    spend = [
        _spend_row(pair, calls.get(pair, [0] * 5), found.get(pair, 0), latencies.get(pair, []))
        for pair in dict.fromkeys([*calls, *found])
        if is_wanted(pair[0])
    ]
    failed = [
        [_shown(r), _shown(c), _shown(cause), f"{n:,}", f"{tokens:,}", f"{money:,.4f}"]
        for r, c, cause, n, tokens, money in causes
        if is_wanted(r)
    ]
    flying = [
        [_shown(r), f"{n:,}", f"{tokens:,}", f"{money:,.4f}"]
        for r, n, tokens, money in in_flight
        if is_wanted(r)
    ]
    titles = ["run", "critic", "requests", "failed", "found", "hit rate", "prompt tokens",
              "completion tokens", "money", "median s", "p95 s"]  # fmt: skip
    tables = [_table(titles, spend, names=2)]
    if failed:
        titles = ["run", "critic", "cause", "failed", "tokens", "money"]
        tables.append(_table(titles, failed, names=3))
    if flying:
        titles = ["run", "in flight", "tokens at most", "money at most"]
        tables.append(_table(titles, flying, names=1))
    return "\n\n".join(tables)


def _spend_row(pair: Pair, sums: Sequence[float], found: int, seconds: list[float]) -> list[str]:
    requests, failed, prompt_tokens, completion_tokens, money = sums
    median, late = np.percentile(seconds, [50, 95]) if seconds else (np.nan, np.nan)
    return [
        *map(_shown, pair),
        f"{requests:,}",
        f"{failed:,}",
        f"{found:,}",
        f"{found / (found + requests):.1%}",
        f"{prompt_tokens:,}",
        f"{completion_tokens:,}",
        f"{money:,.4f}",
        f"{median:.3f}" if seconds else "-",
        f"{late:.3f}" if seconds else "-",
    ]


def _table(titles: list[str], rows: list[list[str]], *, names: int) -> str:
    """Aligned columns: the first `names` to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [titles, *rows]
    ]
    return "\n".join(lines)


def _shown(stored: Stored) -> str:
    """Text from servers and file names, safe on a terminal."""
    text = stored if isinstance(stored, str) else stored.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in text) or "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; returns the exit status. Bad input is one line and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m rewards.spend", description="What was spent on critics, from a ledger."
    )
    parser.add_argument("file", type=Path, help="a ledger")
    parser.add_argument("--run", help="only this run")
    options = parser.parse_args(arguments)
    try:
        print(spend_tables(options.file, options.run))
    except ValueError as error:
        print(f"rewards.spend: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
