"""The end of a run: every system on the report prompts, rated by the report critic."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.student import Student
from envs.prompts import Prompt
from evaluation.best_of import best_line
from evaluation.ladder import Ladder, SystemLines, build_ladder, is_lost
from evaluation.pairs import blind_pairs, to_jsonl
from evaluation.render import as_dict, markdown, plain, samples_markdown
from rewards.protocols import Critic, Scorer
from rewards.types import Rater, Rating, Unfinished
from training.kept import kept, student_key
from training.parts import DATA
from training.run_folder import write_whole
from training.selection import GREEDY, Groups, rate_jokes, tune_decoding, write_jokes

SAMPLED = 0.7
"""Temperature of the sampled rows."""
BEST_OF = 4
SHOWN = 10
"""Prompts printed with their jokes."""


@dataclass(frozen=True)
class Table:
    """What the table needs to know about a run."""

    student: Student
    prompts: Sequence[Prompt]
    select_prompts: Sequence[str]
    train_critic: Critic
    select: Rater
    report: Rater
    report_name: str
    tie: float
    jokes: int  # a prompt, sampled systems
    max_tokens: int
    seed: int
    training_jokes: Sequence[str]
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Written:
    """Jokes of the table, before anyone rated them."""

    lines: dict[str, Groups]
    decoding: dict[str, str]
    tuning: dict[str, dict[str, float]]
    unpicked: dict[str, list[int]]
    """Prompts, by place, whose line of a best-of system no verdict picked: it is not rated."""


def write_systems(table: Table, checkpoints: Mapping[str, Path]) -> Written:
    """Let start and checkpoints write: sampled at 0.7 and at the decoding tuned on select prompts.

    Args:
        table: what to write about.
        checkpoints: name -> adapter folder, e.g. best and last.
    """
    texts = [p.text for p in table.prompts]
    lines: dict[str, Groups] = {}
    decoding: dict[str, str] = {}
    tuning: dict[str, dict[str, float]] = {}

    def write(name: str, temperature: float, *, start: bool) -> None:
        writer = start_jokes if start else write_jokes
        lines[name] = writer(
            table.student, texts, table.jokes, temperature=temperature,
            max_tokens=table.max_tokens, seed=table.seed, start=start,
        )  # fmt: skip
        decoding[name] = "greedy" if temperature == GREEDY else f"{temperature:g}"

    def tuned(name: str) -> float:
        best, tuning[name] = tune_decoding(
            table.student, table.select, table.select_prompts,
            max_tokens=table.max_tokens, seed=table.seed,
        )  # fmt: skip
        return best

    write("start", SAMPLED, start=True)
    write("start-tuned", table.student.tuned_temperature, start=True)
    picked = best_of(table.train_critic, texts, lines["start"])
    unpicked: dict[str, list[int]] = {}
    if picked is not None:
        lines["best-of-4"], unpicked["best-of-4"] = picked
        decoding["best-of-4"] = f"{SAMPLED:g}, training critic picks"
    for name, folder in checkpoints.items():
        table.student.load_adapter(folder)
        write(name, SAMPLED, start=False)
        write(f"{name}-tuned", tuned(name), start=False)
    return Written(lines, decoding, tuning, unpicked)


def start_jokes(
    student: Student,
    prompts: Sequence[str],
    k: int,
    *,
    temperature: float,
    max_tokens: int,
    seed: int,
    start: bool,
) -> Groups:
    """`write_jokes` of the frozen start, kept in the cache folder: every run has the same ones."""

    def write() -> list[list[tuple[str, bool]]]:
        jokes = write_jokes(
            student, prompts, k,
            temperature=temperature, max_tokens=max_tokens, seed=seed, start=start,
        )  # fmt: skip
        return [[(str(joke), isinstance(joke, Unfinished)) for joke in row] for row in jokes]

    asked = [*student_key(student), k, temperature, max_tokens, seed, *prompts]
    rows = kept("start-jokes", asked, write) if student.start_sha256 else write()
    return [[Unfinished(joke) if cut else joke for joke, cut in row] for row in rows]


def best_of(
    critic: Critic, prompts: Sequence[str], jokes: Groups
) -> tuple[Groups, list[int]] | None:
    """The joke of the first `BEST_OF` that the critic scores highest; None if it cannot score.

    Returns:
        One line a prompt, and the places of prompts where no verdict says which: their first line
        stands there and must not be rated.
    """
    if not isinstance(critic, Scorer):
        return None
    some = [row[:BEST_OF] for row in jokes]
    flat = [(p, j) for p, row in zip(prompts, some, strict=True) for j in row]
    scores = iter(critic.score([p for p, _ in flat], [j for _, j in flat]))
    places = [best_line([next(scores) for _ in row], list(map(is_lost, row))) for row in some]
    lines = [[row[place or 0]] for row, place in zip(some, places, strict=True)]
    return lines, [i for i, place in enumerate(places) if place is None]


def build_table(table: Table, written: Written) -> tuple[Ladder, dict[str, SystemLines]]:
    """Rate all lines and work out the ladder."""
    texts = [p.text for p in table.prompts]
    systems = labelled_systems(table.prompts)
    for name, jokes in written.lines.items():
        ratings = rate_jokes(table.report, texts, jokes)
        for i in written.unpicked.get(name, ()):
            ratings[i] = [None] * len(ratings[i])
        systems[name] = SystemLines(jokes, ratings, decoding=written.decoding[name])
    ladder = build_ladder(
        texts,
        systems,
        tie=table.tie,
        rng=np.random.default_rng(table.seed),
        critic=table.report_name,
        training_jokes=table.training_jokes,
        warnings=table.warnings,
    )
    return ladder, systems


def labelled_systems(prompts: Sequence[Prompt]) -> dict[str, SystemLines]:
    """Copy and light paraphrase: 2 by the scale's definition, whatever a critic thinks."""
    plain_rating = Rating(2.0, 0.0, 1.0, False)

    def rated(jokes: list[list[str]], note: str) -> SystemLines:
        labels = [[plain_rating] for _ in jokes]
        return SystemLines(jokes, None, ratable=False, labels=labels, note=note)

    systems = {"copy": rated([[p.text] for p in prompts], "2 by definition")}
    light = _by_text(DATA / "paraphrases.jsonl", "light")
    if all(p.text in light for p in prompts):
        systems["light paraphrase"] = rated([[light[p.text]] for p in prompts], "2 by definition")
    return systems


