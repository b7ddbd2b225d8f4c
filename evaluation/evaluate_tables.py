"""The tables of an evaluation, made from results.json; `evaluate_report` lays them out."""

from collections.abc import Mapping
from typing import Any

from evaluation.audit_report import Table, number
from evaluation.render import NOT_RATABLE

Results = Mapping[str, Any]


def tables(results: Results) -> list[Table]:
    """All tables that have rows, in the order of the page."""
    made = (
        _standing, _lines, _control, _pairs, _scale, _gaps, _decoding, _accuracy, _votes,
        _corrected,
    )  # fmt: skip
    return [table for make in made if (table := make(results)).rows]


def pair_of(results: Results, a: str, b: str) -> dict[str, Any] | None:
    """Figures of a against b, turned round where the file has them the other way."""
    for pair in results["pairs"]:
        if (pair["a"], pair["b"]) == (a, b):
            return dict(pair)
        if (pair["a"], pair["b"]) == (b, a):
            return _turned(pair)
    return None


def _turned(pair: Mapping[str, Any]) -> dict[str, Any]:
    turned = dict(pair) | {"a": pair["b"], "b": pair["a"]}
    if pair["rate"] is None:
        return turned
    turned |= {"win": pair["loss"], "loss": pair["win"], "rate": _one_minus(pair["rate"])}
    # wins + ties of this side: 1 - wins of the other; its interval is not in the file
    turned["wtr"] = {"value": pair["loss"] + pair["tie"], "low": None, "high": None}
    controlled = pair["length_controlled"]
    if controlled is not None:
        turned["length_controlled"] = dict(controlled) | {"rate": _one_minus(controlled["rate"])}
    return turned


def _one_minus(x: Mapping[str, Any]) -> dict[str, Any]:
    return dict(x) | {"value": 1 - x["value"], "low": 1 - x["high"], "high": 1 - x["low"]}


def _standing(results: Results) -> Table:
    baseline = results["baseline"]
    table = {row["system"]: row for row in results["table"]["rows"]}
    base = table[baseline]
    rows = []
    for s in results["systems"]:
        row = table[s["name"]]
        against = [pair_of(results, s["name"], rival) for rival in (baseline, "start")]
        ratio = row["length"] / base["length"] if base["length"] else None
        cells = [s["name"] + (" (labels)" if s["rated_by"] == "labels" else ""), s["decoding"]]
        cells.append(interval(row["rating"]) if row["rating"] else s["reason"] and NOT_RATABLE)
        cells += [_rate(p) for p in against]
        cells += [_shares(against[0]), _wtr(against[0]), _controlled(against[0])]
        cells += [
            percent(row["amusing"]), percent(row["fact"], ends=False), f"{row['length']:.1f}",
            number(ratio, 2), f"{row['recall']:.2f}", number(s["kl"], 2), "; ".join(row["marks"]),
        ]  # fmt: skip
        rows.append(tuple(c or "-" for c in cells))
    heads = (
        "system", "decoding", "rating", f"win vs {baseline}, %", "win vs start, %",
        "won/tied/lost, %", "WTR, %", "at equal length, %", "amusing, %", "fact, %", "words",
        "length ratio", "recall", "KL, nats a joke", "marks",
    )  # fmt: skip
    note = (
        f"Won, tied, lost, WTR (wins + ties) and the rate at equal length are against {baseline}. "
        "KL is to the start student, of the policy that samples at 0.7; of best-of-N an upper "
        "bound."
    )
    return Table("Against the references", heads, tuple(rows), note)


