"""Sets audits of several critics side by side, for docs/audit.md.

    python -m benchmarks.audits runs/audit-embedded-... runs/audit-fake-longer-wins-...

Every column is of the audit's domain; read a row's own audit.md for the rest.
"""

import json
import sys
from pathlib import Path

HEADS = (
    "critic", "light", "accuracy", "over the best rule", "flip rate", "first slot",
    "bias, length", "bias, overlap", "probes that succeed", "untouched lines that win",
    "gates stop", "filler wins", "shortened wins",
)  # fmt: skip


def interval(found, digits=2):
    """ "value [low, high]", or a hyphen."""
    if found is None:
        return "-"
    value, low, high = (f"{found[k]:.{digits}f}" for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def number(found, form=".2f"):
    """The number, or a hyphen where it was not measured."""
    return "-" if found is None else format(found, form)


def row(audit):
    """One critic's cells."""
    domain = audit["groups"][audit["domain"]]
    order = domain["order"] or {}
    probes = (audit["probes"] or {}).get("all", {})
    changes = audit["changes"] or {}
    return [
        f"`{audit['critic']}`",
        f"{audit['light']['colour']}: {audit['light']['verdict']}",
        interval(domain["agreement"]["accuracy"]),
        interval((domain["over"] or {}).get(domain["best"])) + f" ({domain['best']})",
        interval(order.get("flip_rate")),
        interval(order.get("first_slot")),
        number(domain["length"]["bias"], "+.2f"),
        number(domain["overlap"]["bias"], "+.2f"),
        interval(probes.get("success")),
        number(probes.get("unattacked")),
        number(probes.get("gated")),
        interval(changes.get("filler added", {}).get("win")),
        interval(changes.get("shortened", {}).get("win")),
    ]


def main():
    folders = sys.argv[1:]
    if not folders:
        sys.exit(__doc__)
    print("| " + " | ".join(HEADS) + " |")
    print("|" + "---|" * len(HEADS))
    for folder in folders:
        audit = json.loads((Path(folder) / "audit.json").read_text())
        print("| " + " | ".join(row(audit)) + " |")


if __name__ == "__main__":
    main()
