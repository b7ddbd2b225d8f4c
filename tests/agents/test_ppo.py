import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from agents.configs import PPOConfig
from agents.learner import as_completions
from agents.optim import Diverged
from agents.ppo import PPO
from rewards.types import Unfinished

SMALL = {
    "updates": 20,
    "prompts_per_update": 2,
    "group_size": 4,
    "minibatches": 2,
    "max_tokens": 8,
    "temperature": 1.0,
    "learning_rate": 1e-2,
    "warmup_updates": 0,
    "value_warmup_updates": 0,
}
ADVANTAGES = ["rloo", "grpo", "gae"]


@pytest.fixture
def make(word_student):
    """A fresh student with its agent; the same each call."""

    def make(examples=None, **changes):
        student = word_student()
        return PPO(PPOConfig(**(SMALL | changes)), student, seed=0, examples=examples)

    return make


@pytest.fixture
def env(make_env, counts):
    return make_env(counts())


def values(agent):
    own = {n: p.detach().clone() for n, p in agent.parameters.items()}
    return own | {n: p.detach().clone() for n, p in agent.values.items()}


def equal(one, other):
    return set(one) == set(other) and all(torch.equal(one[n], other[n]) for n in one)


# ---- collecting


def test_rollout_belongs_to_the_prompts_that_were_shown(make, env):
    agent = make()
    shown = env.shown
    rollout = agent.collect(env)
    assert rollout.completions.prompts == list(shown)
    assert rollout.groups.tolist() == [0] * 4 + [1] * 4
    assert env.shown != shown
    counted = [float(j.count("a")) for j in rollout.completions.jokes]
    assert rollout.rewards.tolist() == counted


def test_first_rollout_forgets_no_reading_so_a_resumed_run_reads_in_the_same_batches(make, env):
    agent = make(temperature=0.7)  # another than the reader's own
    reader = agent.student.start_reader()
    widened = []
    reader.forget = lambda: widened.append(reader.temperatures)
    agent.collect(env)
    assert not widened


def test_unfinished_jokes_are_marked_for_the_gates(make, make_env, counts):
    seen = []

    class Watch(counts):
        def __call__(self, prompts, jokes):
            seen.extend(isinstance(j, Unfinished) for j in jokes)
            return super().__call__(prompts, jokes)

    rollout = make(max_tokens=20).collect(make_env(Watch()))
    assert seen == [not done for done in rollout.completions.finished]
    assert {True, False} == set(seen)


@pytest.mark.parametrize("old", ["auto", "sampler", "forward"])
def test_ratio_is_1_on_the_first_minibatch_of_every_update(make, env, old):
    agent = make(old_logps=old)
    for _ in range(3):
        metrics = agent.update(agent.collect(env))
        assert metrics["policy/first_ratio"] == pytest.approx(1, abs=1e-4)


def test_auto_measures_the_sampler_once_and_then_trusts_it(make, env):
    agent = make()
    first = agent.collect(env)
    assert 0 <= first.sampler_gap < 1e-5
    agent.update(first)
    second = agent.collect(env)
    assert second.sampler_gap is None
    assert second.old_logps is second.completions.logps


def test_wrong_old_logps_are_noticed_before_a_step(make, env):
    agent = make()
    before = values(agent)
    rollout = agent.collect(env)
    with pytest.raises(RuntimeError, match="mean ratio of the first minibatch is 1.1"):
        agent.update(rollout._replace(old_logps=rollout.old_logps - 0.1))
    assert equal(values(agent), before)


def test_kl_to_the_start_is_0_in_the_first_rollout(make, env):
    metrics = make().update(make().collect(env))
    assert metrics["policy/kl_per_token"] == pytest.approx(0, abs=1e-5)
    assert metrics["policy/kl_k3_per_token"] == pytest.approx(0, abs=1e-5)


# ---- what trains


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_unscored_jokes_train_nothing_whatever_their_numbers(make, make_env, counts, advantage):
    results = []
    for held in (math.nan, 1e6, -3.0):
        env = make_env(counts(fails=lambda i: i % 3 == 1))
        agent = make(advantage=advantage, kl_coef=0.1)
        for _ in range(2):
            rollout = agent.collect(env)
            lost = ~rollout.scored
            assert lost.any()
            assert rollout.rewards[lost].isnan().all()
            changed = rollout.rewards.masked_fill(lost, held)
            of_jokes = {"rewards": changed}
            if rollout.values is not None:
                junk = 0.0 if math.isnan(held) else held
                of_jokes["values"] = rollout.values.masked_fill(lost[:, None], junk)
            metrics = agent.update(rollout._replace(**of_jokes))
            assert metrics["policy/skipped"] == 0
        results.append(values(agent))
    assert equal(results[0], results[1])
    assert equal(results[0], results[2])
    assert not equal(results[0], values(make(advantage=advantage)))


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_without_any_verdict_nothing_moves(make, make_env, counts, advantage):
    agent = make(advantage=advantage)
    before = values(agent)
    metrics = agent.update(agent.collect(make_env(counts(fails=lambda i: True))))
    assert equal(values(agent), before)
    assert math.isnan(metrics["reward/mean"])
    assert agent.step == 1


