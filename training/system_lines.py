"""How the jokes of each system of an evaluation are made: the writers, before anyone reports."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import torch

from agents.student import START as SHIPPED
from agents.student import Completions, Student
from envs.prompts import Prompt, teacher_jokes
from evaluation.best_of import best_line
from evaluation.ladder import Ratings, is_lost
from evaluation.matches import best_of_n_kl
from models.adapters import CONFIG_FILE as ADAPTER_CONFIG
from models.load import fingerprint
from rewards.protocols import Critic, Scorer
from rewards.types import Rater, Unfinished
from training.final_table import SAMPLED, labelled_systems, start_jokes
from training.kept import critic_key, kept, student_key
from training.parts import START_SOURCE
from training.selection import GREEDY, TUNING_GRID, Groups, tune_decoding
from training.systems import COPY, LIGHT, START, START_TUNED, TEACHER, Run, System, read_jokes

LABELLED = {COPY: "copy", LIGHT: "light paraphrase"}
"""Name of the ladder -> what the final table calls it."""

DESCENDANT = "rl1-descendant"
"""Source of the lines of a run that began as the start student a critic was fitted for."""

Critics = tuple[str, tuple[str, ...]]
"""Spec and arguments of a training critic."""


@dataclass
class Lines:
    """What one system wrote, with what is known of it."""

    name: str
    jokes: Groups
    """Lines per prompt; [] where it has none for a prompt (only `teacher`)."""
    decoding: str = ""
    source: str = ""
    """Who wrote them, as a critic's manifest names sources; "" unknown."""
    labels: Ratings | None = None
    """Ratings by definition (copy, light)."""
    note: str = ""
    kl: float | None = None
    """Nats a joke to the start student, of the policy sampled at 0.7; an upper bound for best-of-N;
    None where it is not known."""
    tuning: Mapping[str, float] = field(default_factory=dict)
    """Temperature -> the select critic's mean rating on select prompts."""
    train_critic: Critics | None = None
    """Of the run; None: the evaluation's own."""


@dataclass(frozen=True)
class Pool:
    """Many lines a prompt by the start student and what the training critic says of each."""

    jokes: Groups
    scores: list[list[float | None]]


@dataclass(frozen=True)
class Writing:
    """What writers need to know."""

    student: Student
    prompts: Sequence[Prompt]
    select_prompts: Sequence[str]
    select: Rater | None
    """Rates decodings; None: `start-tuned`'s own temperature is taken instead."""
    select_kept: str
    """Name of that critic where its search may be kept for other evaluations of the same adapter;
    empty: it is made each time."""
    jokes: int
    max_tokens: int
    seed: int
    decodings: Literal["both", "sampled", "tuned"]
    kl: bool
    """Measure how far students are from their start."""
    device: str
    train_critic: Callable[[], tuple[Critic, str]]
    """The critic that best-of-N picks by, and its spec; asked only if there is one."""
    say: Callable[[str], None]
    written: dict[tuple[str, float], Groups] = field(default_factory=dict)
    """Lines by adapter and temperature: of many runs the best checkpoint is the start."""


def write_lines(
    systems: Sequence[System], runs: Mapping[str, Run], writing: Writing
) -> tuple[dict[str, Lines], Pool | None]:
    """Let every system write, references first.

    Args:
        systems: named by the user; start, start-tuned, copy and, where there are paraphrases of all
            prompts, light are always there.
        runs: by the name of their system.
        writing: how.

    Returns:
        Lines by name in the order of tables; and the pool that best-of-N was picked from.

    Raises:
        ValueError: a reference without lines, a damaged adapter, or a best-of-N without a critic
            that scores.
    """
    found = _references(systems, writing)
    pool = None
    sizes = sorted({s.best_of for s in systems if s.best_of})
    if sizes:
        pool = _pool(max(*sizes, writing.jokes), writing)
        for n in sizes:
            found[f"best-of-{n}"] = _best_of(n, pool, writing)
    for system in systems:
        if system.kind == "run":
            run = runs[system.name]
            writing.student.load_adapter(run.adapter)
            heir = run.algo != "sft"  # imitation begins at the bare base: another hand
            made = _student_lines(
                system.name, writing.student, writing, heir=heir, adapter=run.adapter
            )
            for lines in made:
                lines.train_critic = run.train_critic
                lines.note = f"{run.algo}, {run.adapter.parent.name}"
                found[lines.name] = lines
        elif system.kind == "student":
            found |= {x.name: x for x in _folder(system, writing)}
        elif system.kind == "jokes":
            jokes, source = read_jokes(system.path, writing.prompts)
            found[system.name] = Lines(system.name, jokes, "a file", source)
    if any(s.name == TEACHER for s in systems):
        found[TEACHER] = _teacher(writing.prompts)
    return found, pool