def _lines(results: Results) -> Table:
    rows = []
    for row in results["table"]["rows"]:
        opening, phrase = row["opening"], row["phrase"]
        rows.append(
            (
                row["system"],
                number(row["distinct2"], 2),
                number(row["self_bleu"], 2),
                f"{opening['text']} ({100 * opening['share']:.0f} %)" if opening["text"] else "-",
                f"{phrase['text']} ({100 * phrase['share']:.0f} %)" if phrase["text"] else "-",
                _share(row["near_copies"]),
                _share(row["training_copies"]),
                "-" if row["longest_overlap"] is None else f"{row['longest_overlap']}",
                _share(row["out_of_domain"]),
                f"{row['lost']}/{row['unscored']}/{row['lines']}",
                row["note"] or "-",
            )
        )
    heads = (
        "system", "distinct-2", "self-BLEU", "commonest opening", "commonest 4-gram",
        "copies the prompt, %", "copies a training joke, %", "longest training overlap, words",
        "unlike what the critic knows, %", "lost/unscored/lines", "note",
    )  # fmt: skip
    note = f"distinct-2 at {results['table']['lines_compared']} line(s) a prompt."
    return Table("Diversity and memorisation", heads, tuple(rows), note)


def _control(results: Results) -> Table:
    c = results["control"]
    if c["rate"] is None:
        return Table(
            "Control", ("what", "win rate, %", "verdict"), ((c["what"], "-", c["reason"]),)
        )
    verdict = "50 % lies within" if c["even"] else "50 % lies outside: do not trust this table"
    row = (c["what"], percent(c["rate"]), f"{_shares(c)} won/tied/lost", verdict)
    return Table("Control", ("what", "win rate, %", "shares, %", "verdict"), (row,))


def _pairs(results: Results) -> Table:
    rows = []
    for p in results["pairs"]:
        if p["rate"] is None:
            rows.append((p["a"], p["b"], p["reason"], *["-"] * 5))
            continue
        s = p["sensitivity"]
        spread = "-" if s is None else f"{100 * s['none']:.0f} / {100 * s['double']:.0f}"
        rows.append(
            (p["a"], p["b"], percent(p["rate"]), _shares(p), _wtr(p), _controlled(p),
             f"{100 * p['detectable']:.1f}", spread)
        )  # fmt: skip
    heads = (
        "system", "against", "win rate, %", "won/tied/lost, %", "WTR, %", "at equal length, %",
        "smallest detectable, points", "win rate at tie threshold 0 / doubled, %",
    )  # fmt: skip
    remarks = [
        f"{p['a']} against {p['b']}: {remark}."
        for p in results["pairs"]
        if p["rate"] is not None and p["length_controlled"] is not None
        for remark in p["length_controlled"]["remarks"]
    ]
    return Table("Every system against every other", heads, tuple(rows), " ".join(remarks))


def _scale(results: Results) -> Table:
    rows = tuple(
        (s["system"], interval(s["strength"]), f"{100 * s['beats_reference']:.1f}")
        for s in results["bradley_terry"]
    )
    heads = ("system", "strength, logits", f"predicted win rate vs {results['baseline']}, %")
    note = f"Bradley-Terry, {results['baseline']} = 0; intervals resample prompts."
    return Table("One scale", heads, rows, note)


def _gaps(results: Results) -> Table:
    rows = []
    for g in results["over_optimisation"]:
        if g["gap"] is None:
            rows.append((g["system"], g["critic"] or "-", "-", "-", g["reason"]))
            continue
        rows.append(
            (g["system"], g["critic"], f"{100 * g['train']:.1f}", f"{100 * g['report']:.1f}",
             percent(g["gap"], signed=True))
        )  # fmt: skip
    heads = ("system", "training critic", "win rate by it, %", "by the report critic, %",
             "gap, points")  # fmt: skip
    note = (
        f"Win rates against {results['baseline']}. A gap above 0: the training critic sees more of "
        "a gain than one that no run has seen. best-of-N and start show what is due to picking by "
        "it, or to no training at all."
    )
    known = any(g["gap"] for g in results["over_optimisation"])
    return Table("Over-optimisation", heads, tuple(rows) if known else (), note)


def _decoding(results: Results) -> Table:
    tuned = [s for s in results["systems"] if s["tuning"]]
    heads = list(dict.fromkeys(t for s in tuned for t in s["tuning"]))
    rows = tuple(
        (s["name"], *(number(s["tuning"].get(t), 2) for t in heads), s["decoding"]) for s in tuned
    )
    note = "Mean rating by the select critic on select prompts at each temperature; 0 is greedy."
    return Table("Decoding", ("system", *heads, "chosen"), rows, note)


