import json
from collections import Counter

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.humor import HumorEnv
from envs.vector import HumorVectorEnv
from rewards.fakes import CopiesWin, CountsWord, Honest, LongerWins, ScorerAsJudge, failing
from rewards.reward import CompositeReward

PROMPTS = [f"The bus number {i} left without me." for i in range(7)]


class Recording:
    def __init__(self, critic):
        self.reward = CompositeReward(critic)
        self.calls = []

    def __call__(self, prompts, jokes):
        self.calls.append((list(prompts), list(jokes)))
        return self.reward(prompts, jokes)


def make(critic=None, **options):
    options = {"num_prompts": 3, "group_size": 2, "seed": 0, **options}
    return HumorVectorEnv(PROMPTS, Recording(critic or CopiesWin()), **options)


JOKES = ["bus", "", "the bus left without me", "a\nb", "\U0001f602 bus", "\ud800 number"]


def test_equal_to_single_envs_under_a_scorer():
    env = make()
    prompts, _ = env.reset()
    _, rewards, terminated, truncated, infos = env.step(JOKES)
    for i, (prompt, joke) in enumerate(zip(prompts, JOKES, strict=True)):
        single = HumorEnv(PROMPTS, CompositeReward(CopiesWin()))
        single.reset(options={"prompt": PROMPTS.index(prompt)})
        obs, reward, end, cut, info = single.step(joke)
        assert (reward, end, cut) == (rewards[i], terminated[i], truncated[i])
        assert infos["final_obs"][i] == obs
        for key, value in info.items():
            assert infos["final_info"][f"_{key}"][i] == (value is not None), key
            if value is not None:
                assert infos["final_info"][key][i] == value, key


def test_spaces_and_types_are_gymnasiums():
    env = make()
    prompts, _ = env.reset()
    assert prompts in env.observation_space
    assert tuple(JOKES) in env.action_space
    assert env.num_envs == 6
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    _, rewards, terminated, truncated, _ = env.step(JOKES)
    assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float64, np.bool_, np.bool_)
    assert rewards.shape == terminated.shape == truncated.shape == (6,)
    assert terminated.all()
    assert not truncated.any()


def test_a_step_asks_the_reward_once_with_groups_together():
    env = make()
    prompts, infos = env.reset()
    env.step(JOKES)
    assert env.reward.calls == [(list(prompts), JOKES)]
    assert infos["group"].tolist() == [0, 0, 1, 1, 2, 2]
    assert [prompts.count(p) for p in prompts] == [2] * 6


def test_same_step_returns_the_next_prompts_and_keeps_the_old():
    env = make()
    prompts, reset_info = env.reset()
    after, _, _, _, infos = env.step(JOKES)
    assert not set(prompts) & set(after)
    assert infos["final_obs"].tolist() == list(prompts)
    assert infos["final_info"]["prompt_id"].tolist() == reset_info["prompt_id"].tolist()
    ids = [f"prompt-{PROMPTS.index(p)}" for p in after]
    assert infos["prompt_id"].tolist() == ids
    assert infos["scored"].tolist() == infos["final_info"]["scored"].tolist() == [True] * 6
    assert infos["gate"].tolist() == ["", "empty", "", "lines", "emoji", ""]
    env.step(JOKES)  # no reset needed


def test_unscored_jokes_are_nan_and_masked():
    env = make(failing(CopiesWin(), 0.5))
    env.reset()
    _, rewards, _, _, infos = env.step([f"joke number {i}" for i in range(6)])
    assert 0 < infos["scored"].sum() < 6
    assert (np.isnan(rewards) == ~infos["scored"]).all()
    assert (infos["_raw"] == infos["scored"]).all()
    assert np.isnan(infos["raw"][~infos["scored"]]).all()


def test_a_judge_compares_within_its_group():
    env = make(LongerWins())
    env.reset()
    _, rewards, *_ = env.step(["one two", "one", "one", "one two", "one", "uno"])
    assert rewards == pytest.approx([0.99, 0.01, 0.01, 0.99, 0.5, 0.5])


