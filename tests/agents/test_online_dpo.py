import json
import math

import pytest
import torch
from safetensors.torch import load, save

from agents.online_dpo import OnlineDPO, flip_probability
from agents.optim import Diverged
from agents.preference import LOSSES
from agents.preference_configs import OnlineDPOConfig
from rewards.types import JokeReward

SMALL = {
    "updates": 20,
    "prompts_per_update": 2,
    "group_size": 4,
    "epochs": 1,
    "minibatches": 2,
    "max_tokens": 8,
    "temperature": 1.0,
    "learning_rate": 1e-2,
    "warmup_updates": 0,
}


@pytest.fixture
def make(word_student):
    def make(**changes):
        return OnlineDPO(OnlineDPOConfig(**(SMALL | changes)), word_student(), seed=0)

    return make


@pytest.fixture
def env(make_env, counts):
    return make_env(counts())


def values(agent):
    return agent.student.adapter_values()


def equal(one, other):
    return all(torch.equal(one[n], other[n]) for n in one)


# ---- pairs


def test_pairs_are_of_one_prompt_with_the_higher_reward_chosen(make, env):
    rollout = make(pairs="all").collect(env)
    assert rollout.pairs
    for chosen, rejected, margin in rollout.pairs:
        assert (
            rollout.candidates.completions.prompts[chosen]
            == rollout.candidates.completions.prompts[rejected]
        )
        assert (
            margin == rollout.candidates.rewards[chosen] - rollout.candidates.rewards[rejected] > 0
        )


def rewarding(answer):
    """A reward whose i-th joke gets `answer(i)`: (reward, gate)."""

    def reward(prompts, jokes):
        told = [answer(i) for i in range(len(jokes))]
        return [JokeReward(r, r, r, {}, gate, 5, 0.0) for r, gate in told]

    return reward


@pytest.mark.parametrize("asked", [False, True])
def test_gated_jokes_are_rejected_only_if_asked(make, make_env, asked):
    reward = rewarding(lambda i: (-3.0, "empty") if i % 4 == 3 else (float(i % 4), ""))
    rollout = make(gated_rejected=asked).collect(make_env(reward))
    assert [(p.chosen, p.rejected) for p in rollout.pairs] == (
        [(2, 3), (6, 7)] if asked else [(2, 0), (6, 4)]
    )


def test_jokes_without_a_verdict_are_in_no_pair(make, make_env):
    reward = rewarding(lambda i: (None, "") if i % 4 in (0, 3) else (float(i % 4), ""))
    rollout = make(gated_rejected=True, pairs="all").collect(make_env(reward))
    assert [(p.chosen, p.rejected) for p in rollout.pairs] == [(2, 1), (6, 5)]


def test_without_pairs_nothing_moves(make, make_env):
    agent = make()
    before = values(agent)
    metrics = agent.update(agent.collect(make_env(rewarding(lambda i: (1.0, "")))))
    assert metrics["pairs/count"] == 0
    assert equal(before, values(agent))
    assert agent.step == 1


# ---- learning


@pytest.mark.parametrize("kind", LOSSES)
def test_first_loss_is_that_of_a_student_equal_to_its_reference(make, env, kind):
    agent = make(minibatches=1, loss=kind, beta=0.5, confidence=0.0)
    expected = 1.0 if kind == "ipo" else math.log(2)  # (0 - 1 / (2 beta))^2
    assert agent.update(agent.collect(env))["loss/preference"] == pytest.approx(expected, abs=1e-4)


def test_chosen_jokes_gain_on_rejected_ones(make, env):
    agent = make(minibatches=1, epochs=8)
    rollout = agent.collect(env)
    agent.update(rollout)
    gain = agent.student.token_logps(rollout.candidates.completions).sum(
        -1
    ) - rollout.ref_logps.sum(-1)
    for chosen, rejected, _ in rollout.pairs:
        assert gain[chosen] > gain[rejected] + 1.0


