"""The start student's best decoding: what `start-tuned` means.

    python -m benchmarks.start_decoding [--jokes 4]

Writes lines of the untrained student on all select prompts over a grid of temperatures and prints
what the select critic says of them. The winner's temperature is `tuned_temperature` in
data/start/punchline.json.
"""

import argparse

import numpy as np

from envs.prompts import corpus_prompts
from evaluation.intervals import mean_interval
from rewards.text import recall, words
from training.parts import as_rater, make_critic
from training.selection import GREEDY, look

GRID = (GREEDY, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--student", default="start")
    options.add_argument("--jokes", type=int, default=4, help="a prompt; greedy has one")
    options.add_argument("--prompts", type=int, default=0, help="0: all select prompts")
    given = options.parse_args()
    from agents.student import Student

    student = Student.load(given.student)
    critic = as_rater(make_critic("embedded-select", student, option="--select-critic"))
    prompts = [p.text for p in corpus_prompts("select")]
    prompts = prompts[: given.prompts or len(prompts)]
    print(f"{len(prompts)} select prompts, {given.jokes} jokes each\n")
    print("| temperature | rating | amusing | fact kept | words | recall | unfinished |")
    print("|---|---|---|---|---|---|---|")
    for temperature in GRID:
        seen = look(
            student, critic, prompts, given.jokes,
            temperature=temperature, max_tokens=40, seed=7_001, start=True,
        )  # fmt: skip
        print(row(temperature, prompts, seen), flush=True)


def row(temperature, prompts, seen):
    rating = mean_interval(seen.scores, rng=np.random.default_rng(0))
    rated = [r for line in seen.ratings for r in line if r is not None]
    pairs = [(p, j) for p, line in zip(prompts, seen.jokes, strict=True) for j in line]
    cells = [
        "greedy" if temperature == GREEDY else f"{temperature:g}",
        f"{rating.value:.2f} [{rating.low:.2f}, {rating.high:.2f}]",
        f"{sum(r.amusing for r in rated) / len(rated):.3f}",
        f"{sum(r.fact for r in rated) / len(rated):.2f}",
        f"{sum(len(words(j)) for _, j in pairs) / len(pairs):.1f}",
        f"{sum(recall(p, j) for p, j in pairs) / len(pairs):.2f}",
        f"{sum(type(j) is not str for _, j in pairs) / len(pairs):.1%}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
