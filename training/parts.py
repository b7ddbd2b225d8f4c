"""The parts of a run made from its options: student, critics, reward, environment, prompts."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from agents.configs import RunConfig
from agents.student import START, Student
from envs.prompts import (
    Prompt,
    corpus_prompts,
    judged_jokes,
    load_prompts,
    refuse_shared,
    teacher_jokes,
)
from envs.vector import HumorVectorEnv
from rewards.build import CONTROL_CRITIC, build_critic, build_reward, parse_critic_args, parse_terms
from rewards.control import ControlConfig, LabelledJoke
from rewards.embedded import KINDS, backbone_of, check_roles, layers_of, manifest_of
from rewards.from_file import members
from rewards.ledger import Budget, Ledger
from rewards.protocols import Critic, Scorer
from rewards.reward import CompositeReward
from rewards.types import Rater, Rating
from training.anchors import StartAnchors

DATA = Path(__file__).resolve().parent.parent / "data"
CALIBRATION_JOKES = 128
"""Labelled start lines that fix the reward's scale; the critic reads them once, in ten seconds."""
START_LINES = 256
"""Lines sampled for the novelty term where the student is not the shipped start."""
PRICED = {"novelty", "brevity", "overlap"}
"""Terms that measure a line by the start student's."""
START_SOURCE = "student2-t0.7"
"""The shipped start student's lines at training temperature in data/judgments.jsonl."""


class GroupConfig(Protocol):
    """What the parts and the loop ask of an algorithm's options."""

    @property
    def updates(self) -> int:
        """Updates of the student."""
        ...

    @property
    def prompts_per_update(self) -> int:
        """Prompts an update."""
        ...

    @property
    def group_size(self) -> int:
        """Jokes a prompt."""
        ...

    @property
    def jokes_per_update(self) -> int:
        """Judged jokes an update."""
        ...

    @property
    def temperature(self) -> float:
        """Of sampling."""
        ...

    @property
    def max_tokens(self) -> int:
        """Limit of a joke."""
        ...


class PromptSets(NamedTuple):
    """Which sentences a run learns from, is selected on, and is reported on."""

    rl: list[Prompt]
    select: list[Prompt]
    report: list[Prompt]


def prompt_sets(run: RunConfig) -> PromptSets:
    """Load the three sets.

    Raises:
        ValueError: a malformed file, or sets that share prompts.
    """
    named = {
        "rl": run.prompts,
        "select": run.select_prompts,
        "report": run.report_prompts,
    }
    sets = {
        role: load_prompts(Path(file)) if file else corpus_prompts(role)
        for role, file in named.items()
    }
    refuse_shared(**sets)
    select, report = sets["select"][: run.select_size], sets["report"]
    if run.table_size:
        report = report[: run.table_size]
    return PromptSets(sets["rl"], select, report)


class Critics(NamedTuple):
    """The three roles; each is another critic."""

    train: Critic
    select: Rater
    report: Rater


def check_critics(run: RunConfig) -> None:
    """Refuse what can be refused without loading weights.

    Raises:
        ValueError: one critic in two roles, critics fitted on the same labels, or a file of critics
            that cannot be read.
    """
    for own in set(members(run.critic)) & set(KINDS):
        told = "is the training critic itself" if own == run.critic else f"is in {run.critic}"
        for option, asked in (("select", run.select_critic), ("report", run.report_critic)):
            for spec in members(asked, f"--{option}-critic"):
                if spec == own:
                    raise ValueError(f"--{option}-critic {spec} {told}")
                if spec in KINDS:
                    check_roles(manifest_of(own), manifest_of(spec))
    if run.select_critic == run.report_critic and run.report_critic in KINDS:
        raise ValueError(f"--report-critic {run.report_critic} also selects; it must see no run")


def ledger_file(run: RunConfig, folder: Path) -> Path:
    """Where calls to outside critics are kept: one file for all runs of a folder."""
    return Path(run.ledger) if run.ledger else folder.parent / "ledger.sqlite"


def recorded_as(run: RunConfig, folder: Path) -> str:
    """The run's name in its ledger: its folder's place below it.

    Runs of a comparison that begin in the same second have folders of one name in other places.
    """
    beside = ledger_file(run, folder).resolve().parent
    whole = folder.resolve()
    return whole.relative_to(beside).as_posix() if whole.is_relative_to(beside) else folder.name


def make_ledger(run: RunConfig, folder: Path) -> Ledger | None:
    """The run's ledger; None where every critic is one of ours and runs here.

    Raises:
        ValueError: a replay without anything recorded.
    """
    if all(is_ours(s) for s in (run.critic, run.select_critic, run.report_critic)):
        if run.replay:
            raise ValueError(f"--replay {run.replay}: no critic of this run is recorded")
        return None
    file = ledger_file(run, folder)
    if not run.replay:
        file.parent.mkdir(parents=True, exist_ok=True)
    budget = Budget(run.budget_requests, run.budget_tokens, run.budget_money)
    name = run.replay or recorded_as(run, folder)
    return Ledger(file, run=name, budget=budget, replay=bool(run.replay))


def is_ours(spec: str) -> bool:
    """Whether a critic ships with Punchline and runs in this process: nothing of it is recorded."""
    return spec in KINDS or spec == CONTROL_CRITIC or spec.startswith("fake:")