@given(st.integers(1, 7), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_an_epoch_shows_each_prompt_once_and_a_step_none_twice(num_prompts, seed):
    env = make(num_prompts=num_prompts, group_size=1, seed=seed)
    shown = []
    for _ in range(3 * 7):
        prompts, _ = env.reset()
        assert len(set(prompts)) == num_prompts
        shown += prompts
    counts = [Counter(shown[i : i + 7]) for i in range(0, 7 * (len(shown) // 7), 7)]
    assert all(set(c.values()) == {1} for c in counts)


def test_order_follows_the_seed():
    first, second, other = make(seed=4), make(seed=4), make(seed=5)
    assert first.reset()[0] == second.reset()[0]
    runs = [[env.reset()[0] for _ in range(5)] for env in (first, second, other)]
    assert runs[0] == runs[1] != runs[2]
    assert first.reset(seed=9)[0] == other.reset(seed=9)[0]


@pytest.mark.parametrize("steps", range(5))
def test_a_restored_environment_goes_on_bit_for_bit(steps):
    env = make()
    env.reset()
    for _ in range(steps):
        env.step(JOKES)
    state = json.loads(json.dumps(env.state_dict()))
    again = make(seed=99)
    again.load_state_dict(state)
    for _ in range(5):
        ours, theirs = env.step(JOKES), again.step(JOKES)
        assert ours[0] == theirs[0]
        assert ours[1].tolist() == theirs[1].tolist()
    assert env.state_dict() == again.state_dict()


def test_a_state_of_another_environment_is_refused():
    state = make().state_dict()
    with pytest.raises(ValueError, match="3 prompts a step, this has 2"):
        make(num_prompts=2).load_state_dict(state)
    other = HumorVectorEnv([*PROMPTS, "One more."], Recording(CopiesWin()), 3, 2)
    with pytest.raises(ValueError, match="other prompts"):
        other.load_state_dict(state)


def test_disabled_autoreset_waits_for_reset():
    env = make(autoreset="disabled")
    prompts, _ = env.reset()
    after, _, _, _, infos = env.step(JOKES)
    assert after == prompts
    assert "final_obs" not in infos
    assert infos["scored"].all()
    with pytest.raises(ResetNeeded):
        env.step(JOKES)
    env.reset()
    env.step(JOKES)


def test_disabled_autoreset_resets_whole_groups():
    env = make(autoreset=AutoresetMode.DISABLED)
    prompts, _ = env.reset()
    env.step(JOKES)
    first = np.array([True, True, False, False, False, False])
    after, _ = env.reset(options={"reset_mask": first})
    assert after[2:] == prompts[2:]
    assert after[0] not in prompts
    with pytest.raises(ResetNeeded):
        env.step(JOKES)
    env.reset(options={"reset_mask": ~first})
    env.step(JOKES)
    for mask in ([True] * 6, np.zeros(6, dtype=bool), np.ones(5, dtype=bool), np.ones(6)):
        if isinstance(mask, list):
            env.reset(options={"reset_mask": mask})
            continue
        with pytest.raises(ValueError, match="reset_mask"):
            env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="splits a group"):
        env.reset(options={"reset_mask": np.array([True, False] * 3)})


def test_group_resets_never_show_a_prompt_twice():
    env = HumorVectorEnv(PROMPTS[:3], Recording(CopiesWin()), 3, 1, AutoresetMode.DISABLED, seed=1)
    prompts, _ = env.reset()
    for i in [0, 1, 2, 0, 0, 1, 2, 2, 1]:
        prompts, _ = env.reset(options={"reset_mask": np.arange(3) == i})
        assert len(set(prompts)) == 3


def test_a_step_before_a_reset_and_wrong_actions_are_refused():
    env = make()
    with pytest.raises(ResetNeeded):
        env.step(JOKES)
    env.reset()
    with pytest.raises(ValueError, match="5 jokes, need 6"):
        env.step(JOKES[:5])
    with pytest.raises(ValueError, match="action 2 is a NoneType"):
        env.step(["a", "b", None, "c", "d", "e"])
    env.step(JOKES)  # a refused action costs nothing


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_prompts": 8}, "num_prompts is 8"),
        ({"num_prompts": 0}, "num_prompts is 0"),
        ({"group_size": 0}, "group_size 0"),
        ({"autoreset": AutoresetMode.NEXT_STEP}, "allowed are SAME_STEP, DISABLED"),
        ({"autoreset": "never"}, "autoreset is 'never'"),
    ],
)
def test_impossible_settings_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        make(**options)


def test_gated_jokes_leave_the_others_means_alone():
    quality = {(p, j): float(len(j)) for p in PROMPTS for j in ("a", "bb")}
    env = make(ScorerAsJudge(Honest(quality)), group_size=3, num_prompts=1)
    env.reset()
    _, rewards, _, _, infos = env.step(["a", "", "bb"])
    assert infos["gate"].tolist() == ["", "empty", ""]
    assert rewards[0] + rewards[2] == pytest.approx(1)


def test_learning_signal_reaches_the_right_joke():
    env = make(CountsWord("moose"))
    env.reset()
    _, rewards, *_ = env.step(["moose", "x", "moose moose", "y", "z", "moose"])
    assert rewards.tolist() == [1, 0, 2, 0, 0, 1]
