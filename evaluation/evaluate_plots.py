"""The plots of an evaluation as SVG text; needs matplotlib (extra `report`), loaded on use."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evaluation.render import strip_controls

Results = Mapping[str, Any]
Interval = Mapping[str, Any]


def plots(results: Results) -> list[tuple[str, str]]:
    """(title, SVG) of every plot that has something to show; the same results, the same bytes."""
    baseline = results["baseline"]
    drawn = [
        (f"Win rate against {baseline}", _plot_wins),
        ("One scale (Bradley-Terry)", _plot_scale),
        ("Win rate against distance from the start", _plot_kl),
        ("Over-optimisation: training critic minus report critic", _plot_gaps),
    ]
    return [(title, svg) for title, draw in drawn if (svg := draw(results))]


def _wins(results: Results) -> dict[str, Interval]:
    """System -> win rate against the baseline."""
    found = {}
    for pair in results["pairs"]:
        if pair["rate"] is None:
            continue
        if pair["b"] == results["baseline"]:
            found[pair["a"]] = pair["rate"]
        elif pair["a"] == results["baseline"]:
            x = pair["rate"]
            found[pair["b"]] = dict(x) | {
                "value": 1 - x["value"], "low": 1 - x["high"], "high": 1 - x["low"],
            }  # fmt: skip
    return found


def _plot_wins(results: Results) -> str:
    return _forest(_wins(results), 0.5, "win rate, ties half")


def _plot_scale(results: Results) -> str:
    strengths = {s["system"]: s["strength"] for s in results["bradley_terry"]}
    return _forest(strengths, 0.0, "strength, logits")


def _plot_gaps(results: Results) -> str:
    gaps = {g["system"]: g["gap"] for g in results["over_optimisation"] if g["gap"]}
    return _forest(gaps, 0.0, "win rate by the training critic minus by the report critic")


def _plot_kl(results: Results) -> str:
    wins = _wins(results)
    points = [
        (s["name"], s["kl"], wins[s["name"]])
        for s in results["systems"]
        if s["kl"] is not None and s["name"] in wins
    ]
    if len(points) < 2:
        return ""

    def draw(axes: Any) -> None:
        for name, kl, rate in points:
            below, above = rate["value"] - rate["low"], rate["high"] - rate["value"]
            axes.errorbar(
                [kl], [rate["value"]], yerr=[[max(below, 0)], [max(above, 0)]],
                fmt="o", ms=4, capsize=2, label=_label(name),
            )  # fmt: skip
        axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        axes.set_xlabel("KL to the start, nats a joke (best-of-N: upper bound)")
        axes.set_ylabel(f"win rate against {_label(results['baseline'])}")
        axes.legend(fontsize=7)

    return _svg(draw, 10)


def _forest(rows: Mapping[str, Interval], middle: float, what: str) -> str:
    if not rows:
        return ""
    names, intervals = list(rows), list(rows.values())

    def draw(axes: Any) -> None:
        axes.errorbar(
            [x["value"] for x in intervals],
            range(len(names)),
            xerr=[
                [max(x["value"] - x["low"], 0) for x in intervals],
                [max(x["high"] - x["value"], 0) for x in intervals],
            ],
            fmt="o", color="black", capsize=2,
        )  # fmt: skip
        axes.set_yticks(range(len(names)), _labels(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.axvline(middle, color="grey", linewidth=0.8, linestyle=":")
        axes.set_xlabel(what)

    return _svg(draw, len(names))


def _label(name: str) -> str:
    """Without what matplotlib would read as mathematics."""
    return strip_controls(name).replace("$", r"\$")


def _labels(names: Sequence[str]) -> list[str]:
    return [_label(n) for n in names]


def _svg(draw: Callable[[Any], None], rows: int) -> str:
    """Draw on the axes of a figure that has room for so many rows; SVG without its XML head."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "evaluate", "font.size": 9}):
        figure = Figure(figsize=(6.4, 1.1 + 0.3 * max(rows, 4)), layout="constrained")
        draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]
