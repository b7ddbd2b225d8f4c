"""The parts of a run made from its options: student, critics, reward, environment, prompts."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agents.configs import PPOConfig, RunConfig
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
from rewards.protocols import Critic, Scorer
from rewards.reward import CompositeReward
from rewards.types import Rater, Rating

DATA = Path(__file__).resolve().parent.parent / "data"
CALIBRATION_JOKES = 128
"""Labelled start lines that fix the reward's scale; the critic reads them once, in ten seconds."""
START_LINES = 256
"""Lines sampled for the novelty term where the student is not the shipped start."""
PRICED = {"novelty", "brevity", "overlap"}
"""Terms that measure a line by the start student's."""
START_SOURCE = "student2-t0.7"
"""The shipped start student's lines at training temperature in data/judgments.jsonl."""


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
        ValueError: one critic in two roles, or critics fitted on the same labels.
    """
    if run.critic in KINDS:
        for option, spec in (("select", run.select_critic), ("report", run.report_critic)):
            if spec == run.critic:
                raise ValueError(f"--{option}-critic {spec} is the training critic itself")
            if spec in KINDS:
                check_roles(manifest_of(run.critic), manifest_of(spec))
    if run.select_critic == run.report_critic and run.report_critic in KINDS:
        raise ValueError(f"--report-critic {run.report_critic} also selects; it must see no run")


def make_critics(run: RunConfig, student: Student) -> Critics:
    """Build the three critics on the student's own frozen weights.

    Raises:
        ValueError: unknown specs, other weights, or a select or report critic that cannot score.
    """
    args = parse_critic_args(run.critic_arg)
    train = make_critic(run.critic, student, option="--critic", args=args)
    return Critics(
        train,
        as_rater(make_critic(run.select_critic, student, option="--select-critic")),
        as_rater(make_critic(run.report_critic, student, option="--report-critic")),
    )


def make_critic(
    spec: str, student: Student, *, option: str, args: Mapping[str, str] | None = None
) -> Critic:
    """One critic; embedded kinds read with the student's frozen models."""
    context: dict[str, Any] = {}
    if spec == CONTROL_CRITIC:
        context = {"reader": student.start_reader(), "format": student.format}
    if spec in KINDS:
        layers = layers_of(spec)
        on_start = backbone_of(spec) == "start"
        context = {
            "reader": student.start_reader(layers=layers)
            if on_start
            else student.base_reader(layers=layers),
            "format": student.format,
            "start_sha256": student.start_sha256,
            "base_sha256": student.base.sha256,
        }
    return build_critic(spec, args, option=option, **context)


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
    run: RunConfig, ppo: PPOConfig, critics: Critics, student: Student
) -> CompositeReward:
    """The training reward: gates, critic, control, terms."""
    weights = parse_terms(run.reward)
    control = None if run.control == "none" else ControlConfig(mode=run.control)
    return build_reward(
        critics.train,
        weights,
        control=control,
        calibration=labelled_jokes(CALIBRATION_JOKES),
        teacher_jokes=[joke for _, joke in teacher_jokes("train")],
        start_lines=start_lines(student) if PRICED & set(weights) else (),
        group_size=ppo.group_size,
        clip=run.score_clip,
    )


def make_env(run: RunConfig, ppo: PPOConfig, sets: PromptSets, reward: Any) -> HumorVectorEnv:
    """K jokes for each of the update's prompts, one critic call a step."""
    return HumorVectorEnv(
        sets.rl,
        reward,
        num_prompts=ppo.prompts_per_update,
        group_size=ppo.group_size,
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