def why_not_ratable(lines: Lines, manifest: Mapping[str, Any] | None) -> str:
    """Why a critic may not rate these lines; "" if it may.

    Args:
        lines: of one system.
        manifest: of a distilled critic; None for one that is not tied to sources.
    """
    if lines.labels is not None:
        return "rated by definition"
    if manifest is None or any(fnmatchcase(lines.source, p) for p in manifest["ratable"]):
        return ""
    told = f"source {lines.source!r}" if lines.source else "unknown source"
    return f"not ratable by this critic: {told}, it may rate {', '.join(manifest['ratable'])}"


# ---- references


def _references(systems: Sequence[System], writing: Writing) -> dict[str, Lines]:
    named = {s.name for s in systems}
    labelled = labelled_systems(writing.prompts)
    found = {}
    for name, key in LABELLED.items():
        if key in labelled:
            of = labelled[key]
            found[name] = Lines(name, [list(r) for r in of.jokes], "", name, of.labels, of.note)
        elif name in named:
            raise ValueError(f"{name}: the corpus has no {key} of these prompts")
    student = writing.student
    source = START_SOURCE if student.start_sha256 else ""
    tuned = student.tuned_temperature
    writing.say(f"{START} and {START_TUNED} write")
    for name, temperature in ((START, SAMPLED), (START_TUNED, tuned)):
        jokes = _start_lines(writing.jokes, temperature, writing)
        found[name] = Lines(name, jokes, _shown(temperature), source, kl=0.0)
    return found


def _start_lines(k: int, temperature: float, writing: Writing) -> Groups:
    return start_jokes(
        writing.student, [p.text for p in writing.prompts], k, temperature=temperature,
        max_tokens=writing.max_tokens, seed=writing.seed, start=True,
    )  # fmt: skip


def _teacher(prompts: Sequence[Prompt]) -> Lines:
    """The corpus' teacher jokes; the teacher wrote for some of the prompts only."""
    by_id: dict[str, list[str]] = {}
    for split in {p.split for p in prompts if p.split}:
        for prompt, joke in teacher_jokes(split):
            by_id.setdefault(prompt.id, []).append(joke)
    jokes = [list(by_id.get(p.id, ())) for p in prompts]
    known = sum(map(bool, jokes))
    if not known:
        raise ValueError(f"{TEACHER}: the corpus has no teacher joke for any of these prompts")
    note = "" if known == len(prompts) else f"on {known} of {len(prompts)} prompts"
    return Lines(TEACHER, jokes, "", TEACHER, note=note)


def _pool(size: int, writing: Writing) -> Pool:
    critic, spec = writing.train_critic()
    if not isinstance(critic, Scorer):
        raise ValueError(f"best-of-N picks by scores, and the training critic {spec} only compares")
    writing.say(f"a pool of {size} lines a prompt for best-of-N, scored by {spec}")
    jokes = _start_lines(size, SAMPLED, writing)
    return Pool(jokes, score_jokes(critic, [p.text for p in writing.prompts], jokes))


def score_jokes(critic: Scorer, prompts: Sequence[str], jokes: Groups) -> list[list[float | None]]:
    """Scores in the shape of `jokes`, by one call."""
    whose = [p for p, row in zip(prompts, jokes, strict=True) for _ in row]
    answers = iter(critic.score(whose, [j for row in jokes for j in row]))
    return [[next(answers) for _ in row] for row in jokes]