def test_equal_rewards_move_nothing_at_the_start(make, make_env, counts):
    agent = make()
    before = values(agent)
    agent.update(agent.collect(make_env(counts("zz"))))
    assert equal(values(agent), before)


def test_last_layers_alone_train_when_asked(make, env):
    agent = make(train_layers=1)
    everything = {n: p.detach().clone() for n, p in agent.student.trainable().items()}
    agent.update(agent.collect(env))
    for name, p in agent.student.trainable().items():
        assert torch.equal(p, everything[name]) == (".layers.0." in name), name


def test_value_warmup_trains_the_head_alone(make, env):
    agent = make(advantage="gae", value_warmup_updates=1)
    before = values(agent)
    agent.update(agent.collect(env))
    after = values(agent)
    moved = {n for n in after if not torch.equal(after[n], before[n])}
    assert moved == set(agent.values)
    agent.update(agent.collect(env))
    assert any("lora_B" in n for n, v in values(agent).items() if not torch.equal(v, before[n]))


def test_value_head_learns_to_explain_returns(make, env):
    agent = make(advantage="gae", learning_rate=1e-6, value_learning_rate=0.03, value_clip=10.0)
    losses = [agent.update(agent.collect(env))["loss/value"] for _ in range(12)]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_learning_rate_warms_up_and_falls_to_a_tenth(make, env):
    agent = make(updates=10, warmup_updates=2)
    rates = [agent.update(agent.collect(env))["policy/learning_rate"] for _ in range(10)]
    assert rates[0] == pytest.approx(1e-2 / 3)
    assert max(rates) == rates[2] == pytest.approx(1e-2 * (1 - 0.18))
    assert rates[-1] == pytest.approx(1e-2 * (1 - 0.81))


def test_too_far_from_the_old_policy_the_update_stops_early(make, env):
    agent = make(max_approx_kl=1e-6, epochs=4, learning_rate=0.1)
    assert agent.update(agent.collect(env))["policy/stopped_early"] == 1


def test_adaptive_coefficient_is_moved_by_the_measured_kl(make, env):
    agent = make(kl_target=0.5, kl_coef=0.1)
    agent.update(agent.collect(env))  # KL 0: far below its target
    assert agent.kl.beta == pytest.approx(0.1 * (1 - 0.2 * 8 / 100))


# ---- failures


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_nan_rewards_skip_the_step_and_three_in_a_row_stop(make, env, advantage):
    agent = make(advantage=advantage)
    before = values(agent)
    for _ in range(2):
        rollout = agent.collect(env)
        bad = rollout._replace(rewards=torch.full_like(rollout.rewards, math.nan))
        assert agent.update(bad)["policy/skipped"] == 1
    assert equal(values(agent), before)
    with pytest.raises(Diverged, match="3 updates in a row") as stop:
        agent.update(bad)
    assert stop.value.rollout is bad
    assert equal(values(agent), before)


def test_a_good_update_forgives_the_bad_ones(make, env):
    agent = make()
    for i in range(6):
        rollout = agent.collect(env)
        if i % 3 < 2:
            rollout = rollout._replace(rewards=torch.full_like(rollout.rewards, math.nan))
        agent.update(rollout)
    assert agent.skipped == 0


# ---- state


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_state_goes_through_files_and_the_next_update_is_bit_for_bit(
    make, make_env, counts, tmp_path, advantage
):
    options = {"advantage": advantage, "kl_target": 0.01, "entropy_floor": 50.0}
    options |= {"imitation_coef": 0.1, "examples": [(f"prompt {i} .", "a cat .") for i in range(5)]}
    env, agent = make_env(counts()), make(**options)
    for _ in range(2):
        agent.update(agent.collect(env))
    state = agent.state_dict()
    save_file({k: v.contiguous() for k, v in state["tensors"].items()}, tmp_path / "t.safetensors")
    scalars = json.dumps({"agent": state["scalars"], "env": env.state_dict()})
    agent.student.save(tmp_path / "adapter")
    metrics = agent.update(agent.collect(env))

    read = json.loads(scalars)
    other_env, other = make_env(counts(), seed=9), make(**options)
    other_env.load_state_dict(read["env"])
    other.student.load_adapter(tmp_path / "adapter")
    tensors = load_file(tmp_path / "t.safetensors")
    other.load_state_dict({"tensors": tensors, "scalars": read["agent"]})
    again = other.update(other.collect(other_env))

    assert equal(values(agent), values(other))
    assert {k: v for k, v in again.items() if v == v} == {
        k: v for k, v in metrics.items() if v == v
    }
    assert (agent.step, agent.kl) == (other.step, other.kl)
    assert torch.equal(agent.generator.get_state(), other.generator.get_state())


