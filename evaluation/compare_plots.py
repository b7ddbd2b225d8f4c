"""The plots of a comparison as SVG text; needs matplotlib (extra `report`), loaded on use."""

import io
from collections.abc import Callable
from typing import Any

from evaluation.compare_figures import Figures
from evaluation.compare_types import Comparison
from evaluation.render import strip_controls


def plots(c: Comparison, found: Figures) -> list[tuple[str, str]]:
    """(title, SVG): ratings with every seed, the best-of-N curve, select ratings while training."""
    rows = [r for r in found.rows[c.splits[0]] if r.rating is not None]
    methods = [m for m in c.methods if any(r.looks for r in m.runs)]

    def ratings(axes: Any) -> None:
        for y, row in enumerate(rows):
            if row.rating is not None:
                axes.plot([row.rating.low, row.rating.high], [y, y], color="grey")
                axes.plot([row.rating.value], [y], "o", color="black")
            seeds = [v for v in row.by_seed if v is not None]
            axes.plot(seeds, [y] * len(seeds), "|", color="tab:blue", markersize=10)
        axes.set_yticks(range(len(rows)), [_label(r.system) for r in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("report rating, 95 % over prompts; bars: seeds")

    def best_of(axes: Any) -> None:
        if c.curve is not None:
            axes.plot(c.curve.sizes, c.curve.means, color="black", label="best of N")
        for i, row in enumerate(r for r in rows if r.system in {m.name for m in methods}):
            if row.rating is not None:
                axes.axhline(row.rating.value, color=f"C{i}", linewidth=1, label=_label(row.system))
        axes.set_xscale("log", base=2)
        axes.set_xlabel("N")
        axes.set_ylabel("report rating")
        axes.legend(fontsize=7)

    def training(axes: Any) -> None:
        for i, method in enumerate(methods):
            for k, run in enumerate(method.runs):
                points = [(x.step, x.rating) for x in run.looks if x.rating is not None]
                label = _label(method.name) if k == 0 else None
                axes.plot([s for s, _ in points], [y for _, y in points], "o-", markersize=3,
                          color=f"C{i}", linewidth=0.8, label=label)  # fmt: skip
        axes.set_xlabel("update")
        axes.set_ylabel("select rating, every seed")
        axes.legend(fontsize=7)

    out = [("Ratings", _svg(ratings, len(rows)))] if rows else []
    out += [("Against best of N", _svg(best_of, 10))] if c.curve is not None else []
    return out + ([("While training", _svg(training, 10))] if methods else [])


def _svg(draw: Callable[[Any], None], rows: int) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "compare", "font.size": 9}):
        figure = Figure(figsize=(6.4, 1.1 + 0.3 * max(rows, 4)), layout="constrained")
        draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]


def _label(name: str) -> str:
    return strip_controls(name).replace("$", r"\$")