def _best_of(n: int, pool: Pool, writing: Writing) -> Lines:
    """Picks from disjoint blocks of n lines, at most as many as other systems have lines.

    A block in which no verdict says which line to pick gives none.
    """
    picked: Groups = []
    for row, scores in zip(pool.jokes, pool.scores, strict=True):
        picks = []
        for at in range(0, min(len(row) // n, writing.jokes) * n, n):
            block = row[at : at + n]
            place = best_line(scores[at : at + n], list(map(is_lost, block)))
            if place is not None:
                picks.append(block[place])
        picked.append(picks)
    source = START_SOURCE if writing.student.start_sha256 else ""
    told = f"{SAMPLED:g}, the training critic picks"
    note = "KL is an upper bound, log N - (N - 1) / N"
    return Lines(f"best-of-{n}", picked, told, source, note=note, kl=best_of_n_kl(n))


# ---- students


def _folder(system: System, writing: Writing) -> list[Lines]:
    """A student folder: an adapter of the same base, or a model of its own."""
    if (system.path / ADAPTER_CONFIG).exists():
        student = writing.student
        student.load_adapter(system.path)
        start = system.path.resolve() == SHIPPED.resolve()
        made = _student_lines(system.name, student, writing, heir=False)
        for lines in made:
            lines.source = START_SOURCE if start else ""
        return made
    other = Student.load(str(system.path), device=writing.device)
    return _student_lines(system.name, other, writing, heir=False)


def _student_lines(
    name: str, student: Student, writing: Writing, *, heir: bool, adapter: Path | None = None
) -> list[Lines]:
    """Sampled at 0.7 as NAME, and at its best decoding as NAME-tuned.

    KL is of the policy that samples at 0.7, for both rows: it is a property of the student.
    """
    writing.say(f"{name} writes")
    texts = [p.text for p in writing.prompts]
    source = DESCENDANT if heir and student.start_sha256 else ""
    measured = writing.kl and student is writing.student
    rows, kl, k = [], None, writing.jokes
    if writing.decodings == "tuned":
        k = 1 if measured else 0  # for the KL alone
    if k:
        done = _sample(student, texts, k, writing)
        kl = kl_to_start(student, done) if measured else None
    if writing.decodings != "tuned":
        rows.append(Lines(name, _groups(done, k), _shown(SAMPLED), source, kl=kl))
    if writing.decodings != "sampled":
        best, means = _best_decoding(student, writing, adapter)
        wanted = 1 if best == GREEDY else writing.jokes
        same = None if adapter is None else (fingerprint(adapter), best)
        groups = None if same is None else writing.written.get(same)
        if groups is None:
            if best != SAMPLED or wanted != k:
                done = _sample(student, texts, wanted, writing, temperature=best)
            groups = _groups(done, wanted)
        if same is not None:
            writing.written[same] = groups
        rows.append(Lines(f"{name}-tuned", groups, _shown(best), source, kl=kl, tuning=means))
    return rows


def _best_decoding(
    student: Student, writing: Writing, adapter: Path | None
) -> tuple[float, dict[str, float]]:
    """Temperature, and mean select ratings by temperature; a shipped critic's are kept."""
    select = writing.select
    if select is None:
        return student.tuned_temperature, {}

    def search() -> list[Any]:
        return list(
            tune_decoding(
                student, select, writing.select_prompts,
                max_tokens=writing.max_tokens, seed=writing.seed,
            )
        )  # fmt: skip

    if adapter is None or not writing.select_kept:
        best, means = search()
    else:
        asked: list[object] = [*student_key(student), fingerprint(adapter)]
        asked += critic_key(writing.select_kept)
        asked += [writing.max_tokens, writing.seed, *TUNING_GRID, *writing.select_prompts]
        best, means = kept("decoding-within-error", asked, search)
    return best, means


def _sample(
    student: Student, texts: Sequence[str], k: int, writing: Writing, temperature: float = SAMPLED
) -> Completions:
    return student.generate(
        texts, k, temperature=temperature, max_tokens=writing.max_tokens,
        generator=torch.Generator().manual_seed(writing.seed),
    )  # fmt: skip


def _groups(done: Completions, k: int) -> Groups:
    lines = [
        joke if finished else Unfinished(joke)
        for joke, finished in zip(done.jokes, done.finished, strict=True)
    ]
    return [lines[i : i + k] for i in range(0, len(lines), k)]


def kl_to_start(student: Student, done: Completions) -> float:
    """Nats a joke from the student to its start: mean of log pi - log pi_ref over its own jokes.

        KL(pi | pi_ref) = E_(y ~ pi) sum_t [ log pi(y_t) - log pi_ref(y_t) ]

    Both at the sampling temperature. An estimate: with few jokes it may fall below 0.
    """
    with torch.no_grad():
        ratio = student.token_logps(done) - student.reference_logps(done)  # (B, T), 0 where padded
    return float(ratio.sum(-1).mean())


def _shown(temperature: float) -> str:
    return "greedy" if temperature == GREEDY else f"{temperature:g}"
