import json
import math

import pytest
import torch
from safetensors.torch import load, save

from agents.brio import BRIO, length_normalised, ranking_loss
from agents.brio_dpo import BrioDPO
from agents.feedback_configs import BRIOConfig, BrioDPOConfig
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
TEACHER = [
    ("the cat sat on the mat .", "the cat sang ."),
    ("the cat sat on the mat .", "my mat ate the cat ."),
    ("my keys are lost again .", "the keys slept ."),
]


@pytest.fixture
def make(word_student):
    def make(examples=TEACHER, **changes):
        config = BRIOConfig(**(SMALL | changes))
        return BRIO(config, word_student(), seed=0, examples=examples)

    return make


def values(agent):
    return agent.student.adapter_values()


def equal(one, other):
    return all(torch.equal(one[n], other[n]) for n in one)


def constant(answer):
    def reward(prompts, jokes):
        told = [answer(i) for i in range(len(jokes))]
        return [JokeReward(r, r, r, {}, gate, 5, 0.0) for r, gate in told]

    return reward


# ---- closed forms


def loss_of(scores, rewards, margin=0.5):
    return ranking_loss(torch.tensor(scores), torch.tensor(rewards), margin=margin)


def test_ranking_loss_of_three_candidates_by_hand():
    # ranks 0, 2, 1; pairs (0, 1): -2 + 1 + 2 * .5 = 0; (0, 2): -3 + 1 + .5 < 0;
    # (2, 1): -2 + 3 + .5 = 1.5
    told = loss_of([-1.0, -2.0, -3.0], [9.0, 1.0, 5.0])
    assert float(told.loss) == pytest.approx((0 + 0 + 1.5) / 3)
    assert told.pairs == 3
    assert told.right == pytest.approx(2 / 3)


def test_equal_scores_cost_their_mean_margin():
    # rank differences of 4 candidates: 1 1 1 2 2 3
    told = loss_of([-1.0] * 4, [4.0, 3.0, 2.0, 1.0], margin=0.3)
    assert float(told.loss) == pytest.approx(0.3 * 10 / 6)
    assert told.right == 0


def test_the_right_order_by_the_margin_costs_nothing():
    assert float(loss_of([0.0, -0.5, -1.0], [3.0, 2.0, 1.0]).loss) == 0
    assert float(loss_of([0.0, -0.4, -1.0], [3.0, 2.0, 1.0]).loss) == pytest.approx(0.1 / 3)


def test_equal_rewards_share_a_rank_and_are_not_ordered():
    told = loss_of([0.0, -9.0, 5.0], [1.0, 1.0, 0.0])
    assert told.pairs == 2
    assert float(told.loss) == pytest.approx((5.5 + 14.5) / 2)
    assert loss_of([0.0, 1.0], [2.0, 2.0]) == (0.0, 0.0, 0)


def test_gradient_moves_only_pairs_within_the_margin():
    scores = torch.tensor([0.0, -0.1, -9.0], requires_grad=True)
    ranking_loss(scores, torch.tensor([3.0, 2.0, 1.0]), margin=0.5).loss.backward()
    assert scores.grad.tolist() == pytest.approx([-1 / 3, 1 / 3, 0])


def test_length_exponent():
    logps, tokens = torch.tensor([-8.0, -8.0]), torch.tensor([4, 16])
    assert length_normalised(logps, tokens, alpha=1.0).tolist() == [-2.0, -0.5]
    assert length_normalised(logps, tokens, alpha=0.5).tolist() == [-4.0, -2.0]
    assert length_normalised(logps, tokens, alpha=0.0).tolist() == [-8.0, -8.0]


@pytest.mark.parametrize(
    ("scores", "rewards", "margin", "said"),
    [
        ([0.0], [1.0, 2.0], 0.1, "one shape"),
        ([0.0, 1.0], [1.0, math.nan], 0.1, "must be finite"),
        ([0.0, 1.0], [1.0, 2.0], -0.1, "margin is -0.1"),
    ],
)
def test_ranking_loss_names_what_is_wrong(scores, rewards, margin, said):
    with pytest.raises(ValueError, match=said):
        loss_of(scores, rewards, margin)


# ---- the agent


