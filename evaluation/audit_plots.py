"""The plots of an audit as SVG text; needs matplotlib (extra `report`), loaded on use."""

import io
from collections.abc import Callable, Sequence
from typing import Any

from evaluation.audit import PairSlope
from evaluation.audit_groups import Audit, Group
from evaluation.intervals import Interval
from evaluation.render import strip_controls


def plots(audit: Audit) -> list[tuple[str, str]]:
    """(title, SVG) of every plot that has something to show; the same audit, the same bytes."""
    drawn = [
        ("Accuracy by who wrote the lines", _plot_accuracy),
        ("What probabilities are worth", _plot_reliability),
        ("Slopes beside the labels' own", _plot_slopes),
        ("Probes that succeed", _plot_probes),
    ]
    return [(title, svg) for title, draw in drawn if (svg := draw(audit))]


def _svg(draw: Callable[[Any], None], rows: int) -> str:
    """Draw on the axes of a figure that has room for so many rows; SVG without its XML head."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "audit", "font.size": 9}):
        figure = Figure(figsize=(6.4, 1.1 + 0.3 * max(rows, 4)), layout="constrained")
        draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]


def _bars(axes: Any, names: Sequence[str], intervals: Sequence[Interval | None]) -> None:
    rows = [(i, x) for i, x in enumerate(intervals) if x is not None]
    axes.errorbar(
        [x.value for _, x in rows],
        [i for i, _ in rows],
        xerr=[
            [max(x.value - x.low, 0) for _, x in rows],
            [max(x.high - x.value, 0) for _, x in rows],
        ],
        fmt="o", color="black", capsize=2, label="critic",
    )  # fmt: skip
    axes.set_yticks(range(len(names)), [strip_controls(n).replace("$", r"\$") for n in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def _plot_accuracy(audit: Audit) -> str:
    groups = {k: g for k, g in audit.groups.items() if g.agreement.accuracy}
    if not groups:
        return ""

    def draw(axes: Any) -> None:
        _bars(axes, list(groups), [g.agreement.accuracy for g in groups.values()])
        best = [g.baselines[g.best] for g in groups.values()]
        axes.plot([b.value for b in best if b], range(len(best)), "x", color="grey",
                  label="best cheap baseline")  # fmt: skip
        axes.axvline(0.5, color="grey", linewidth=0.8, linestyle=":")
        axes.set_xlabel("pairs ordered as labelled")
        axes.legend(fontsize=8)

    return _svg(draw, len(groups))


def _plot_reliability(audit: Audit) -> str:
    curves = {f"P(rating >= 4): {k}": r for k, r in audit.rating_calibration.items()}
    curves |= {f"P(a funnier): {k}": g.calibration for k, g in audit.groups.items()
               if g.calibration}  # fmt: skip
    if not curves:
        return ""

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
        for name, r in curves.items():
            label = strip_controls(name).replace("$", r"\$")
            axes.plot([b[0] for b in r.bins], [b[1] for b in r.bins], "o-", ms=3, label=label)
        axes.set_xlabel("probability said")
        axes.set_ylabel("share that happened")
        axes.legend(fontsize=7)

    return _svg(draw, 10)


def _plot_slopes(audit: Audit) -> str:
    """Both covariates, in probability for one standard deviation, critic and labels."""

    def scaled(group: Group) -> list[tuple[str, PairSlope]]:
        return [("length", group.length), ("recall", group.overlap)]

    rows = [(f"{name}: {what}", s) for name, g in audit.groups.items() for what, s in scaled(g)
            if s.critic and s.labels]  # fmt: skip
    if not rows:
        return ""

    def times(s: PairSlope) -> Interval | None:
        if s.critic is None:
            return None
        return s.critic._replace(
            value=s.critic.value * s.spread, low=s.critic.low * s.spread,
            high=s.critic.high * s.spread,
        )  # fmt: skip

    def draw(axes: Any) -> None:
        _bars(axes, [name for name, _ in rows], [times(s) for _, s in rows])
        axes.plot([s.labels.value * s.spread for _, s in rows if s.labels], range(len(rows)), "x",
                  color="grey", label="labels")  # fmt: skip
        axes.axvline(0, color="grey", linewidth=0.8, linestyle=":")
        axes.set_xlabel("probability of winning for one standard deviation more")
        axes.legend(fontsize=8)

    return _svg(draw, len(rows))


def _plot_probes(audit: Audit) -> str:
    if not audit.probes:
        return ""

    def draw(axes: Any) -> None:
        _bars(axes, list(audit.probes), [p.success for p in audit.probes.values()])
        axes.plot([p.unattacked for p in audit.probes.values()], range(len(audit.probes)), "x",
                  color="grey", label="untouched line")  # fmt: skip
        axes.set_xlabel("share that succeeds after the gates")
        axes.legend(fontsize=8)

    return _svg(draw, len(audit.probes))
