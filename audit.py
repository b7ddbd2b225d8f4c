"""How far a critic can be trusted, before anyone trains with it.

    python audit.py --critic embedded
    python audit.py --critic openai:MODEL --limit 300 --ledger verdicts.sqlite --max-requests 2000
    python audit.py --critic my_module:factory --pairs my-pairs.jsonl

Asks about labelled pairs in both orders, about adversarial probes and about jokes changed where it
should not matter; writes audit.json, audit.md and audit.html. What each figure means and the
thresholds of the traffic light: docs/audit.md.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.audit_groups import Audit
    from rewards.ledger import Ledger
    from rewards.protocols import Critic

EXIT_BAD_INPUT, EXIT_BUDGET, EXIT_INTERRUPTED = 2, 3, 130
LIMIT = 2000


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; --help works without torch."""
    parser = argparse.ArgumentParser(
        prog="audit.py", description="Measure a critic on labelled pairs, probes and fillers."
    )
    add = parser.add_argument
    add("--critic", required=True, metavar="SPEC", help="as of train.py, e.g. embedded")
    add("--critic-arg", action="append", default=[], metavar="K=V", help="of the critic; repeated")
    add("--split", choices=("validation", "test"), default="validation",
        help="whose judged lines; test is a recorded look and needs --reason")  # fmt: skip
    add("--reason", default="", help="of a look at the test split")
    add("--pairs", type=Path, metavar="FILE",
        help="labelled pairs of one's own: JSONL of prompt, a, b, label")  # fmt: skip
    add("--domain", default="", help="group of pairs that the light speaks of")
    add("--own", default="", metavar="SOURCE", help="source of lines the critic itself wrote")
    add("--limit", type=int, default=LIMIT, metavar="N",
        help=f"pairs at most, half of them the domain's; 0: all (default {LIMIT})")  # fmt: skip
    add("--repeats", type=int, default=2, help="1: do not measure noise (default 2)")
    add("--probe-repeats", type=int, default=3, metavar="N",
        help="prompts a probe is tried on; 0: no probes (default 3)")  # fmt: skip
    add("--counterfactuals", type=int, default=240, metavar="N",
        help="lines with filler or shortened; 0: none (default 240)")  # fmt: skip
    add("--likelihood", action="store_true",
        help="likelihood under the start student as a baseline for any critic")  # fmt: skip
    add("--ledger", type=Path, metavar="FILE", help="keep verdicts; ask none twice")
    add("--max-requests", type=int, metavar="N", help="stop before more; needs --ledger")
    add("--max-tokens", type=int, metavar="N", help="the same")
    add("--max-money", type=float, metavar="X", help="the same")
    add("--batch", type=int, default=64, help="questions a call (default 64)")
    add("--threads", type=int, default=0, help="0: all cores")
    add("--seed", type=int, default=0, help="of intervals and of what is probed")
    add("--out", type=Path, metavar="DIR", help="default: runs/audit-CRITIC-TIME")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Bad input is one line and status 2."""
    options = parse(arguments)
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(options.threads)
    from rewards.ledger import BudgetReached

    try:
        folder = options.out or _folder(options.critic)
        _write(run(options), folder)
    except BudgetReached as error:
        print(f"audit.py: {error}", file=sys.stderr)
        return EXIT_BUDGET
    except (ValueError, RuntimeError, OSError) as error:
        print(f"audit.py: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def run(options: argparse.Namespace) -> "Audit":
    """Check the options, build the critic, ask and measure.

    Raises:
        ValueError: bad options, or an unknown critic or pair file.
        BudgetReached: the ledger's budget would be passed; what was answered is kept.
    """
    from rewards.options import parse_critic_args
    from training.audit_data import corpus_pairs, domain_of, file_pairs, subsample
    from training.audit_run import AuditOptions, run_audit
    from training.test_looks import record_look

    if options.batch < 1:
        raise ValueError(f"--batch is {options.batch}, must be >= 1")
    if (options.split == "test") != bool(options.reason):
        raise ValueError("--split test and --reason TEXT go together: every look is recorded")
    wanted = AuditOptions(
        split=options.split,
        repeats=options.repeats,
        probe_repeats=options.probe_repeats,
        counterfactuals=options.counterfactuals,
        own=options.own,
        batch=options.batch,
        seed=options.seed,
    )
    every = file_pairs(options.pairs) if options.pairs else corpus_pairs(options.split)
    domain = domain_of(every, options.domain)
    pairs = subsample(every, options.limit, domain)
    args = parse_critic_args(options.critic_arg)
    context, likelihood = _reading(options)
    ledger, fresh = _ledgers(options)
    critic = _critic(options.critic, args, context, ledger)
    if options.split == "test":
        record_look(f"audit of {options.critic}", options.reason)
    source = str(options.pairs) if options.pairs else f"judged {options.split} lines"
    try:
        return run_audit(
            critic,
            pairs,
            domain,
            wanted,
            data=f"{source}, {len(pairs)} of {len(every)} pairs",
            name=options.critic,
            again=_critic(options.critic, args, context, fresh) if fresh else None,
            likelihood=likelihood,
            spent=None if ledger is None else lambda: _spent(ledger),
        )
    finally:
        for opened in (ledger, fresh):
            if opened is not None:
                opened.close()


Likelihood = Callable[[Sequence[tuple[str, str]]], Sequence[float]]


def _reading(options: argparse.Namespace) -> tuple[dict[str, Any], Likelihood | None]:
    """What an embedded critic reads with, and the likelihood baseline where a model is loaded."""
    from rewards.build import CONTROL_CRITIC, EMBEDDED, embedded_context

    known = options.critic in (*EMBEDDED, CONTROL_CRITIC)
    if not known and not options.likelihood:
        return {"embedded": embedded_context}, None
    print("loading the student", file=sys.stderr, flush=True)
    context = embedded_context(options.critic if options.critic in EMBEDDED else "embedded")
    reader, format = context["reader"], context["format"]

    def likelihood(lines: Sequence[tuple[str, str]]) -> list[float]:
        at = reader.temperatures.index(1.0)
        out: list[float] = []
        for start in range(0, len(lines), options.batch):
            part = lines[start : start + options.batch]
            readings = reader.read(
                [format.encode_prompt(p) for p, _ in part], [format.encode_joke(j) for _, j in part]
            )
            out.extend(float(r.logps[at].mean()) for r in readings)
        return out

    return (context if known else {"embedded": embedded_context}), likelihood


def _ledgers(options: argparse.Namespace) -> tuple["Ledger | None", "Ledger | None"]:
    """The ledger, and a second one for repeats: answers from the first would hide the noise."""
    from rewards.ledger import Budget, Ledger

    limits = (options.max_requests, options.max_tokens, options.max_money)
    if options.ledger is None:
        if any(limit is not None for limit in limits):
            raise ValueError("--max-requests, --max-tokens and --max-money need --ledger FILE")
        return None, None
    budget = Budget(*limits)
    path: Path = options.ledger
    first = Ledger(path, run="audit", budget=budget)
    if options.repeats < 2:
        return first, None
    second = path.with_name(f"{path.stem}-again{path.suffix}")
    return first, Ledger(second, run="audit", budget=budget)


def _critic(
    spec: str, args: Mapping[str, str], context: Mapping[str, Any], ledger: "Ledger | None"
) -> "Critic":
    from rewards.build import build_critic

    if ledger is None:
        return build_critic(spec, args, **context)
    if spec.startswith("openai:"):  # pays for tokens, so it keeps its own records
        return build_critic(spec, args, **context, ledger=ledger)
    from rewards.recorded import Recorded

    recorded: Any = Recorded(
        build_critic(spec, args, **context), ledger, identity=(spec, sorted(args.items()))
    )
    kept: Critic = recorded
    return kept


def _spent(ledger: "Ledger") -> dict[str, float]:
    spent = ledger.spent()
    return {"tokens": float(spent.tokens), "money": spent.money}


def _folder(critic: str) -> Path:
    name = "".join(c if c.isalnum() or c in "-." else "-" for c in critic)
    return Path("runs") / f"audit-{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _write(audit: "Audit", folder: Path) -> None:
    from evaluation.audit_report import MISSING, html, markdown

    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(audit)
    (folder / "audit.json").write_text(json.dumps(audit.to_json(), indent=1), encoding="utf-8")
    (folder / "audit.md").write_text(text, encoding="utf-8")
    try:
        (folder / "audit.html").write_text(html(audit), encoding="utf-8")
    except ImportError:
        print(MISSING, file=sys.stderr)
    print(text)
    print(f"written to {folder}")


if __name__ == "__main__":
    sys.exit(main())
