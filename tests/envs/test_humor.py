import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from envs.humor import HumorEnv, UnscoredJokeError
from envs.prompts import Prompt
from rewards.fakes import CopiesWin, CountsWord, failing
from rewards.reward import CompositeReward
from rewards.types import JokeReward

PROMPTS = ["The bus left.", "I lost my keys.", "It rained all day."]


def make(critic=None, **options):
    return HumorEnv(PROMPTS, CompositeReward(critic or CopiesWin()), **options)


def test_it_passes_gymnasiums_checker_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(), skip_render_check=True)


def test_one_joke_ends_the_episode():
    env = make(CountsWord("bus"))
    prompt, info = env.reset(seed=0, options={"prompt": 0})
    assert (prompt, info) == ("The bus left.", {"prompt_id": "prompt-0"})
    obs, reward, terminated, truncated, info = env.step("bus bus left")
    assert (obs, reward, terminated, truncated) == (prompt, 2.0, True, False)
    assert info == {
        "reward": 2.0,
        "scored": True,
        "raw": 2.0,
        "debiased": 2.0,
        "term/humor": 2.0,
        "gate": "",
        "length": 3,
        "recall": 1.0,
        "prompt_id": "prompt-0",
    }


def test_a_second_step_needs_a_reset():
    env = make()
    with pytest.raises(ResetNeeded):
        env.step("a joke")
    env.reset(seed=0)
    env.step("a joke")
    with pytest.raises(ResetNeeded):
        env.step("a joke")


def test_prompts_are_drawn_uniformly_and_by_seed():
    env = make()
    first = [env.reset(seed=5)[0], *(env.reset()[0] for _ in range(299))]
    again = [env.reset(seed=5)[0], *(env.reset()[0] for _ in range(299))]
    assert first == again
    assert min(first.count(p) for p in PROMPTS) > 70


@given(st.text(alphabet=st.characters(codec=None), max_size=200))
def test_any_text_is_answered(joke):
    env = make()
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(joke)
    assert terminated
    assert np.isfinite(reward)
    assert info["scored"]


@pytest.mark.parametrize(
    ("joke", "gate"),
    [("", "empty"), ("a\nb", "lines"), ("\U0001f602" * 5, "emoji"), ('"It\'s" \ud83d bus', "")],
)
def test_broken_texts_are_gated_or_scored(joke, gate):
    env = make()
    env.reset(seed=0)
    assert env.step(joke)[4]["gate"] == gate


@pytest.mark.parametrize("action", [None, 3, b"joke", "x" * 5000])
def test_what_is_no_text_is_refused(action):
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action is a"):
        env.step(action)


def test_an_unscored_joke_raises_or_is_marked():
    env = make(failing(CopiesWin(), 1.0))
    env.reset(seed=0)
    with pytest.raises(UnscoredJokeError, match="no verdict"):
        env.step("a joke")
    env = make(failing(CopiesWin(), 1.0), on_unscored="zero")
    env.reset(seed=0)
    _, reward, _, _, info = env.step("a joke")
    assert (reward, info["scored"], info["reward"], info["raw"]) == (0.0, False, None, None)


def test_a_reward_that_is_not_finite_is_an_error():
    class Infinite:
        def __call__(self, prompts, jokes):
            return [JokeReward(float("inf"), None, None, {}, "", 1, 0.0)]

    env = HumorEnv(PROMPTS, Infinite())
    env.reset(seed=0)
    with pytest.raises(ValueError, match="need a finite one"):
        env.step("a joke")


def test_bad_arguments_are_refused():
    reward = CompositeReward(CopiesWin())
    with pytest.raises(ValueError, match="at least one prompt"):
        HumorEnv([], reward)
    with pytest.raises(ValueError, match="are the same"):
        HumorEnv(["A.", "A."], reward)
    with pytest.raises(ValueError, match="on_unscored is 'nan'"):
        make(on_unscored="nan")
    with pytest.raises(ValueError, match="option prompt is 3"):
        make().reset(options={"prompt": 3})


def test_prompts_keep_their_ids():
    env = HumorEnv([Prompt("x", "The bus left.", "own", "")], CompositeReward(CopiesWin()))
    assert env.reset(seed=0)[1] == {"prompt_id": "x"}


@pytest.mark.parametrize("kind", [gym.vector.SyncVectorEnv, gym.vector.AsyncVectorEnv])
def test_gymnasiums_own_vector_envs_carry_the_text(kind):
    options = {"shared_memory": False} if kind is gym.vector.AsyncVectorEnv else {}
    envs = kind([make, make], **options)
    try:
        prompts, _ = envs.reset(seed=0)
        _, rewards, *_ = envs.step(prompts)
        assert rewards.tolist() == [1.0, 1.0]
    finally:
        envs.close()