def _accuracy(results: Results) -> Table:
    a = results["accuracy"]
    title = "How far the critic can be trusted here"
    heads = ("labelled pairs", "ordered as labelled", "kappa", "unscored")
    if a is None:
        return Table(title, heads, ())
    rows = ((f"{a['pairs']}", interval(a["accuracy"]), interval(a.get("kappa")),
             f"{a.get('unscored', 0)}"),)  # fmt: skip
    note = a["reason"] or (
        "Judged pairs of the corpus in this domain, of lines the critic may rate, a point or more "
        "apart; ties half."
    )
    return Table(title, heads, rows, note)


def _votes(results: Results) -> Table:
    v = results["votes"]
    heads = ("pairs voted on", "critic agrees", "kappa", "without a verdict")
    if v is None:
        return Table("Votes", heads, ())
    a = v["agreement"]
    row = (f"{v['pairs']}", interval(a["accuracy"]), interval(a["kappa"]), f"{a['unscored']}")
    return Table("Votes", heads, (row,), "Of people or outside judges, on blind pairs.")


def _corrected(results: Results) -> Table:
    rows = []
    for c in (results["votes"] or {"comparisons": ()})["comparisons"]:
        k = c["corrected"]
        shown = c["reason"] if k is None else (
            f"{100 * k['rate']:.1f} [{100 * k['low']:.0f}, {100 * k['high']:.0f}]"
        )  # fmt: skip
        errors = "-" if k is None else f"{k['sensitivity']:.2f} / {k['specificity']:.2f}"
        critic = "-" if c["critic"] is None else f"{100 * c['critic']:.1f}"
        rows.append((*c["of"], f"{c['voted']}", f"{100 * c['votes']:.1f}", critic, errors, shown))
    heads = (
        "system", "against", "pairs", "win rate by votes, %", "by the critic on these, %",
        "sensitivity / specificity", "corrected win rate on all blind pairs, %",
    )  # fmt: skip
    note = (
        "Rogan-Gladen, with the interval of Lang and Reiczigel; docs/evaluate.md. Blind pairs have "
        "no lost lines (empty or unfinished) and no two equal ones: the ladder counts both."
    )
    return Table("Win rates corrected by votes", heads, tuple(rows), note)


# ---- cells


def interval(x: Mapping[str, Any] | None, digits: int = 2) -> str:
    """`2.55 [2.49, 2.61]`, or `-`."""
    if x is None:
        return "-"
    value, low, high = (f"{x[k]:.{digits}f}" for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def percent(x: Mapping[str, Any] | None, *, ends: bool = True, signed: bool = False) -> str:
    """`58.1 [53, 63]`, or `-`."""
    if x is None:
        return "-"
    sign = "+" if signed else ""
    value = f"{100 * x['value']:{sign}.1f}"
    if not ends:
        return value
    return f"{value} [{100 * x['low']:{sign}.0f}, {100 * x['high']:{sign}.0f}]"


def _rate(pair: Mapping[str, Any] | None) -> str:
    """The win rate; a system is not held against itself."""
    return "-" if pair is None or pair["rate"] is None else percent(pair["rate"])


def _shares(pair: Mapping[str, Any] | None) -> str:
    if pair is None or pair["rate"] is None:
        return "-"
    return "/".join(f"{100 * pair[k]:.0f}" for k in ("win", "tie", "loss"))


def _wtr(pair: Mapping[str, Any] | None) -> str:
    return "-" if pair is None or pair["rate"] is None else percent(pair["wtr"], ends=False)


def _controlled(pair: Mapping[str, Any] | None) -> str:
    if pair is None or pair["rate"] is None or pair["length_controlled"] is None:
        return "-"
    return percent(pair["length_controlled"]["rate"])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
