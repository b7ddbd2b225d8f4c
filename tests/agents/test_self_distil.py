import json
import math

import pytest
import torch
from safetensors.torch import load, save

from agents.feedback_configs import SelfDistilConfig
from agents.optim import Diverged
from agents.self_distil import SelfDistil, best_jokes
from rewards.types import JokeReward

SMALL = {
    "updates": 20,
    "prompts_per_update": 2,
    "group_size": 4,
    "minibatches": 2,
    "max_tokens": 8,
    "temperature": 1.0,
    "learning_rate": 1e-2,
    "warmup_updates": 0,
}


@pytest.fixture
def make(word_student):
    def make(**changes):
        return SelfDistil(SelfDistilConfig(**(SMALL | changes)), word_student(), seed=0)

    return make


def values(agent):
    return agent.student.adapter_values()


def equal(one, other):
    return all(torch.equal(one[n], other[n]) for n in one)


def rewarding(answer):
    """A reward whose i-th joke gets `answer(i)`: (reward, gate)."""

    def reward(prompts, jokes):
        told = [answer(i) for i in range(len(jokes))]
        return [JokeReward(r, r, r, {}, gate, 5, 0.0) for r, gate in told]

    return reward


# ---- which jokes are kept


def kept(rewards, *, keep=1, usable=None, groups=None):
    n = len(rewards)
    return best_jokes(
        torch.tensor(rewards),
        torch.tensor([True] * n if usable is None else usable),
        torch.tensor([0] * n if groups is None else groups),
        keep=keep,
    )


def test_the_best_above_the_mean_are_kept():
    assert kept([1.0, 4.0, 2.0, 3.0]) == [1]
    assert kept([1.0, 4.0, 2.0, 3.0], keep=3) == [1, 3]  # 2.0 is below the mean 2.5
    assert kept([1.0, 4.0, 2.0, 3.0], groups=[0, 0, 1, 1]) == [1, 3]


def test_equal_rewards_and_lone_jokes_teach_nothing():
    assert kept([0.1] * 7, keep=3) == []
    assert kept([5.0]) == []


def test_unusable_jokes_are_neither_kept_nor_in_the_mean():
    nan = math.nan
    assert kept([9.0, 1.0, 2.0, nan], usable=[False, True, True, False]) == [2]
    assert kept([nan, nan], usable=[False, False]) == []


def test_best_jokes_names_what_is_wrong():
    with pytest.raises(ValueError, match="keep is 0"):
        kept([1.0], keep=0)
    with pytest.raises(ValueError, match=r"one shape \(B,\)"):
        kept([1.0, 2.0], usable=[True])


# ---- learning


def test_first_loss_is_the_start_students_likelihood_of_the_kept_jokes(make, make_env, counts):
    agent = make(minibatches=1)
    rollout = agent.collect(make_env(counts()))
    mask = rollout.candidates.completions.mask[rollout.kept]
    expected = -rollout.ref_logps[rollout.kept].sum() / mask.sum()
    metrics = agent.update(rollout)
    assert metrics["loss/imitation"] == pytest.approx(float(expected), abs=1e-4)
    assert metrics["policy/kl_per_joke"] == pytest.approx(0.0, abs=1e-4)
    assert metrics["imitation/jokes"] == len(rollout.kept) > 0


def test_kept_jokes_become_likelier(make, make_env, counts):
    agent = make(minibatches=1, epochs=6)
    rollout = agent.collect(make_env(counts()))
    agent.update(rollout)
    now = agent.student.token_logps(rollout.candidates.completions)[rollout.kept].sum(-1)
    assert (now > rollout.ref_logps[rollout.kept].sum(-1) + 0.5).all()


def test_counting_a_word_is_learned(make, make_env, counts):
    agent = make(group_size=8, max_tokens=12, keep=2, epochs=2, learning_rate=2e-2, updates=14)
    env = make_env(counts("the"), group=8)
    rewards = [agent.update(agent.collect(env))["reward/mean"] for _ in range(14)]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.5


@pytest.mark.parametrize(
    "answer", [lambda i: (None, ""), lambda i: (float(i), "empty"), lambda i: (1.0, "")]
)
def test_no_verdict_a_gate_or_a_tie_moves_nothing(make, make_env, answer):
    agent = make()
    before = values(agent)
    metrics = agent.update(agent.collect(make_env(rewarding(answer))))
    assert metrics["imitation/jokes"] == 0
    assert math.isnan(metrics["loss/imitation"])
    assert equal(before, values(agent))
    assert agent.step == 1


def test_without_refresh_the_start_student_writes(make, make_env, counts):
    agent, still = make(refresh_every=0, learning_rate=0.1), make(learning_rate=1e-12)
    env, same = make_env(counts()), make_env(counts())
    for _ in range(3):
        one, other = agent.collect(env), still.collect(same)
        assert one.candidates.completions.jokes == other.candidates.completions.jokes
        agent.update(one)
        still.update(other)
    online = make(learning_rate=0.1)
    env = make_env(counts())
    online.update(online.collect(env))
    online.collect(env)
    assert equal(online.learner.writer, values(online))


# ---- failures, state, options


def test_nan_losses_skip_the_step_and_three_in_a_row_stop(make, make_env, counts):
    agent, env = make(), make_env(counts())
    before = values(agent)
    head = agent.student.model.get_base_model().get_output_embeddings()
    rollout = agent.collect(env)
    handle = head.register_forward_hook(lambda _m, _i, out: out * math.nan)
    for _ in range(2):
        assert agent.update(rollout)["policy/skipped"] == 1
    with pytest.raises(Diverged, match="3 updates in a row"):
        agent.update(rollout)
    handle.remove()
    assert equal(before, values(agent))


def test_state_survives_json_and_safetensors(make, make_env, counts):
    agent, env = make(refresh_every=3), make_env(counts())
    for _ in range(2):
        agent.update(agent.collect(env))
    state = agent.state_dict()
    other, other_env = make(refresh_every=3), make_env(counts())
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
        ({"keep": 0}, r"--keep is 0, must lie in 1\.\.7"),
        ({"keep": 8}, r"--keep is 8"),
        ({"refresh_every": -1}, r"--refresh-every is -1"),
        ({"group_size": 1}, r"--group-size is 1"),
        ({"learning_rate": 0.0}, r"--learning-rate is 0.0"),
    ],
)
def test_bad_options_are_named(change, said):
    with pytest.raises(ValueError, match=said):
        SelfDistilConfig(**change)
