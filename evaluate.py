"""How funny a system is, against the references that it has to beat and against other systems.

    python evaluate.py runs/ppo-start-s0-... best-of-4
    python evaluate.py a=runs/RUN b=runs/OTHER@last jokes.jsonl --export-pairs pairs.jsonl
    python evaluate.py --out runs/evaluate-... --votes votes.jsonl
    python evaluate.py runs/RUN --split test --reason "figures of the paper"

SYSTEM is a run folder (RUN@last, RUN@step-000004), a student folder, a JSONL file of jokes, or
start, start-tuned, best-of-N, copy, light, teacher. Writes results.json, report.md and report.html.
What each figure means: docs/evaluate.md.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

EXIT_BAD_INPUT, EXIT_STOPPED, EXIT_INTERRUPTED = 2, 3, 130
RESULTS = "results.json"


class _Parser(argparse.ArgumentParser):
    """One line on standard error, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message}\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; --help works without torch."""
    parser = _Parser(
        prog="evaluate.py",
        description="Win rates of runs, students and files of jokes against the references.",
    )
    add = parser.add_argument
    add("systems", nargs="*", metavar="SYSTEM",
        help="run folder, RUN@last, RUN@step-000004, student folder, jokes.jsonl, start, "
        "start-tuned, best-of-4, copy, light, teacher; NAME=SYSTEM names it")  # fmt: skip
    add("--split", default="report", metavar="SPLIT",
        help="report (default), or a held-out one, recorded and with --reason: test, headline, "
        "summary")  # fmt: skip
    add("--reason", default="", help="of a look at a held-out split")
    add("--prompts", type=Path, metavar="FILE", help="sentences of one's own")
    add("--size", type=int, default=0, metavar="N", help="prompts at most; 0: all")
    add("--critic", default="embedded-report", metavar="SPEC",
        help="reports; one that no run has seen (default embedded-report)")  # fmt: skip
    add("--critic-arg", action="append", default=[], metavar="K=V", help="of it; repeated")
    add("--train-critic", default="", metavar="SPEC",
        help="measures over-optimisation and picks best-of-N; default: the runs' own")  # fmt: skip
    add("--train-critic-arg", action="append", default=[], metavar="K=V", help="of it; repeated")
    add("--select-critic", default="", metavar="SPEC",
        help="tunes decoding on select prompts; default: the runs' own")  # fmt: skip
    add("--no-gap", action="store_true", help="do not ask the training critic about all systems")
    add("--no-kl", action="store_true", help="do not measure how far students are from the start")
    add("--decoding", default="both", choices=("both", "sampled", "tuned"),
        help="of students: at 0.7 as NAME, tuned as NAME-tuned (default both)")  # fmt: skip
    add("--jokes", type=int, default=4, metavar="K",
        help="a prompt and sampled system; 8 where figures are published (default 4)")  # fmt: skip
    add("--max-tokens", type=int, metavar="N", help="of a joke; default: the runs' own, else 40")
    add("--tie", type=float, metavar="X", help="ratings this near tie; default: of the critic")
    add("--accuracy", type=int, metavar="N",
        help="judged pairs to measure the critic on (300 for headline, summary)")  # fmt: skip
    add("--rate-pool", action="store_true", help="rate every line of the best-of-N pool too")
    add("--export-pairs", type=Path, metavar="FILE", help="blind pairs for people or other judges")
    add("--votes", type=Path, metavar="FILE",
        help="verdicts on them, JSONL of id and vote (a, b, tie); without SYSTEM: of the "
        "evaluation in --out")  # fmt: skip
    add("--ledger", type=Path, metavar="FILE", help="keep outside critics' answers; ask none twice")
    add("--max-requests", type=int, metavar="N", help="stop before more; needs --ledger")
    add("--max-ask-tokens", type=int, metavar="N", help="the same")
    add("--max-money", type=float, metavar="X", help="the same")
    add("--trust-critic", action="store_true", help="use the modules and servers that runs name")
    add("--student", default="", metavar="NAME", help="the start; default: the runs' own")
    add("--device", default="cpu", help="cpu, cuda, or any torch device")
    add("--threads", type=int, default=0, help="0: all cores")
    add("--seed", type=int, help="of jokes and intervals; default: that of every final table")
    add("--out", type=Path, metavar="DIR", help="default: runs/evaluate-TIME")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Bad input is one line and status 2."""
    options = parse(arguments)
    threads = options.threads or os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from rewards.calls import CriticError
    from rewards.ledger import BudgetReached

    try:
        if options.systems:
            _evaluate(options)
        else:
            _count_votes(options)
    except (BudgetReached, CriticError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return EXIT_STOPPED
    except (ValueError, OSError) as error:
        print(f"evaluate.py: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def _evaluate(options: argparse.Namespace) -> None:
    """Evaluate the systems, count votes if there are any, write everything at the end."""
    from evaluation.votes import read_votes
    from training.test_looks import check_reason, record_look

    held_out = options.split != "report"
    check_reason(held_out, options.split, options.reason)
    for file in (options.votes, options.prompts):
        if file is not None and not file.is_file():
            raise ValueError(f"{file}: no such file")
    from models.sources import WeightsError  # torch from here on
    from training.evaluation_plan import EvaluationOptions, plan
    from training.evaluation_run import evaluate

    seed = {} if options.seed is None else {"seed": options.seed}
    wanted = EvaluationOptions(
        systems=tuple(options.systems),
        split=options.split,
        prompts=options.prompts,
        size=options.size,
        critic=options.critic,
        critic_arg=tuple(options.critic_arg),
        train_critic=options.train_critic,
        train_critic_arg=tuple(options.train_critic_arg),
        select_critic=options.select_critic,
        gap=not options.no_gap,
        kl=not options.no_kl,
        decodings=options.decoding,
        jokes=options.jokes,
        max_tokens=options.max_tokens,
        tie=options.tie,
        accuracy=options.accuracy,
        rate_pool=options.rate_pool,
        student=options.student,
        device=options.device,
        trust=options.trust_critic,
        ledger=options.ledger,
        max_requests=options.max_requests,
        max_tokens_asked=options.max_ask_tokens,
        max_money=options.max_money,
        **seed,
    )
    planned = plan(wanted)
    if options.votes is not None:
        read_votes(options.votes)  # for its faults: ids can only be checked when lines are there

    def look() -> None:
        if held_out:
            systems = ", ".join(system.name for system in planned.systems)  # no paths
            record_look(f"evaluation of {systems} on {options.split}", options.reason)

    try:
        found = evaluate(wanted, planned, _say, look)
    except WeightsError as error:
        raise ValueError(str(error)) from error
    results = found.results
    results["systems_asked"] = list(options.systems)
    results["reason"] = options.reason
    if options.votes is not None:
        results["votes"] = _votes(options.votes, results)
    if options.export_pairs is not None:
        options.export_pairs.parent.mkdir(parents=True, exist_ok=True)
        options.export_pairs.write_text(found.pairs, encoding="utf-8")
        _say(f"blind pairs in {options.export_pairs}; their key is in {RESULTS}")
    _write(results, options.out or Path("runs") / f"evaluate-{time.strftime('%Y%m%d-%H%M%S')}")


def _count_votes(options: argparse.Namespace) -> None:
    """Read votes on the pairs of an evaluation that is done."""
    if options.votes is None or options.out is None:
        raise ValueError("name a SYSTEM, or --votes FILE with --out DIR of an evaluation")
    file = options.out / RESULTS
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if not isinstance(results, dict) or "blind" not in results:
        raise ValueError(f"{file} is not of evaluate.py")
    results["votes"] = _votes(options.votes, results)
    _write(results, options.out)


def _votes(file: Path, results: dict[str, Any]) -> dict[str, Any]:
    from evaluation.votes import count_votes, read_votes

    return count_votes(
        read_votes(file, results["blind"]), results["blind"], seed=int(results["seed"])
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write(results: dict[str, Any], folder: Path) -> None:
    from evaluation.evaluate_report import MISSING, html, markdown

    text = markdown(results)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{RESULTS}"
    scratch.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(text, encoding="utf-8")
    try:
        (folder / "report.html").write_text(html(results), encoding="utf-8")
    except ImportError:
        _say(MISSING)
    os.replace(scratch, folder / RESULTS)  # last: whoever finds it finds the rest too
    print(text)
    print(f"written to {folder}")


if __name__ == "__main__":
    sys.exit(main())
