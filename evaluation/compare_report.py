"""A comparison of methods as Markdown, as JSON and as one self-contained HTML page.

Names and reasons may come from others: Markdown is escaped, HTML autoescaped.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.audit_report import Table, number, show
from evaluation.compare_figures import (
    RIVALS,
    Figures,
    Row,
    equal_seconds,
    mean,
)
from evaluation.compare_findings import CONDITION, percent, summary
from evaluation.compare_plots import plots
from evaluation.compare_types import Comparison, Trial
from evaluation.contrasts import BestOfN, Contrast, NEquivalent
from evaluation.intervals import Interval
from evaluation.render import escape_markdown, strip_controls

ENDS = (
    ("select/rating", "rating, sampled", 2),
    ("tuned/rating", "rating, tuned", 2),
    ("tuned/words", "words", 1),
    ("tuned/recall", "recall", 2),
    ("tuned/distinct_2", "distinct-2", 2),
    ("tuned/commonest_4gram", "commonest own 4-gram", 2),
    ("policy/kl_per_joke", "KL, nats a joke", 1),
    ("policy/entropy", "entropy, nats a token", 2),
)
"""Metric, heading and digits of the table of last looks."""


def tables(c: Comparison, found: Figures) -> list[Table]:
    """All tables of the report, in its order."""
    contrasts = {found.primary_split: found.primary, **found.primary_elsewhere}
    named = [x and x._replace(name=f"{x.name}, {split}") for split, x in contrasts.items()]
    out = [_contrast_table("Primary contrast, stated beforehand", named)]
    for split in c.splits:
        out.append(_result_table(c, split, found.rows[split]))
    out.append(_contrast_table("Secondary contrasts, Holm-corrected", found.secondary))
    if c.curve is not None:
        out.append(_curve_table(c.curve))
    out += [_end_table(c), _trial_table(c.trials), _cost_table(c), _run_table(c)]
    return [t for t in out if t.rows]


def _curve_table(curve: BestOfN) -> Table:
    sizes = [n for n in (1, 2, 4, 8, 16, 32, 64) if n in curve.sizes]
    cells = (f"{curve.means[curve.sizes.index(n)]:.3f}" for n in sizes)
    note = (
        "Expected report rating of the line that the training critic picks among N lines of the "
        "start student; exact, from one pool a prompt."
    )
    return Table("Best of N", ("N", *map(str, sizes)), (("rating", *cells),), note)


def _end_table(c: Comparison) -> Table:
    """Where every run was driven, whether or not that look was within the bounds."""
    rows = []
    for method in c.methods:
        ends = [r.looks[-1].told for r in method.runs if r.looks]
        if ends:
            values = [(mean([told.get(key) for told in ends]), digits) for key, _, digits in ENDS]
            rows.append((method.name, *(number(value, digits) for value, digits in values)))
    note = (
        "Means over seeds on select prompts, by the select critic, no bounds applied; words to "
        "4-gram at the start's best decoding; the KL of a method that samples nothing is the mean "
        "log ratio on the pairs it was given, and may be negative. The results above are of each "
        "run's best look within the bounds."
    )
    return Table("Where training ended", ("method", *(h for _, h, _ in ENDS)), tuple(rows), note)


def _trial_table(trials: Sequence[Trial]) -> Table:
    rows = tuple(
        (t.method, t.options or "the defaults", "-" if t.best_step is None else str(t.best_step),
         number(t.rating, 2), "chosen" if t.chosen else "")
        for t in trials
    )  # fmt: skip
    heads = ("method", "options tried", "best step", "select rating", "")
    note = (
        "With a seed that is not compared, on select prompts; rating by the select critic at the "
        "best step within the bounds (0: the start)."
    )
    return Table("Tuning", heads, rows, note)


def _run_table(c: Comparison) -> Table:
    rows = tuple(
        (r.name, r.state, "-" if r.best_step is None else str(r.best_step), number(r.seconds, 0),
         r.reason)
        for m in c.methods
        for r in m.runs
    )  # fmt: skip
    return Table("Runs", ("run", "state", "best step", "seconds", "reason"), rows)


def _contrast_table(title: str, contrasts: Sequence[Contrast | None]) -> Table:
    rows = tuple(
        (x.name, percent(x.win), ", ".join(_share(v) for v in x.by_seed) or "-",
         show(x.difference), _p(x.p), _p(x.adjusted), _share(x.detectable), x.verdict)
        for x in contrasts if x is not None
    )  # fmt: skip
    heads = ("contrast", "win rate, %", "each seed, %", "rating difference", "p", "p, Holm",
             "detectable, %", "verdict")  # fmt: skip
    note = (
        f"{CONDITION}. Win rate with ties half, [95 % over prompts]; p by random signs of the "
        "prompts' win rates less 50 %; better or worse at .05; detectable: smallest true distance "
        "from 50 % found with 80 % power."
    )
    return Table(title, heads, rows, note)


def _result_table(c: Comparison, split: str, rows: Sequence[Row]) -> Table:
    heads = ("system", "seeds", "judged jokes", "rating", "each seed",
             *(f"win vs {r}, %" for r in RIVALS), "amusing, %", "fact, %", "words", "recall",
             "KL, nats", "gap, points", "N-equivalent", "marks", "note")  # fmt: skip
    cells = tuple(
        (r.system, r.seeds, r.judged, show(r.rating), ", ".join(number(v, 2) for v in r.by_seed),
         *(percent(r.wins.get(rival)) for rival in RIVALS), percent(r.amusing),
         _share(r.fact and r.fact.value), number(r.words, 1), number(r.recall, 2),
         number(r.kl, 1), number(None if r.gap is None else 100 * r.gap, 1), _n(r.n, c.curve),
         "; ".join(r.marks), r.note)
        for r in rows
    )  # fmt: skip
    note = (
        f"{CONDITION}. Judged by {c.critic}; ratings up to {c.tie:g} apart tie. N-equivalent: how "
        "many lines of the start student the training critic must choose among to do as well. KL "
        "is to the start student, of a joke sampled at 0.7; of best-of-N an upper bound. Gap: win "
        "rate against start-tuned by the critic that trained it (of a reference: that trained most "
        "runs), less that by the report critic."
    )
    return Table(f"Results, {split} prompts", heads, cells, note + _accuracy(c, split))


def _accuracy(c: Comparison, split: str) -> str:
    told = c.accuracy.get(split)
    if not told or not told.get("accuracy"):
        return ""
    right = told["accuracy"]
    return (
        f" Of {told['pairs']} judged pairs of this domain {c.critic} orders "
        f"{percent(Interval(**right))} % as labelled."
    )


def _cost_table(c: Comparison) -> Table:
    limit, gains = equal_seconds(c)
    rows = []
    for method in c.methods:
        if not method.runs:
            rows.append((method.name, "0", "-", "0", "-", "-", method.note))
            continue
        runs = method.runs
        rows.append(
            (method.name, _listed([r.judged for r in runs]), _listed([r.labels for r in runs]),
             _listed([r.selecting for r in runs]),
             number(mean([r.seconds for r in runs]), 0), number(gains.get(method.name), 2),
             method.note)
        )  # fmt: skip
    head = "select rating gained" if limit is None else f"select rating gained in {limit:.0f} s"
    note = (
        f"The budget is {c.budget} judged jokes a run, cached or not. Equal seconds: the best look "
        "within the bounds by the time that the shortest run took, less the look at the start; "
        "unknown where all jokes are judged first. Labels: judged lines that the training critic "
        "or the given pairs were made of, a cost of every method that learns from them."
    )
    heads = ("method", "judged in training", "labels", "in selection", "seconds", head, "note")
    return Table("Cost, and gains at equal seconds", heads, tuple(rows), note)


def markdown(c: Comparison, found: Figures) -> str:
    """Title, conclusions and tables; ends with a newline."""
    lines = [f"# Comparison: {escape_markdown(c.question)}", ""]
    for line in summary(c, found):
        lines += [escape_markdown(line), ""]
    for table in tables(c, found):
        lines += [f"## {escape_markdown(table.title)}", ""]
        lines.append("| " + " | ".join(map(escape_markdown, table.heads)) + " |")
        lines.append("|" + "---|" * len(table.heads))
        lines += ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in table.rows]
        lines += ["", escape_markdown(table.note), ""] if table.note else [""]
    return "\n".join(lines).rstrip() + "\n"


def as_json(found: Figures) -> dict[str, Any]:
    """Everything, by field name; None stays null, an infinite N is the text "beyond the pool"."""
    plain = _plain(found)
    if not isinstance(plain, dict):
        raise TypeError("figures become a dict")
    return plain


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {k: _plain(getattr(value, k)) for k in value.__dataclass_fields__}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {k: _plain(v) for k, v in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "beyond the pool"
    return value


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _listed(values: Sequence[int | None]) -> str:
    return ", ".join(map(str, sorted({v for v in values if v is not None}))) or "-"


def _n(n: NEquivalent | None, curve: BestOfN | None) -> str:
    if n is None or curve is None:
        return "-"
    top = max(curve.sizes)
    told = [f"> {top}" if math.isinf(x) else f"{x:.1f}".removesuffix(".0") for x in n]
    return told[0] if n.low == n.high else f"{told[0]} [{told[1]}, {told[2]}]"


# ---- the page


def html(c: Comparison, found: Figures) -> str:
    """One page without any outside file.

    Raises:
        ImportError: jinja2 or matplotlib is not installed (extra `report`).
    """
    import jinja2
    import markupsafe

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_PAGE).render(
        title=strip_controls(c.question),
        summary=[strip_controls(line) for line in summary(c, found)],
        plots=[(title, markupsafe.Markup(svg)) for title, svg in plots(c, found)],
        tables=tables(c, found),
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body { font: 15px/1.5 sans-serif; max-width: 80em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-size: 13px; display: block; overflow: auto }
th, td { border-bottom: 1px solid #ccc; padding: 0.2em 0.7em; text-align: left }
svg { max-width: 100%; height: auto }
</style></head><body>
<h1>Comparison: {{ title }}</h1>
{% for line in summary %}<p>{{ line }}</p>
{% endfor %}
{% for table in tables %}<h2>{{ table.title }}</h2>
<table><tr>{% for head in table.heads %}<th>{{ head }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% if table.note %}<p>{{ table.note }}</p>{% endif %}
{% endfor %}
{% for title, svg in plots %}<h2>{{ title }}</h2>
{{ svg }}
{% endfor %}
</body></html>
"""
