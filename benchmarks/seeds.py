"""Pools the final tables of runs that differ only in their seed.

    python -m benchmarks.seeds runs/ppo-start-s0-... runs/ppo-start-s1-... runs/ppo-start-s2-...

Prints Markdown: for every system the mean over seeds, an interval over prompts (seeds stand as they
are) and each seed's own figure. Win rates are against start-tuned and against start sampled at 0.7,
with the tie threshold of the last run.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.diversity import commonest_own_phrase, distinct_n, near_copy_share
from evaluation.intervals import Interval, mean_over_seeds
from evaluation.ladder import lost_scores
from evaluation.win_rate import outcomes
from rewards.text import recall, words
from rewards.types import Unfinished

Lines = list[list[dict[str, Any]]]


def main(argv: list[str] | None = None) -> None:
    """Read the runs' jokes.jsonl and results.json and print one table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.seeds", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="with a final table")
    runs: list[Path] = parser.parse_args(argv).runs
    try:
        tie = float(json.loads((runs[-1] / "results.json").read_text())["table"]["tie"])
        tables = [_read(run) for run in runs]
    except (OSError, KeyError, json.JSONDecodeError) as error:
        sys.exit(f"not a run with a final table: {error}")
    prompts = [p for p, _ in tables[0]]
    if any([p for p, _ in table] != prompts for table in tables):
        sys.exit("the runs were reported on different prompts")
    heads = ["system", "rating", "win vs start-tuned, %", "win vs start, %", "amusing, %",
             "fact, %", "words", "recall", "copies, %", "distinct-2", "4-gram, %"]  # fmt: skip
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    names = [n for n in tables[0][0][1] if all(n in table[0][1] for table in tables)]
    for name in names:
        print("| " + " | ".join(_row(name, tables, prompts, tie)) + " |")


def _read(run: Path) -> list[tuple[str, dict[str, Any]]]:
    records = [json.loads(line) for line in (run / "jokes.jsonl").read_text().splitlines()]
    return [(r["prompt"], r["jokes"]) for r in records]


def _row(name: str, tables: list[Any], prompts: list[str], tie: float) -> list[str]:
    mine = [[jokes[name] for _, jokes in table] for table in tables]
    tuned = [[jokes["start-tuned"] for _, jokes in table] for table in tables]
    start = [[jokes["start"] for _, jokes in table] for table in tables]
    texts = [[[x["joke"] for x in row] for row in lines] for lines in mine]

    def mean(key: str) -> list[list[float | None]]:
        return [[_mean(x.get(key) for x in row) for row in lines] for lines in mine]

    def wins(others: list[Lines]) -> list[list[float | None]]:
        return [
            outcomes(_scores(a), _scores(b), tie).rates() for a, b in zip(mine, others, strict=True)
        ]

    def each(measure: Any) -> float:
        return float(np.mean([measure(t) for t in texts]))

    pairs = [list(zip(prompts, t, strict=True)) for t in texts]
    return [
        name,
        _show(mean("score"), 1, 2),
        _show(wins(tuned), 100, 0),
        _show(wins(start), 100, 0),
        _show(mean("amusing"), 100, 0),
        f"{100 * np.nanmean([x for row in mean('fact') for x in row if x is not None]):.0f}",
        f"{np.mean([len(words(j)) for p in pairs for _, row in p for j in row]):.1f}",
        f"{np.mean([recall(s, j) for p in pairs for s, row in p for j in row]):.2f}",
        f"{100 * each(lambda t: near_copy_share(prompts, t)):.1f}",
        f"{each(lambda t: distinct_n(t, lines=1)):.2f}",
        f"{100 * each(lambda t: commonest_own_phrase(prompts, t).share):.1f}",
    ]


def _scores(lines: Lines) -> list[list[float | None]]:
    jokes = [[x["joke"] if x["finished"] else Unfinished(x["joke"]) for x in row] for row in lines]
    return lost_scores(jokes, [[x.get("score") for x in row] for row in lines])


def _mean(values: Any) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _show(values: list[list[float | None]], scale: float, digits: int) -> str:
    """Mean over seeds [interval over prompts] (each seed)."""
    pooled: Interval | None = mean_over_seeds(values, np.random.default_rng(0))
    if pooled is None:
        return "-"
    own = [f"{scale * np.mean([x for x in row if x is not None]):.{digits}f}" for row in values]
    ends = f"[{scale * pooled.low:.{digits}f}, {scale * pooled.high:.{digits}f}]"
    seeds = f" ({', '.join(own)})" if len(set(own)) > 1 else ""
    return f"{scale * pooled.value:.{digits}f} {ends}{seeds}"


if __name__ == "__main__":
    main()
