"""Figures of the embedded critics, from the files that ship.

    python -m benchmarks.critics score --split validation --out scores.json   # minutes: two models
    python -m benchmarks.critics table --scores scores.json                   # seconds: markdown
    python -m benchmarks.critics human --folder PAIRS                         # pairs people rated

`score` reads every judged line of the split with the start student and with the bare base and lets
the three critics answer; `table` compares the answers with the labels. Intervals resample prompts.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.bias import accuracy_table, pick_best, source_order, within_prompt_slopes
from evaluation.calibration import auc, reliability
from evaluation.correlation import error_correlation
from evaluation.intervals import Interval

KINDS = ("embedded", "embedded-select", "embedded-report")
LIKELIHOOD = "likelihood, start student"
BASELINES = (
    "decoding label",
    "recall",
    "length",
    "likelihood, bare base",
    LIKELIHOOD,
    "ridge on these",
)
WARMTH = {  # what a reader who only knew the decoding would say: colder is better
    "greedy": 5.0,
    "best-of-8": 4.0,
    "t0.6": 3.0,
    "t0.7": 2.5,
    "t0.8": 2.0,
    "t1.0": 1.0,
}
SEED = 20
FEWEST = 20
"""A critic that answered fewer lines of a set has no row for it."""

Columns = dict[str, NDArray[Any]]
Row = Mapping[str, Any]


def columns(rows: Sequence[Row]) -> Columns:
    """Arrays over lines: labels, sources, each critic's score, each baseline."""
    out: Columns = {
        k: np.array([r[k] for r in rows])
        for k in (
            "id",
            "source",
            "round",
            "rating",
            "amusing",
            "fact",
            "length",
            "recall",
            "domain",
        )
    }
    for kind in KINDS:
        for what in ("score", "amusing", "fact", "out_of_domain"):
            out[f"{kind}.{what}"] = np.array(
                [r["critics"].get(kind, {}).get(what, np.nan) for r in rows], dtype=float
            )
    out[LIKELIHOOD] = np.array([r["logp_start"] for r in rows], dtype=float)
    out["likelihood, bare base"] = np.array([r["logp_base"] for r in rows], dtype=float)
    ends = [next((v for k, v in WARMTH.items() if s.endswith(k)), 0.0) for s in out["source"]]
    out["decoding label"] = np.array(ends)
    out["ridge on these"] = crossed_ridge(
        np.stack([out[n] for n in ("recall", "length", "likelihood, bare base", LIKELIHOOD)], 1),
        out["rating"],
        out["id"],
        student(out) & ~starts(out, "rl1"),
    )
    return out


def student(c: Columns) -> NDArray[np.bool_]:
    """Lines of the start student and its descendants."""
    return starts(c, "student") | starts(c, "rl1")


def starts(c: Columns, *prefixes: str) -> NDArray[np.bool_]:
    """Lines whose source begins with one of the prefixes."""
    return np.array([s.startswith(prefixes) for s in c["source"]])


def crossed_ridge(
    x: NDArray[Any], y: NDArray[Any], prompt: NDArray[Any], fit: NDArray[np.bool_], folds: int = 5
) -> NDArray[np.float64]:
    """Predictions of a ridge that never saw the prompt it answers for."""
    group = np.unique(prompt, return_inverse=True)[1] % folds
    x = x[:, ~np.isnan(x).any(0)]  # a covariate that was not computed for all lines is left out
    z = (x - x[fit].mean(0)) / x[fit].std(0)
    z = np.concatenate([z, z**2, np.ones((len(z), 1))], axis=1)
    out = np.zeros(len(z))
    for f in range(folds):
        at = fit & (group != f)
        beta = np.linalg.solve(z[at].T @ z[at] + np.eye(z.shape[1]), z[at].T @ y[at])
        out[group == f] = z[group == f] @ beta
    return out


