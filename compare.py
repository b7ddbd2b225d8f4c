"""Does online learning beat offline learning, at equal cost? One command, over several sittings.

    python compare.py --dry-run
    python compare.py --algos sft-more dpo online-dpo best-of-n --seeds 3 --budget judged_jokes=640
    python compare.py --study feedback-frequency
    python compare.py --smoke

Every run is a process of train.py below --out, resumed if it is half-done and skipped if it is
done; evaluate.py judges it. Writes comparison.json, figures.json, table.md and report.html. What is
equal and what each figure means: docs/compare.md.
"""

import argparse
import functools
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # --help comes without them
    from training.comparison import PlannedRun, Settings
    from training.comparison_runs import Record
    from training.presets import Study
    from training.workers import Workers

EXIT_BAD_INPUT, EXIT_MISSING, EXIT_INTERRUPTED = 2, 3, 130


class _Parser(argparse.ArgumentParser):
    """One line on standard error, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message}\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; what is not given is None and comes from an earlier sitting."""
    parser = _Parser(
        prog="compare.py", description="Compare methods at equal cost, with intervals."
    )
    add = parser.add_argument
    add(
        "--algos",
        nargs="+",
        metavar="METHOD",
        help="of sft-more sd dpo dpo-labels brio brio-dpo online-dpo ppo best-of-n control",
    )
    add("--study", metavar="NAME",
        help="instead: feedback-frequency, data-size, debias, critic or collapse")  # fmt: skip
    add("--critics", nargs="+", metavar="SPEC", help="training critics of the study `critic`")
    add("--seeds", type=int, metavar="N", help="of each method: 0 to N - 1 (default 3)")
    add("--primary-seeds", type=int, metavar="N",
        help="of the two methods of the primary contrast (default 5)")  # fmt: skip
    add("--budget", metavar="judged_jokes=N", help="of a run's training (default 640)")
    add(
        "--trials",
        type=int,
        metavar="N",
        help="tuning trials of each method on select prompts; default 0: the committed best",
    )
    add("--grid", type=Path, metavar="FILE", help="of trials (default: the committed one)")
    add("--pool", type=int, metavar="N",
        help="lines a prompt for the best-of-N curve (default 64; 0: none)")  # fmt: skip
    add("--split", nargs="+", metavar="SPLIT",
        help="beside report: test, headline, summary, which need --reason")  # fmt: skip
    add("--reason", help="of looks at held-out splits")
    add("--size", type=int, metavar="N", help="prompts of an evaluation at most (default 0: all)")
    add("--critic", metavar="SPEC", help="reports; seen by no run (default embedded-report)")
    add("--config", type=Path, metavar="FILE", help="options of train.py for every run, JSON")
    add("--jobs", type=int, default=1, metavar="N",
        help="runs at once, each on its share of the processors (default 1)")  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="default: runs/compare-STUDY")
    add("--reuse", type=Path, nargs="+", default=[], metavar="DIR",
        help="other comparisons, whose runs of the same options and seed are copied")  # fmt: skip
    add("--dry-run", action="store_true", help="runs, judged jokes and minutes, then stop")
    add("--report-only", action="store_true", help="write the report of what there is")
    add("--publish", type=Path, metavar="DIR",
        help="then copy report and raw data there, without weights and machine paths")  # fmt: skip
    add("--smoke", action="store_true", help="the whole path in minutes; its figures mean nothing")
    add("--trust-critic", action="store_true", help="use the modules that an earlier sitting named")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Bad input is one line and status 2."""
    options = parse(arguments)
    try:
        return compare(options)
    except (ValueError, OSError) as error:
        print(f"compare.py: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("compare.py: stopped; the same command continues", file=sys.stderr)
        return EXIT_INTERRUPTED


def compare(options: argparse.Namespace) -> int:
    """Plan, run what is missing, evaluate, report.

    Raises:
        ValueError: bad input, or runs that must not meet.
        KeyboardInterrupt: Ctrl-C; the run that was going has saved itself.
    """
    from training.comparison import find, plan_runs, plan_trials
    from training.comparison_runs import Record, TrialsOpen, tune
    from training.comparison_settings import read_settings
    from training.presets import read_grid
    from training.workers import Workers

    root = _folder(options).absolute()
    settings = read_settings(options, root)
    grid = read_grid(options.grid) if options.grid else read_grid()
    study = settings.make_study()
    record = Record(root, settings)
    trials = plan_trials(settings, study, grid, root)
    runs = plan_runs(settings, study, grid, record.tuned, root)
    for planned in (*trials, *runs):
        find(planned)  # for what must not meet, before anything is spent
    if options.dry_run:
        from training.comparison_costs import costs

        open_trials = [t for t in trials if t.method not in record.tuned]
        print("\n".join(costs(settings, [*open_trials, *runs])))
        return 0
    if not options.report_only:
        with _alone(root) as lock, _terminable():
            workers = Workers(options.jobs, keep=(lock,))
            record.write()
            reuse(options.reuse, trials, record)
            try:
                tune(settings, study, grid, root, record, workers)
            except TrialsOpen as error:
                print(f"compare.py: {error}; the same command continues", file=sys.stderr)
                return EXIT_MISSING
            runs = plan_runs(settings, study, grid, record.tuned, root)
            reuse(options.reuse, runs, record)
            carry_out(settings, runs, root, record, workers)
    status = _report(settings, study, runs, trials, record, root)
    if options.publish is not None:
        from training.comparison_publish import publish

        print(f"{publish(root, options.publish)} files copied to {options.publish}")
    return status


def carry_out(
    settings: "Settings",
    runs: "Sequence[PlannedRun]",
    root: Path,
    record: "Record",
    workers: "Workers",
) -> None:
    """Train and evaluate what is missing; on held-out prompts when all runs are there."""
    from training.comparison import REPORT
    from training.comparison_evaluations import Evaluations
    from training.comparison_runs import train

    evaluations = Evaluations(settings, root, record, workers.run, _say)
    folders: dict[str, Path] = {}
    developing = [s for s in settings.splits if s == REPORT]
    held_out = [s for s in settings.splits if s != REPORT]

    def do(number: int, planned: "PlannedRun") -> None:
        began = time.monotonic()
        folder = train(planned, root, record, workers.run)
        minutes = (time.monotonic() - began) / 60
        entry = record.runs[planned.name]
        told = f"{entry['state']}{entry['reason'] and ': '}{entry['reason']}"
        _say(f"run {number}/{len(runs)}  {planned.name}  {told}  {minutes:.1f} min")
        if folder is not None:
            folders[planned.name] = folder
            for call in evaluations.open({planned.name: folder}, developing):
                evaluations.make(call)

    workers.all([functools.partial(do, i, p) for i, p in enumerate(runs, start=1)])
    left = [*evaluations.open(folders, developing), *evaluations.open(folders, held_out)]
    workers.all([functools.partial(evaluations.make, call) for call in left])


def reuse(others: Sequence[Path], planned: "Sequence[PlannedRun]", record: "Record") -> None:
    """Take over what other comparisons have finished of a plan."""
    from train import read_options
    from training.comparison_reuse import take_over

    def complete(run: "PlannedRun") -> dict[str, Any]:
        return asdict(read_options(run.algo, [], dict(run.options)))

    for other in others:
        for name in take_over(planned, other, record, complete):
            _say(f"run {name} taken from {other}")


def _folder(options: argparse.Namespace) -> Path:
    if options.out is not None:
        return Path(options.out)
    name = "smoke" if options.smoke else options.study or "main"
    return Path("runs") / f"compare-{name}"


def _report(
    settings: "Settings",
    study: "Study",
    runs: "Sequence[PlannedRun]",
    trials: "Sequence[PlannedRun]",
    record: "Record",
    root: Path,
) -> int:
    """Write figures.json, table.md and report.html; status 3 where runs lack a result."""
    from evaluation.audit_report import MISSING
    from evaluation.compare_figures import figures
    from evaluation.compare_report import as_json, html, markdown
    from training.comparison import write_json
    from training.comparison_figures import collect

    measured = collect(settings, study, runs, record, root, trials)
    found = figures(measured)
    write_json(root / "figures.json", as_json(found))
    text = markdown(measured, found)
    (root / "table.md").write_text(text, encoding="utf-8")
    try:
        (root / "report.html").write_text(html(measured, found), encoding="utf-8")
    except ImportError:
        print(MISSING, file=sys.stderr)
    print(text)
    print(f"written to {root}")
    done = all(r.state == "done" for m in measured.methods for r in m.runs)
    return 0 if done and not measured.missing else EXIT_MISSING


@contextmanager
def _alone(root: Path) -> Iterator[int]:
    """Hold the comparison's lock; its processes inherit it, so an orphan keeps others out.

    Raises:
        ValueError: another sitting, or a process that it left behind, is going.
    """
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{root} is in use by another sitting") from error
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the run that is going, too: it can be resumed."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
