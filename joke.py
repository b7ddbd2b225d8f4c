"""Use a student: sentences in, jokes out.

    python joke.py RUN "I lost my keys again." -n 5 --rerank embedded
    cat sentences.txt | python joke.py RUN
    python joke.py RUN --export DIR

RUN is a run folder (its best checkpoint is used), `last` for the newest in runs/, an adapter
folder, or a student's name (`start`).
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agents.student import Student

EXIT_BAD_INPUT = 2
MAX_TOKENS = 60
CANDIDATES = 4
"""With --rerank, jokes written for each one shown."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; --help works without torch."""
    parser = argparse.ArgumentParser(
        prog="joke.py", description="Write jokes with a trained student."
    )
    parser.add_argument("run", help="run folder, last, adapter folder, or student name")
    parser.add_argument("sentence", nargs="*", help="sentences; none: one a line of standard input")
    parser.add_argument("-n", type=int, default=1, help="jokes a sentence (default 1)")
    parser.add_argument(
        "--temperature",
        type=float,
        help="0 is greedy; default: greedy for one joke, else 0.7",
    )
    parser.add_argument("--seed", type=int, default=0, help="of sampling (default 0)")
    parser.add_argument("--rerank", metavar="CRITIC", help="write more and show the best, scored")
    parser.add_argument("--export", metavar="DIR", help="write a merged Hugging Face folder")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    try:
        if options.n < 1:
            raise ValueError(f"-n is {options.n}, must be at least 1")
        if options.temperature is not None and options.temperature < 0:
            raise ValueError(f"--temperature is {options.temperature}, must be >= 0")
        if options.export and Path(options.export).exists() and any(Path(options.export).iterdir()):
            raise ValueError(f"--export {options.export} exists and is not empty")
        student = load(options.run)
        if options.export:
            student.export(Path(options.export))
            print(f"{options.export}: plain transformers loads this folder")
            return 0
        sentences = options.sentence or _standard_input()
        for sentence in sentences:
            for joke, score in jokes(student, sentence, options):
                print(joke if score is None else f"{score:.2f}  {joke}", flush=True)
    except BrokenPipeError:
        return 0
    except (ValueError, RuntimeError, OSError) as error:
        print(f"joke.py: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0


def load(run: str) -> "Student":
    """The student of a run folder (best checkpoint), an adapter folder, or a name.

    Raises:
        ValueError: no such run or student, or an adapter of another base.
    """
    from agents.student import Student
    from training.checkpoint import ADAPTER, checkpoints, load_checkpoint
    from training.loop import CHECKPOINTS
    from training.run_folder import find_run, read_config

    folder = find_run(run)
    if not (folder / CHECKPOINTS).is_dir():
        finished = folder / "adapter"  # of --algo sft
        return Student.load(str(finished) if finished.is_dir() else str(folder))
    saved = checkpoints(folder / CHECKPOINTS)
    if not saved:
        raise ValueError(f"{run} has no checkpoint yet")
    best = load_checkpoint(saved[-1]).state["best_step"]
    config = read_config(folder)
    student = Student.load(config["options"]["run"]["student"])
    student.load_adapter(folder / CHECKPOINTS / f"step-{best:06d}" / ADAPTER)
    return student


def jokes(
    student: "Student", sentence: str, options: argparse.Namespace
) -> Iterator[tuple[str, float | None]]:
    """The jokes to show for one sentence, with the critic's score where there is one."""
    import torch

    from rewards.protocols import Scorer
    from training.parts import make_critic
    from training.run_log import plain

    temperature = options.temperature
    if temperature is None:
        temperature = 0.0 if options.n == 1 and not options.rerank else 0.7
    k = options.n * (CANDIDATES if options.rerank else 1)
    done = student.generate(
        [sentence],
        1 if temperature == 0 else k,
        temperature=temperature,
        max_tokens=MAX_TOKENS,
        generator=torch.Generator().manual_seed(options.seed),
    )
    if not options.rerank:
        yield from ((plain(joke), None) for joke in done.jokes)
        return
    critic = make_critic(options.rerank, student, option="--rerank")
    if not isinstance(critic, Scorer):
        raise ValueError(f"--rerank {options.rerank}: this critic does not score single jokes")
    distinct = list(dict.fromkeys(done.jokes))
    scores = critic.score([sentence] * len(distinct), distinct)
    rated = [(s, j) for s, j in zip(scores, distinct, strict=True) if s is not None]
    for score, joke in sorted(rated, key=lambda x: -x[0])[: options.n]:
        yield plain(joke), score


def _standard_input() -> Iterator[str]:
    for line in sys.stdin:
        if line.strip():
            yield line.strip()


if __name__ == "__main__":
    sys.exit(main())