def show(interval: Interval | None, digits: int = 2) -> str:
    """`.78 [.75, .81]`, or a dash."""
    if interval is None:
        return "-"
    value, low, high = (f"{v:.{digits}f}" for v in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def sets(c: Columns) -> dict[str, NDArray[np.bool_]]:
    """The sets of lines whose pairs are compared, and what they are called."""
    inside = c["domain"] == "everyday"
    return {
        "round 3, temperature 0.7": inside & (c["round"] == 3) & (c["source"] == "student2-t0.7"),
        "round 1, temperature 0.8": inside & (c["source"] == "student"),
        "round 2, mixed decoding": inside & (c["round"] == 2) & starts(c, "student2"),
        "RL lines (rl1, 0.7)": inside & np.isin(c["source"], ("rl1-20-t0.7", "rl1-40-t0.7")),
        "out of distribution, 0.7": ~inside & (c["source"] == "student2-t0.7"),
    }


def pair_tables(c: Columns) -> list[str]:
    """One table a set of lines: critics and baselines against labels."""
    out = []
    for name, keep in sets(c).items():
        if not keep.any():
            continue
        out += [f"### {name} ({int(keep.sum())} lines)", ""]
        out += ["| critic | 1+ points | 2+ points | both >= 2 | better >= 4 | both keep fact | "
                "over start likelihood |", "|---|---|---|---|---|---|---|"]  # fmt: skip
        for critic in (*BASELINES, *KINDS):
            score = c[f"{critic}.score"] if critic in KINDS else c[critic]
            if np.isfinite(score[keep]).sum() < FEWEST:
                continue
            table = accuracy_table(
                score, c["rating"], c["id"], np.random.default_rng(SEED),
                fact=c["fact"], keep=keep, baseline=c[LIKELIHOOD],
            )  # fmt: skip
            cells = [show(a.interval) for a in table.values()]
            over = table["1+ points"].over_baseline
            out.append(f"| {critic} | {' | '.join(cells)} | {show(over)} |")
        labels = accuracy_table(c["rating"], c["rating"], c["id"], np.random.default_rng(SEED),
                                fact=c["fact"], keep=keep)  # fmt: skip
        counts = ", ".join(f"{k}: {a.pairs}" for k, a in labels.items())
        out += ["", f"Pairs: {counts}.", ""]
    return out


def pick_table(c: Columns) -> list[str]:
    """What picking the best of a prompt's lines gives."""
    out = ["### Pick the best of a prompt's lines", "",
           "| critic | of six at 0.7: mean rating / share >= 4 | of round 2's: mean / share |",
           "|---|---|---|"]  # fmt: skip
    chosen = [sets(c)[n] for n in ("round 3, temperature 0.7", "round 2, mixed decoding")]
    best = []
    for critic in (*BASELINES, *KINDS):
        score = c[f"{critic}.score"] if critic in KINDS else c[critic]
        if any(np.isnan(score[k]).any() for k in chosen):
            continue
        best = [pick_best(score, c["rating"], c["id"], keep=k) for k in chosen]
        cells = [f"{b.mean:.2f} / {b.amusing:.3f}" for b in best]
        out.append(f"| {critic} | {' | '.join(cells)} |")
    chance = [f"{b.chance:.2f} / {b.chance_amusing:.3f}" for b in best]
    ceiling = [f"{b.ceiling:.2f} / {b.ceiling_amusing:.3f}" for b in best]
    greedy = []
    for keep in chosen:
        at = (c["source"] == "student2-greedy") & np.isin(c["id"], c["id"][keep])
        greedy.append(f"{c['rating'][at].mean():.2f} / {(c['rating'][at] >= 4).mean():.3f}"
                      if at.any() else "-")  # fmt: skip
    out.append(f"| a line at random | {' | '.join(chance)} |")
    out.append(f"| the greedy line | {' | '.join(greedy)} |")
    out.append(f"| the labels (ceiling) | {' | '.join(ceiling)} |")
    return [*out, ""]


def calibration_table(c: Columns) -> list[str]:
    """Mean score beside mean label, probabilities beside shares, for each kind of line."""
    out = ["### Calibration", "",
           "| critic | lines | n | rating said / labels | P(>= 4) said / share (ECE) | "
           "P(fact) said / share (ECE) | fact AUC | out of domain |",
           "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    groups = {
        "start, 0.7": c["source"] == "student2-t0.7",
        "start, greedy": c["source"] == "student2-greedy",
        "RL, 20 updates": starts(c, "rl1-20"),
        "RL, 40 updates": starts(c, "rl1-40"),
    }
    for kind in KINDS:
        for name, lines in groups.items():
            at = lines & ~np.isnan(c[f"{kind}.score"])
            if at.sum() < FEWEST:
                continue
            row = [f"{c[f'{kind}.score'][at].mean():.2f} / {c['rating'][at].mean():.2f}"]
            for what in ("amusing", "fact"):
                p, y = c[f"{kind}.{what}"][at], c[what][at]
                row.append(f"{p.mean():.3f} / {y.mean():.3f} ({reliability(p, y).ece:.3f})")
            fact = c["fact"][at] > 0.5
            row.append(f"{auc(c[f'{kind}.fact'][at], fact):.2f}" if 0 < fact.mean() < 1 else "-")
            away = c[f"{kind}.out_of_domain"][at].mean()
            out.append(f"| {kind} | {name} | {at.sum()} | {' | '.join(row)} | {away:.3f} |")
    return [*out, ""]


def source_table(c: Columns) -> list[str]:
    """Mean score against mean label over sources of known order."""
    known = ("shuffled words", "another prompt's line", "slip", "light", "copy")
    at = np.isin(c["source"], known) | starts(c, "student2")
    at &= c["domain"] == "everyday"
    out = [
        "### Sources",
        "",
        "| source | label | " + " | ".join(KINDS) + " |",
        "|---|---|---|---|---|",
    ]
    orders = [source_order(c[f"{k}.score"][at], c["rating"][at], list(c["source"][at]))
              for k in KINDS]  # fmt: skip
    for name, (_, label, n) in sorted(orders[0].means.items(), key=lambda item: item[1][1]):
        said = " | ".join(f"{o.means[name][0]:.2f}" if name in o.means else "-" for o in orders)
        out.append(f"| {name} ({n}) | {label:.2f} | {said} |")
    out.append(
        "| Spearman of the means | | " + " | ".join(f"{o.spearman:.2f}" for o in orders) + " |"
    )
    return [*out, ""]


def slope_table(c: Columns) -> list[str]:
    """Within-prompt slopes on length and recall, the critics' and the labels' own."""
    out = [
        "### Slopes within prompts",
        "",
        "| lines | value | points a word | points for all of the recall |",
        "|---|---|---|---|",
    ]
    for name in ("round 3, temperature 0.7", "RL lines (rl1, 0.7)"):
        at = sets(c)[name]
        for value in ("labels", *KINDS):
            y = c["rating"] if value == "labels" else c[f"{value}.score"]
            if np.isfinite(y[at]).sum() < FEWEST:
                continue
            slopes = within_prompt_slopes(
                y[at], {k: c[k][at] for k in ("length", "recall")}, c["id"][at],
                np.random.default_rng(SEED),
            )  # fmt: skip
            cells = [show(slopes["length"].slope, 3), show(slopes["recall"].slope)]
            out.append(f"| {name} | {value} | {' | '.join(cells)} |")
    return [*out, ""]


def error_table(c: Columns) -> list[str]:
    """Whether the critics err alike."""
    out = ["### Errors in common", "",
           "| critics | lines | partial correlation | correlation of score - label |",
           "|---|---|---|---|"]  # fmt: skip
    for name in ("round 3, temperature 0.7", "RL lines (rl1, 0.7)"):
        at = sets(c)[name]
        for i, first in enumerate(KINDS):
            for second in KINDS[i + 1 :]:
                if np.isfinite(c[f"{first}.score"] + c[f"{second}.score"])[at].sum() < FEWEST:
                    continue
                e = error_correlation(
                    c[f"{first}.score"][at], c[f"{second}.score"][at], c["rating"][at]
                )
                out.append(f"| {first}, {second} | {name} | {e.partial:.2f} | {e.residual:.2f} |")
    return [*out, ""]


TABLES: tuple[Callable[[Columns], list[str]], ...] = (
    pair_tables,
    pick_table,
    calibration_table,
    source_table,
    slope_table,
    error_table,
)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    score = commands.add_parser("score")
    score.add_argument("--split", choices=("validation", "test"), default="validation")
    score.add_argument("--out", type=Path, required=True)
    table = commands.add_parser("table")
    table.add_argument("--scores", type=Path, required=True)
    human = commands.add_parser("human")
    human.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "human":
        from benchmarks.critic_scores import human_accuracy

        for source, found in human_accuracy(options.folder).items():
            cells = (f"{kind} {share:.2f} ({pairs})" for kind, (share, pairs) in found.items())
            print(f"{source}: {', '.join(cells)}")
        return 0
    if options.command == "score":
        from benchmarks.critic_scores import score_split

        options.out.write_text(json.dumps(score_split(options.split)))
        return 0
    c = columns(json.loads(options.scores.read_text()))
    for make in TABLES:
        print("\n".join(make(c)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