# ---- learning


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_counting_a_word_is_learned(make, make_env, counts, advantage):
    agent = make(
        advantage=advantage,
        prompts_per_update=4,
        group_size=8,
        max_tokens=12,
        kl_coef=0.0,
        value_learning_rate=1e-2,
    )
    env = make_env(counts("the"), prompts=4, group=8)
    rewards = [agent.update(agent.collect(env))["reward/mean"] for _ in range(20)]
    assert sum(rewards[:3]) / 3 < 0.4
    assert sum(rewards[-3:]) / 3 > 1.5


def test_kl_penalty_holds_the_student_near_its_start(make, make_env, counts):
    kl = {}
    for coefficient in (0.0, 1.0):
        agent = make(
            prompts_per_update=4, group_size=8, max_tokens=12, kl_coef=coefficient, updates=8
        )
        env = make_env(counts("the"), prompts=4, group=8)
        for _ in range(8):
            metrics = agent.update(agent.collect(env))
        kl[coefficient] = metrics["policy/kl_k3_per_token"]
    assert kl[1.0] < 0.5 * kl[0.0]


# ---- against collapse


NEVER = "@"
"""Counted in no joke: every joke is as good as every other, advantages are 0."""


def test_entropy_below_its_floor_is_paid_for_and_rises(make, make_env, counts):
    paid = make(entropy_floor=50.0, entropy_coef=0.1, kl_coef=0.0, updates=6)
    env = make_env(counts(NEVER))
    told = [paid.update(paid.collect(env)) for _ in range(6)]
    assert [m["policy/entropy_coef"] for m in told] == [0.0] + [0.1] * 5  # one update to know it
    assert told[-1]["policy/entropy"] > told[0]["policy/entropy"] + 0.05
    assert paid.entropy == told[-1]["policy/entropy"]


def test_entropy_above_its_floor_changes_nothing(make, make_env, counts):
    after = []
    for options in ({}, {"entropy_floor": 1e-6, "entropy_coef": 5.0}):
        agent, env = make(**options), make_env(counts("a"))
        for _ in range(3):
            agent.update(agent.collect(env))
        after.append(values(agent))
    assert equal(*after)


def test_imitation_beside_the_policy_loss_teaches_the_jokes_given(make, make_env, counts):
    example = ("the cat sat on the mat .", "my lamp ran late .")
    agent = make(imitation_coef=1.0, kl_coef=0.0, updates=8, examples=[example])
    jokes = as_completions(agent.student.format, [example], temperature=1.0)
    start = -agent.student.token_logps(jokes).sum() / jokes.mask.sum()
    env = make_env(counts(NEVER))
    told = [agent.update(agent.collect(env))["loss/imitation"] for _ in range(8)]
    end = -agent.student.token_logps(jokes).sum() / jokes.mask.sum()
    assert told == sorted(told, reverse=True)
    assert end < told[0] <= float(start) + 1e-4
    assert end < 0.7 * start


def test_imitation_spreads_as_many_train_jokes_as_an_update_has_prompts(make, make_env, counts):
    examples = [(f"prompt {i} .", f"joke {i} .") for i in range(6)]
    agent = make(
        imitation_coef=0.1, prompts_per_update=4, minibatches=2, epochs=2, examples=examples
    )
    seen = []
    usual = agent.student.token_stats

    def token_stats(completions, rows, **options):
        seen.extend(completions.jokes if completions.jokes[0].startswith("joke") else [])
        return usual(completions, rows, **options)

    agent.student.token_stats = token_stats
    agent.update(agent.collect(make_env(counts(NEVER), prompts=4, group=4)))
    assert len(seen) == 8  # both passes imitate the same four
    assert len(set(seen)) == 4


# ---- options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, "--group-size is 1: rloo compares"),
        ({"group_size": 1, "advantage": "grpo"}, "grpo compares"),
        ({"minibatches": 3}, "--minibatches is 3, more than the 2 prompts"),
        ({"learning_rate": 0.0}, "--learning-rate is 0.0, must be > 0"),
        ({"kl_coef": -1.0}, "--kl-coef"),
        ({"entropy_floor": -1.0}, "--entropy-floor"),
        ({"imitation_coef": float("nan")}, "--imitation-coef"),
        ({"kl_target": 0.0}, "--kl-target"),
        ({"kl_horizon": 0}, "--kl-horizon"),
        ({"max_tokens": 1}, "--max-tokens is 1"),
        ({"lam": 1.5}, "must lie in 0..1"),
        ({"advantage": "ppo"}, "allowed are rloo, grpo, gae"),
        ({"old_logps": "both"}, "allowed are auto, sampler, forward"),
        ({"epochs": 0}, "--epochs is 0"),
    ],
)
def test_impossible_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PPOConfig(**(SMALL | changes))


def test_gae_works_with_a_single_joke_a_prompt(make, make_env, counts):
    agent = make(advantage="gae", group_size=1, minibatches=1)
    agent.update(agent.collect(make_env(counts(), group=1)))
    assert agent.step == 1