def test_the_teachers_joke_is_imitated_where_there_is_one(make, make_env, counts):
    agent = make()
    env = make_env(counts())
    known = dict(TEACHER)
    seen = set()
    for _ in range(3):  # all six prompts
        rollout = agent.collect(env)
        done, rows = rollout.completions, 2 * 4
        for group, row in rollout.imitated.items():
            prompt = done.prompts[group * 4]
            assert done.prompts[row] == prompt
            assert (row >= rows) == (prompt in known)
            if prompt in known:
                assert (prompt, done.jokes[row]) in TEACHER
                assert not rollout.usable[row]
            else:
                mine = [i for i in range(rows) if i // 4 == group]
                assert rollout.rewards[row] == rollout.rewards[mine].max()
            seen.add(prompt in known)
    assert seen == {True, False}


def test_the_best_candidate_is_imitated_where_that_is_asked_for(make, make_env, counts):
    rollout = make(imitates="best").collect(make_env(counts()))
    assert len(rollout.completions.jokes) == 2 * 4  # nobody else's
    for group, row in rollout.imitated.items():
        assert rollout.rewards[row] == rollout.rewards[group * 4 : group * 4 + 4].max()


def test_first_losses_are_the_start_students(make, make_env, counts):
    agent = make(minibatches=1, margin=0.0, imitation=1.0)
    rollout = agent.collect(make_env(counts()))
    rows = list(rollout.imitated.values())
    done = rollout.completions
    lengths = done.mask.sum(-1)
    expected = -(agent.student.reference_logps(done).sum(-1) / lengths)[rows].mean()
    metrics = agent.update(rollout)
    assert metrics["loss/imitation"] == pytest.approx(float(expected), abs=1e-4)
    assert metrics["policy/kl_per_joke"] == pytest.approx(0.0, abs=1e-4)
    assert metrics["ranking/groups"] == 2


def test_candidates_come_into_the_critics_order(make, make_env, counts):
    agent = make(minibatches=1, epochs=12, imitation=0.0, margin=0.2)
    rollout = agent.collect(make_env(counts()))
    first = agent.update(rollout)
    agent.learner.step = 0
    assert agent.update(rollout)["ranking/accuracy"] > max(first["ranking/accuracy"], 0.95)


def test_counting_a_word_is_learned(make, make_env, counts):
    agent = make(group_size=8, max_tokens=12, margin=0.1, updates=14, learning_rate=2e-2)
    env = make_env(counts("the"), group=8)
    rewards = [agent.update(agent.collect(env))["reward/mean"] for _ in range(14)]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.5


@pytest.mark.parametrize(
    "answer", [lambda i: (None, ""), lambda i: (float(i), "empty"), lambda i: (1.0, "")]
)
def test_no_verdict_a_gate_or_ties_move_nothing_though_there_is_a_teacher(make, make_env, answer):
    agent = make()
    before = values(agent)
    metrics = agent.update(agent.collect(make_env(constant(answer))))
    assert metrics["ranking/groups"] == 0
    assert math.isnan(metrics["loss/ranking"])
    assert equal(before, values(agent))
    assert agent.step == 1


# ---- BRIO-DPO


@pytest.fixture
def make_both(word_student):
    def make(**changes):
        config = BrioDPOConfig(**(SMALL | {"teacher_updates": 2, "updates": 4} | changes))
        return BrioDPO(config, word_student(), seed=0, examples=TEACHER)

    return make


def test_the_teacher_stands_over_the_student_and_nobody_is_asked(make_both):
    agent = make_both(minibatches=1)
    rollout = agent.collect(None).brio  # no environment
    done = rollout.completions
    own = len(rollout.ref_logps)
    assert set(done.prompts[:own]) == set(done.prompts[own:])
    assert set(zip(done.prompts[own:], done.jokes[own:], strict=True)) <= set(TEACHER)
    assert rollout.rewards[:own].max() < rollout.rewards[own:].min()


def test_first_phase_lifts_the_teachers_jokes(make_both):
    agent = make_both(teacher_updates=8, updates=9, margin=0.2)
    told = [agent.update(agent.collect(None)) for _ in range(8)]
    assert told[-1]["loss/imitation"] < told[0]["loss/imitation"] - 0.3
    assert all(math.isnan(m["reward/mean"]) for m in told)


def test_the_first_phase_is_a_quarter_unless_given():
    assert [BrioDPOConfig(updates=n).first_updates for n in (2, 8, 16)] == [1, 2, 4]
    config = BrioDPOConfig(updates=8, teacher_updates=3)
    assert (config.first.updates, config.second.updates) == (3, 5)


def test_second_phase_is_online_dpo_from_where_the_first_ended(make_both, make_env, counts):
    agent, env = make_both(), make_env(counts())
    for _ in range(2):
        agent.update(agent.collect(env))
    between = values(agent)
    rollout = agent.collect(env)
    assert rollout.brio is None
    assert equal(agent.dpo.learner.writer, between)
    metrics = agent.update(rollout)
    assert metrics["pairs/count"] == len(rollout.dpo.pairs) > 0
    assert agent.step == 3
    assert [agent.config.judged_jokes(n) for n in range(5)] == [0, 0, 0, 8, 16]
    assert len(agent.last_pairs) == len(rollout.dpo.pairs)


@pytest.mark.parametrize("after", [1, 3])
def test_state_survives_json_and_safetensors(make_both, make_env, counts, after):
    agent, env = make_both(), make_env(counts())
    for _ in range(after):
        agent.update(agent.collect(env))
    state, other, other_env = agent.state_dict(), make_both(), make_env(counts())
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
    while agent.step < 4:
        one, two = agent.update(agent.collect(env)), other.update(other.collect(other_env))
        assert one == pytest.approx(two, abs=0, nan_ok=True)
    assert equal(values(agent), values(other))


@pytest.mark.parametrize(
    ("config", "change", "said"),
    [
        (BRIOConfig, {"group_size": 24}, r"--group-size is 24, must lie in 2\.\.23"),
        (BRIOConfig, {"margin": -1.0}, r"--margin is -1.0"),
        (BRIOConfig, {"alpha": math.nan}, r"--alpha is nan"),
        (BRIOConfig, {"imitation": -0.1}, r"--imitation is -0.1"),
        (BRIOConfig, {"imitates": "critic"}, r"--imitates is 'critic'"),
        (BrioDPOConfig, {"teacher_updates": 0}, r"--teacher-updates is 0, must lie in 1\.\.15"),
        (BrioDPOConfig, {"updates": 1}, r"--updates is 1, must be >= 2"),
        (BrioDPOConfig, {"teacher_updates": 16}, r"--teacher-updates is 16"),
        (BrioDPOConfig, {"beta": 0.0}, r"--beta is 0.0"),
        (BrioDPOConfig, {"alpha": -1.0}, r"--alpha is -1.0"),
    ],
)
def test_bad_options_are_named(config, change, said):
    with pytest.raises(ValueError, match=said):
        config(**change)