@pytest.mark.parametrize(("kind", "beta"), [("sigmoid", 0.1), ("cdpo", 0.1), ("ipo", 0.2)])
def test_counting_a_word_is_learned(make, make_env, counts, kind, beta):
    agent = make(loss=kind, beta=beta, prompts_per_update=4, group_size=8, max_tokens=12)
    env = make_env(counts("the"), prompts=4, group=8)
    rewards = [agent.update(agent.collect(env))["reward/mean"] for _ in range(20)]
    assert sum(rewards[:3]) / 3 < 0.4
    assert sum(rewards[-3:]) / 3 > 1.0


def test_flip_probability_is_half_at_a_tie_and_falls_with_the_margin():
    assert flip_probability([0.0], 1.0).tolist() == [0.5]
    assert flip_probability([math.log(3)], 1.0).tolist() == pytest.approx([0.25])
    assert flip_probability([5.0], 0.0).tolist() == [0.5]


# ---- who writes


def jokes_of(agent, env, updates):
    told = []
    for _ in range(updates):
        rollout = agent.collect(env)
        told.append(rollout.candidates.completions.jokes)
        agent.update(rollout)
    return told


def test_between_refreshes_the_student_of_the_last_one_writes(make, make_env, counts):
    frozen = make(refresh_every=0)
    offline = jokes_of(frozen, make_env(counts()), 4)
    held = make(refresh_every=0, learning_rate=1e-12)  # a student that stands still
    assert offline == jokes_of(held, make_env(counts()), 4)
    assert not equal(frozen.learner.writer, values(frozen))
    online = jokes_of(make(refresh_every=1, learning_rate=0.1), make_env(counts()), 4)
    assert online[0] == offline[0]
    assert online[1:] != offline[1:]
    every_2 = make(refresh_every=2, learning_rate=0.1)
    assert jokes_of(every_2, make_env(counts()), 2) == offline[:2]
    writer = dict(every_2.learner.writer)
    every_2.collect(make_env(counts()))
    assert not equal(writer, every_2.learner.writer)
    assert equal(every_2.learner.writer, values(every_2))


def test_writing_leaves_the_student_as_it_was(make, env):
    agent = make(refresh_every=0)
    agent.update(agent.collect(env))
    before = values(agent)
    agent.collect(env)
    assert equal(before, values(agent))


# ---- failures, state


def test_nan_gradients_skip_the_step_and_three_in_a_row_stop(make, env):
    agent = make()
    before = values(agent)

    def bad():
        rollout = agent.collect(env)
        return rollout._replace(ref_logps=torch.full_like(rollout.ref_logps, math.nan))

    for _ in range(2):
        assert agent.update(bad())["policy/skipped"] == 1
    with pytest.raises(Diverged, match="3 updates in a row"):
        agent.update(bad())
    assert equal(before, values(agent))


@pytest.mark.parametrize("refresh", [0, 1, 3])
def test_state_survives_json_and_safetensors(make, make_env, counts, refresh):
    agent, env = make(refresh_every=refresh), make_env(counts())
    for _ in range(2):
        agent.update(agent.collect(env))
    state = agent.state_dict()
    other, other_env = make(refresh_every=refresh), make_env(counts())
    with torch.no_grad():
        for name, parameter in other.student.trainable().items():
            parameter.copy_(values(agent)[name])
    other.load_state_dict(
        {
            "tensors": load(save(state["tensors"])),
            "scalars": json.loads(json.dumps(state["scalars"])),
        }
    )
    other_env.load_state_dict(env.state_dict())
    for _ in range(2):
        assert agent.update(agent.collect(env)) == other.update(other.collect(other_env))
    assert equal(values(agent), values(other))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"group_size": 1}, r"--group-size is 1, must lie in 2\.\.24"),
        ({"group_size": 25}, r"--group-size is 25"),
        ({"refresh_every": -1}, r"--refresh-every is -1"),
        ({"beta": 0.0}, r"--beta is 0.0"),
        ({"min_margin": -0.5}, r"--min-margin is -0.5"),
        ({"minibatches": 9}, r"--minibatches is 9, more than the 8 prompts"),
        ({"updates": 0}, r"--updates is 0"),
        ({"learning_rate": 0.0}, r"--learning-rate is 0.0"),
    ],
)
def test_bad_options_are_named(change, said):
    with pytest.raises(ValueError, match=said):
        OnlineDPOConfig(**change)
