"""The public names. Plug-in authors import only this; the folders under it may move.

Importing it registers the Gymnasium ids and loads neither weights nor torch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gymnasium import make, make_vec, register
from gymnasium.envs.registration import registry

from envs.humor import HumorEnv, UnscoredJokeError
from envs.prompts import (
    Prompt,
    PromptFileError,
    corpus_prompts,
    judged_jokes,
    load_prompts,
    teacher_jokes,
)
from envs.spaces import FreeText
from envs.vector import HumorVectorEnv
from rewards.bridges import (
    from_pairwise_judge,
    from_trl_reward,
    from_verifiers,
    to_pairwise_judge,
    to_trl_reward,
)
from rewards.build import build_critic, build_reward, embedded_context
from rewards.calls import CriticError
from rewards.control import ControlConfig, LabelledJoke
from rewards.ensembles import MeanOfScorers, MinOfScorers, PenalisedMean, Standardised
from rewards.lift import Lifted
from rewards.prior import PriorRemoved
from rewards.protocols import Critic, Judge, Ranker, Scorer
from rewards.reward import CompositeReward
from rewards.types import JokeReward, Rater, Rating, Reward, Unfinished
from rewards.wrappers import BothOrders, ShuffledRanks

if TYPE_CHECKING:
    from agents.student import Student

__all__ = [
    "BothOrders",
    "CompositeReward",
    "ControlConfig",
    "Critic",
    "CriticError",
    "FreeText",
    "HumorEnv",
    "HumorVectorEnv",
    "JokeReward",
    "Judge",
    "LabelledJoke",
    "Lifted",
    "MeanOfScorers",
    "MinOfScorers",
    "PenalisedMean",
    "PriorRemoved",
    "Prompt",
    "PromptFileError",
    "Ranker",
    "Rater",
    "Rating",
    "Reward",
    "Scorer",
    "ShuffledRanks",
    "Standardised",
    "Student",
    "Unfinished",
    "UnscoredJokeError",
    "build_critic",
    "build_reward",
    "corpus_prompts",
    "default_reward",
    "from_pairwise_judge",
    "from_trl_reward",
    "from_verifiers",
    "load_prompts",
    "make",
    "make_vec",
    "to_pairwise_judge",
    "to_trl_reward",
]

CALIBRATION_JOKES = 256
"""Judged lines of the start student that the default reward is calibrated on."""


def default_reward() -> CompositeReward:
    """The embedded critic's reward on the corpus, for environments made without a trainer.

    Raises:
        WeightsError: the weights are not on this machine; the message has the command.
    """
    critic = build_critic("embedded", **embedded_context("embedded"))
    # Labels of the training critic's own prompts only: the others belong to select and report.
    ids = [p.id for p in corpus_prompts("labels-train")]
    judged = judged_jokes("train", ids=ids)[:CALIBRATION_JOKES]
    return build_reward(
        critic,
        {"humor": 1.0},
        control=ControlConfig(),
        calibration=[LabelledJoke(j.prompt, j.joke, j.rating) for j in judged],
        teacher_jokes=[joke for _, joke in teacher_jokes("train")],
    )


def make_humor_env(
    prompts: Sequence[str | Prompt] | None = None,
    reward: Reward | None = None,
    on_unscored: str = "raise",
) -> HumorEnv:
    """`HumorEnv`, by default on the RL prompts of the corpus with `default_reward`."""
    return HumorEnv(
        corpus_prompts("rl") if prompts is None else prompts,
        default_reward() if reward is None else reward,
        on_unscored,
    )


def make_humor_vector_env(
    num_envs: int = 64,
    prompts: Sequence[str | Prompt] | None = None,
    reward: Reward | None = None,
    group_size: int = 8,
    **kwargs: Any,
) -> HumorVectorEnv:
    """`HumorVectorEnv` of `num_envs` jokes a step, `group_size` a prompt; defaults as above.

    Raises:
        ValueError: `group_size` does not divide `num_envs`, or what `HumorVectorEnv` refuses.
    """
    if group_size < 1 or num_envs % group_size:
        raise ValueError(f"num_envs is {num_envs}, need a multiple of group_size {group_size}")
    return HumorVectorEnv(
        corpus_prompts("rl") if prompts is None else prompts,
        default_reward() if reward is None else reward,
        num_prompts=num_envs // group_size,
        group_size=group_size,
        **kwargs,
    )


def __getattr__(name: str) -> Any:
    """`Student`, imported when first asked for: it needs torch."""
    if name == "Student":
        from agents.student import Student

        return Student
    raise AttributeError(f"module 'punchline' has no attribute {name!r}")


if "Humor-v0" not in registry:  # the module may be imported under two names
    register(
        id="Humor-v0",
        entry_point="punchline:make_humor_env",
        vector_entry_point="punchline:make_humor_vector_env",
    )