def teacher_lines(prompts: Sequence[Prompt]) -> dict[str, str]:
    """The first teacher joke of each prompt that has one."""
    jokes = _by_text(DATA / "everyday.jsonl", "teacher")
    return {p.text: jokes[p.text][0]["text"] for p in prompts if p.text in jokes}


def _by_text(file: Path, key: str) -> dict[str, Any]:
    records = (json.loads(line) for line in file.read_text().splitlines())
    return {r["text"]: r[key] for r in records}


def save_table(
    folder: Path,
    table: Table,
    written: Written,
    systems: Mapping[str, SystemLines],
    ladder: Ladder,
    extra: Mapping[str, Any],
) -> str:
    """Write results.json, table.md, jokes.jsonl and blind pairs; returns the text to print."""
    texts = [p.text for p in table.prompts]
    final = "best-tuned"
    rivals = [r for r in ("start-tuned", "best-of-4") if r in written.lines]
    ours = [row[0] for row in written.lines[final]]
    blinded = [
        blind_pairs(texts, ours, [row[0] for row in written.lines[rival]], (final, rival))
        for rival in rivals
    ]
    (folder / "pairs.jsonl").write_text(to_jsonl(blinded))
    results = {
        "table": as_dict(ladder),
        "tuning": written.tuning,
        "pairs": [
            {"of": [final, rival], "key": b.key, "equal": b.equal, "lost": b.lost}
            for rival, b in zip(rivals, blinded, strict=True)
        ],
        **extra,
    }
    write_whole(folder / "results.json", json.dumps(results, indent=1) + "\n")
    with (folder / "jokes.jsonl").open("w") as file:
        for i, prompt in enumerate(table.prompts):
            rows = {name: _rated(systems[name], i) for name in written.lines}
            file.write(json.dumps({"id": prompt.id, "prompt": prompt.text, "jokes": rows}) + "\n")
    teacher = teacher_lines(table.prompts)
    shown = texts[:SHOWN]
    samples = {
        "start-tuned": [str(written.lines["start-tuned"][i][0]) for i in range(len(shown))],
        "best-tuned": [str(written.lines[final][i][0]) for i in range(len(shown))],
        "teacher": [teacher.get(t, "") for t in shown],
    }
    text = markdown(ladder) + "\n\n" + samples_markdown(shown, samples)
    (folder / "table.md").write_text(text + "\n")
    return plain(ladder) + "\n\n" + _told(shown, samples)


def _rated(system: SystemLines, i: int) -> list[dict[str, Any]]:
    """A system's lines on prompt i with the report critic's ratings; null without a verdict."""
    ratings = system.ratings[i] if system.ratings is not None else [None] * len(system.jokes[i])
    return [
        {"joke": str(joke), "finished": not isinstance(joke, Unfinished)}
        | ({"score": None} if r is None else r._asdict())
        for joke, r in zip(system.jokes[i], ratings, strict=True)
    ]


def _told(prompts: Sequence[str], samples: Mapping[str, Sequence[str]]) -> str:
    from training.run_log import plain as printable

    blocks = []
    for i, prompt in enumerate(prompts):
        lines = [f"  {'prompt':<12} {printable(prompt)}"]
        lines += [f"  {name:<12} {printable(row[i])}" for name, row in samples.items() if row[i]]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
