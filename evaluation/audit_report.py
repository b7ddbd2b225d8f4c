"""An audit as tables in Markdown and as one self-contained HTML page with plots.

Names and sources may come from files of others: Markdown is escaped, HTML autoescaped.
"""

from collections.abc import Callable
from typing import NamedTuple

from evaluation.audit import PairSlope
from evaluation.audit_groups import Audit
from evaluation.audit_light import USES
from evaluation.audit_plots import plots
from evaluation.intervals import Interval
from evaluation.render import escape_markdown, strip_controls

MISSING = (
    "the HTML page needs the packages of the extra `report`: pip install 'punchline-rl[report]'"
)


class Table(NamedTuple):
    """One table of the report."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables(audit: Audit) -> list[Table]:
    """All tables that have rows, in the order of the page."""
    made = (
        _light, _agreement, _orders, _slopes, _favours, _calibration, _noise_and_cost, _probes,
        _recipes, _changes,
    )  # fmt: skip
    return [table for make in made if (table := make(audit)).rows]


def markdown(audit: Audit) -> str:
    """Title, verdict, reasons and tables; ends with a newline."""
    lines = [f"# Audit of {escape_markdown(audit.critic)}", "", *_summary(audit, escape_markdown)]
    for table in tables(audit):
        lines += [f"## {table.title}", ""]
        lines.append("| " + " | ".join(escape_markdown(h) for h in table.heads) + " |")
        lines.append("|" + "---|" * len(table.heads))
        lines += ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in table.rows]
        lines += ["", table.note, ""] if table.note else [""]
    return "\n".join(lines).rstrip() + "\n"


def html(audit: Audit) -> str:
    """One page without any outside file.

    Raises:
        ImportError: jinja2 or matplotlib is not installed (`MISSING`).
    """
    import jinja2
    import markupsafe

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(_PAGE)
    return page.render(
        critic=strip_controls(audit.critic),
        colour=audit.light.colour,
        summary=[line for line in _summary(audit, strip_controls) if line],
        plots=[(title, markupsafe.Markup(svg)) for title, svg in plots(audit)],
        tables=tables(audit),
    )


def _summary(audit: Audit, shown: Callable[[str], str]) -> list[str]:
    lines = [
        shown(f"{audit.light.colour.upper()}: {audit.light.verdict}, in the domain: {audit.domain}")
        + ".",
        "",
        shown(f"A {audit.kind}, audited on {audit.data}") + ".",
        "",
    ]
    for use in USES:
        if use not in audit.light.fit:
            reasons = "; ".join(audit.light.reasons(use))
            lines += [shown(f"Not fit for {use}: {reasons}") + ".", ""]
    return lines


def _light(audit: Audit) -> Table:
    names = list(dict.fromkeys(c.figure for use in USES for c in audit.light.checks[use]))
    rows = []
    for name in names:
        cells, value = [], None
        for use in USES:
            check = next((c for c in audit.light.checks[use] if c.figure == name), None)
            if check is None:
                cells.append("-")
                continue
            value = check.value
            side = ">=" if check.at_least else "<="
            cells.append(f"{side} {check.limit:g}: {'passed' if check.passed else 'failed'}")
        rows.append((name, "not measured" if value is None else f"{value:.3f}", *cells))
    return Table("Thresholds", ("figure", "value", *USES), tuple(rows))


def _agreement(audit: Audit) -> Table:
    rules = list(next(iter(audit.groups.values())).baselines) if audit.groups else []
    rows = []
    for name, g in audit.groups.items():
        a = g.agreement
        cells = [show(g.baselines[r]) for r in rules]
        over = f"{show(g.over[g.best])} ({g.best})" if g.best else "-"
        rows.append(
            (name, f"{a.pairs}", f"{a.unscored}", show(a.accuracy), show(a.kappa), *cells, over)
        )
    heads = ("pairs of", "pairs", "unscored", "accuracy", "kappa", *rules, "over the best of these")
    note = "Share of pairs ordered as labelled, ties half, [95 % over prompts]."
    return Table("Agreement with the labels", heads, tuple(rows), note)


def _orders(audit: Audit) -> Table:
    rows = tuple(
        (
            name,
            show(g.order.flip_rate),
            show(g.order.first_slot),
            show(g.order.one_order),
            show(g.order.averaged),
        )
        for name, g in audit.groups.items()
        if g.order
    )
    heads = ("pairs of", "flip rate", "first slot wins", "accuracy, one order", "both orders")
    return Table("Order of showing", heads, rows)


def _slopes(audit: Audit) -> Table:
    def cells(s: PairSlope, digits: int) -> tuple[str, ...]:
        bias = "-" if s.bias is None else f"{s.bias:+.3f}"
        return (show(s.critic, digits), show(s.labels, digits), show(s.excess, digits), bias)

    rows = tuple(
        row
        for name, g in audit.groups.items()
        for row in (
            (name, "a word", *cells(g.length, 3)),
            (name, "all of the recall", *cells(g.overlap, 2)),
        )
    )
    heads = ("pairs of", "unit", "critic", "labels", "critic - labels", "bias, one sd")
    note = (
        "Probability of winning for each word more, and for all of the prompt's content words "
        "more. Bias: beyond the span from 0 to the labels' slope, for one standard deviation."
    )
    return Table("Length and overlap", heads, rows, note)


def _favours(audit: Audit) -> Table:
    rows = tuple(
        (name + (" (its own)" if name == audit.own else ""), f"{f.pairs}",
         show(f.critic), show(f.labels), show(f.excess))
        for name, f in audit.favours.items()
    )  # fmt: skip
    heads = ("source", "pairs", "wins, critic", "wins, labels", "critic - labels")
    return Table("Against lines of other sources", heads, rows)


def _calibration(audit: Audit) -> Table:
    rows = [
        ("P(rating >= 4)", name, f"{sum(n for *_, n in r.bins)}", f"{r.ece:.3f}")
        for name, r in audit.rating_calibration.items()
    ]
    for name, g in audit.groups.items():
        if g.calibration:
            pairs = sum(n for *_, n in g.calibration.bins) // 2
            rows.append(("P(a funnier)", name, f"{pairs}", f"{g.calibration.ece:.3f}"))
    return Table("Calibration", ("probability", "of", "n", "ECE"), tuple(rows))


def _noise_and_cost(audit: Audit) -> Table:
    cost, noise = audit.cost, audit.noise
    rows = []
    if noise:
        rows.append(("winners that change when asked again", show(noise.changed)))
        rows.append(("mean change of P(a funnier)", number(noise.difference)))
    rows += [
        ("verdicts", f"{cost.verdicts}"),
        ("seconds a verdict", number(cost.seconds, 4)),
        ("tokens a verdict", number(cost.tokens, 1)),
        ("money a verdict", number(cost.money, 6)),
        *((f"missing: {cause}", f"{n}") for cause, n in sorted(cost.failures.items())),
    ]
    return Table("Noise and cost", ("what", "value"), tuple(rows))


def _probes(audit: Audit) -> Table:
    rows = tuple(
        (kind, f"{p.recipes}", f"{p.probes}", show(p.success), show(p.ungated), f"{p.gated:.2f}",
         f"{p.unattacked:.2f}", show(p.excess), f"{p.unscored}")
        for kind, p in audit.probes.items()
    )  # fmt: skip
    heads = (
        "probes", "recipes", "n", "success", "without gates", "gated", "untouched line wins",
        "excess", "unscored",
    )  # fmt: skip
    return Table("Adversarial probes", heads, rows)


def _recipes(audit: Audit) -> Table:
    rows = tuple(
        (kind, name, f"{hits} of {n}", gates or "-")
        for name, (kind, hits, n, gates) in audit.recipes.items()
        if hits
    )
    return Table("Probes that succeeded", ("kind", "recipe", "successes", "gates met"), rows)


def _changes(audit: Audit) -> Table:
    rows = tuple(
        (kind, f"{c.pairs}", f"{c.unscored}", show(c.win), show(c.mean, 3))
        for kind, c in audit.changes.items()
    )
    heads = ("changed line", "pairs", "unscored", "beats its original", "mean change")
    note = "Ties half; filler must not gain (0.5 or less), shortening must not lose."
    return Table("Counterfactuals", heads, rows, note)


def show(interval: Interval | None, digits: int = 2) -> str:
    """`0.70 [0.67, 0.73]`, or `-`."""
    if interval is None:
        return "-"
    value, low, high = (f"{x:.{digits}f}" for x in interval[:3])
    return f"{value} [{low}, {high}]"


def number(value: float | None, digits: int = 3) -> str:
    """The number rounded, or `-`."""
    return "-" if value is None else f"{value:.{digits}f}"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Audit of {{ critic }}</title><style>
body { font: 15px/1.5 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-size: 13px; margin: 0.5em 0 }
th, td { border-bottom: 1px solid #ccc; padding: 0.2em 0.7em; text-align: left }
.light { display: inline-block; width: 1em; height: 1em; border-radius: 50% }
.green { background: #2a2 } .yellow { background: #ec0 } .red { background: #c22 }
svg { max-width: 100%; height: auto }
</style></head><body>
<h1><span class="light {{ colour }}"></span> Audit of {{ critic }}</h1>
{% for line in summary %}<p>{{ line }}</p>
{% endfor %}
{% for title, svg in plots %}<h2>{{ title }}</h2>
{{ svg }}
{% endfor %}
{% for table in tables %}<h2>{{ table.title }}</h2>
<table><tr>{% for head in table.heads %}<th>{{ head }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% if table.note %}<p>{{ table.note }}</p>{% endif %}
{% endfor %}
</body></html>
"""
