"""An evaluation as tables in Markdown and as one self-contained HTML page with plots.

Both are made from results.json alone, so votes can be added later. Names and jokes may come from
others: Markdown is escaped, HTML autoescaped.
"""

from typing import Any

from evaluation.audit_report import MISSING, number
from evaluation.evaluate_plots import plots
from evaluation.evaluate_tables import Results, interval, percent, tables
from evaluation.render import escape_markdown, strip_controls

__all__ = ["MISSING", "html", "markdown"]

SHOWN = 20
"""Prompts whose jokes stand side by side on the page."""


def markdown(results: Results) -> str:
    """Title, warnings and tables; ends with a newline."""
    lines = [f"# {escape_markdown(_title(results))}", ""]
    for line in _summary(results):
        lines += [escape_markdown(line), ""]
    for table in tables(results):
        lines += [f"## {table.title}", ""]
        lines.append("| " + " | ".join(escape_markdown(h) for h in table.heads) + " |")
        lines.append("|" + "---|" * len(table.heads))
        lines += ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in table.rows]
        lines += ["", escape_markdown(table.note), ""] if table.note else [""]
    return "\n".join(lines).rstrip() + "\n"


def html(results: Results) -> str:
    """One page without any outside file.

    Raises:
        ImportError: jinja2 or matplotlib is not installed (`MISSING`).
    """
    import jinja2
    import markupsafe

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_PAGE).render(
        title=_title(results),
        summary=_summary(results),
        plots=[(title, markupsafe.Markup(svg)) for title, svg in plots(results)],
        tables=tables(results),
        names=[strip_controls(s["name"]) for s in results["systems"]],
        jokes=_side_by_side(results),
    )


# ---- the head of the page


def _title(results: Results) -> str:
    return strip_controls(f"Evaluation on {results['split']} prompts by {results['critic']}")


def _summary(results: Results) -> list[str]:
    n = len(results["prompts"])
    told = [strip_controls(w) for w in results["warnings"]]
    told.append(
        f"{n} prompts. Win rates count ties half, 95 % intervals resample prompts, ratings at most "
        f"{results['tie']:.3f} apart tie; an empty or unfinished line loses to every other."
    )
    control = results["control"]
    if control["rate"] is None:
        told.append(f"Control: none, {control['reason']}.")
    else:
        held = "holds" if control["even"] else "FAILS"
        told.append(f"Control {held}: {control['what']}: {percent(control['rate'])} %.")
    accuracy = results["accuracy"]
    if accuracy is not None:
        shown = interval(accuracy["accuracy"]) if accuracy["accuracy"] else "not known"
        told.append(
            f"On prompts of this kind the share of {accuracy['pairs']} labelled pairs that the "
            f"critic orders right is {shown}."
        )
    return told


def _side_by_side(results: Results) -> list[dict[str, Any]]:
    """The first prompts with the first line of every system and its score."""
    shown = []
    for i, prompt in enumerate(results["prompts"][:SHOWN]):
        cells = []
        for s in results["systems"]:
            row = s["jokes"][i]
            scores = s["scores"][i] if s["scores"] else []
            score = scores[0] if scores else None
            cells.append(
                {"joke": strip_controls(row[0]) if row else "-", "score": number(score, 2)}
            )
        shown.append({"prompt": strip_controls(prompt["text"]), "cells": cells})
    return shown


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body { font: 15px/1.5 sans-serif; max-width: 76em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-size: 13px; margin: 0.5em 0; display: block;
  overflow-x: auto }
th, td { border-bottom: 1px solid #ccc; padding: 0.2em 0.7em; text-align: left;
  vertical-align: top }
.score { color: #777 }
svg { max-width: 100%; height: auto }
</style></head><body>
<h1>{{ title }}</h1>
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
<h2>Jokes side by side</h2>
<table><tr><th>prompt</th>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in jokes %}<tr><td>{{ row.prompt }}</td>
{% for cell in row.cells %}<td>{{ cell.joke }} <span class="score">{{ cell.score }}</span></td>
{% endfor %}</tr>
{% endfor %}</table>
</body></html>
"""