def make_critics(run: RunConfig, student: Student, ledger: Ledger | None = None) -> Critics:
    """Build the three critics on the student's own frozen weights.

    Raises:
        ValueError: unknown specs, other weights, or a select or report critic that cannot score.
    """
    args = parse_critic_args(run.critic_arg)
    train = make_critic(run.critic, student, option="--critic", args=args, ledger=ledger)
    select = make_critic(run.select_critic, student, option="--select-critic", ledger=ledger)
    report = make_critic(run.report_critic, student, option="--report-critic", ledger=ledger)
    return Critics(train, as_rater(select), as_rater(report))


def make_critic(
    spec: str,
    student: Student,
    *,
    option: str,
    args: Mapping[str, str] | None = None,
    ledger: Ledger | None = None,
) -> Critic:
    """One critic; embedded kinds read with the student's frozen models, outside ones are recorded.

    Raises:
        ValueError: as `build_critic`; or a server that is not what was asked for.
    """
    context: dict[str, Any] = {"embedded": lambda kind: _embedded_context(kind, student)}
    if spec.startswith(("local:", "file:")):  # its base is the student's own where they are equal
        bare = student.base_reader(layers=()).model
        context["base"] = student.base._replace(model=bare)
    if ledger is not None:
        context["ledger"] = ledger
    if spec == CONTROL_CRITIC or spec.startswith("file:"):
        context |= {"reader": student.start_reader(), "format": student.format}
    critic = build_critic(spec, args, option=option, **context)
    probe = getattr(critic, "probe", None)
    if callable(probe) and not (ledger is not None and ledger.replay):
        probe()  # what the server gives, and whether it is the model asked for
    return critic


def _embedded_context(kind: str, student: Student) -> dict[str, Any]:
    """What an embedded critic reads with: the student's own frozen models."""
    layers = layers_of(kind)
    on_start = backbone_of(kind) == "start"
    return {
        "reader": student.start_reader(layers=layers)
        if on_start
        else student.base_reader(layers=layers),
        "format": student.format,
        "start_sha256": student.start_sha256,
        "base_sha256": student.base.sha256,
    }


class ScoresOnly:
    """A Scorer where a Rater is wanted: shares of amusing jokes and facts kept stay unknown."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def rate(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[Rating | None]:
        """Ratings whose other figures are NaN."""
        unknown = float("nan")
        return [
            None if s is None else Rating(s, unknown, unknown, False)
            for s in self.scorer.score(prompts, jokes)
        ]


def as_rater(critic: Critic) -> Rater:
    """The critic as a Rater.

    Raises:
        ValueError: it only compares, and a curve over time needs numbers.
    """
    if isinstance(critic, Rater):
        return critic
    if isinstance(critic, Scorer):
        return ScoresOnly(critic)
    raise ValueError("--select-critic and --report-critic must score jokes, not only compare them")


def make_reward(
    run: RunConfig, config: GroupConfig, critics: Critics, student: Student
) -> CompositeReward:
    """The training reward: gates, critic, control, terms."""
    weights = parse_terms(run.reward)
    anchors = None
    if not isinstance(critics.train, Scorer):
        anchors = StartAnchors(
            student, temperature=config.temperature, max_tokens=config.max_tokens
        )
    control = None if run.control == "none" else ControlConfig(mode=run.control)
    return build_reward(
        critics.train,
        weights,
        control=control,
        calibration=labelled_jokes(CALIBRATION_JOKES),
        teacher_jokes=[joke for _, joke in teacher_jokes("train")],
        start_lines=start_lines(student) if PRICED & set(weights) else (),
        anchors=anchors,
        group_size=config.group_size,
        clip=run.score_clip,
    )


def make_env(run: RunConfig, config: GroupConfig, sets: PromptSets, reward: Any) -> HumorVectorEnv:
    """K jokes for each of the update's prompts, one critic call a step."""
    return HumorVectorEnv(
        sets.rl,
        reward,
        num_prompts=config.prompts_per_update,
        group_size=config.group_size,
        seed=run.seed,
    )


def labelled_jokes(n: int) -> list[LabelledJoke]:
    """`n` labelled start lines whose labels the training critic may see, whole prompts first."""
    ids = [p.id for p in corpus_prompts("labels-train")]
    lines = judged_jokes("train", sources=[START_SOURCE], ids=ids)
    order = sorted(lines, key=lambda j: hashlib.sha256(j.id.encode()).hexdigest())
    return [LabelledJoke(j.prompt, j.joke, j.rating) for j in order[:n]]


def start_lines(student: Student) -> list[tuple[str, str]]:
    """Lines of the start student, for the novelty term: judged ones, or new ones of another."""
    if student.start_sha256 and student.name == START.name:
        return [(j.prompt, j.joke) for j in judged_jokes("train", sources=[START_SOURCE])]
    from training.selection import write_jokes

    prompts = [p.text for p in corpus_prompts("rl")[:START_LINES]]
    jokes = write_jokes(student, prompts, 1, temperature=0.7, max_tokens=40, seed=0, start=True)
    return [(p, str(row[0])) for p, row in zip(prompts, jokes, strict=True)]
