"""The conclusions of a comparison in sentences: what of the papers' findings holds here."""

from evaluation.audit_report import number
from evaluation.compare_figures import BEST_OF_4, Figures
from evaluation.compare_types import Comparison
from evaluation.contrasts import Contrast
from evaluation.intervals import Interval

CONDITION = "Conditional on these seeds"


def summary(c: Comparison, found: Figures) -> list[str]:
    """The conclusions, a sentence a line."""
    failed = [r.name for m in c.methods for r in m.runs if r.state != "done"] + [*c.missing]
    seeds = sorted({r.seed for m in c.methods for r in m.runs})
    lines = [
        f"{CONDITION} ({', '.join(map(str, seeds))}), by {c.critic}, which no run has seen; "
        f"{c.budget} judged jokes a run, same start, prompts and updates."
    ]
    if not c.primary[0]:
        lines.append("No primary contrast: its two methods are not both compared.")
    lines += [*findings(c, found), *c.warnings]
    if failed:
        lines.append(f"Without a result: {', '.join(failed)}.")
    return lines


def findings(c: Comparison, found: Figures) -> list[str]:
    """What of the papers' findings holds here, each by one contrast."""
    said, primary = {x.name: x for x in found.secondary}, found.primary
    asked: list[tuple[str, Contrast | None]] = []
    if c.study == "main":
        asked = [
            ("Feedback beats imitation", said.get("dpo against sft-more")),
            ("Online beats offline", primary),
            ("RL beats best-of-4", said.get(f"ppo against {BEST_OF_4}")),
        ]
    elif primary is not None:
        asked = [(c.question[:1].upper() + c.question[1:], primary)]
    verdicts = {
        "better": "yes, it holds here",
        "worse": "no, the opposite holds here",
        "open": "not decided here",
        "no verdict": "no verdict, runs are missing",
    }
    return [
        f"{what}: {verdicts[x.verdict]} ({x.name} on "
        f"{found.primary_split if x is primary else c.splits[0]} prompts, win rate "
        f"{percent(x.win)} %, {_p(x.adjusted)}{'' if x is primary else ' after Holm'})."
        f"{_unchanged(c, x)}"
        for what, x in asked
        if x is not None
    ]


def _unchanged(c: Comparison, x: Contrast) -> str:
    """Sides of a contrast that are partly or wholly the untrained student."""
    told = [
        f" {sum(r.best_step == 0 for r in m.runs)} of {len(m.runs)} runs of {m.name} stand there "
        "as the start, for no look was better within the bounds."
        for m in c.methods
        if m.name in x.name.split(" against ") and any(r.best_step == 0 for r in m.runs)
    ]
    return "".join(told)


def _p(p: float | None) -> str:
    """`p 0.123`; a p that no table can tell from 0 is said to be small, never to be 0."""
    return "p < 0.001" if p is not None and p < 0.001 else f"p {number(p)}"


def percent(x: Interval | None) -> str:
    """`58.1 [53, 63]` of a share, or `-`."""
    if x is None:
        return "-"
    return f"{100 * x.value:.1f} [{100 * x.low:.0f}, {100 * x.high:.0f}]"
