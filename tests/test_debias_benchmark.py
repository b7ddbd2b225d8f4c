"""The pure parts of the length-control benchmark, and two short runs."""

import math

import numpy as np
import pytest

from benchmarks.debias import (
    MARKER,
    MODES,
    START_LENGTH,
    NoisyCritic,
    Outcome,
    Policy,
    Setting,
    World,
    features,
    interval,
    judge_rows,
    leave_one_out,
    limit_rows,
    noise,
    price_of_length,
    scorer_rows,
    table,
    train,
)
from rewards.gates import gate
from rewards.text import words
from rewards.types import JokeReward

PROMPT = "bafe dibo fube guda kebi lano"


def drawn(n=4000, seed=0, policy=None):
    return (policy or Policy()).sample(PROMPT, np.random.default_rng(seed), n)


@pytest.mark.parametrize("rho", [0.0, 0.4, -0.4])
def test_quality_has_the_worlds_moments_at_the_start(rho):
    jokes, _, _ = drawn()
    world = World(rho)
    quality = [world.quality(PROMPT, j) for j in jokes]
    length = [features(j)[0] for j in jokes]
    assert np.mean(quality) == pytest.approx(0, abs=0.05)
    assert np.std(quality) == pytest.approx(1, abs=0.04)
    assert np.corrcoef(quality, length)[0, 1] == pytest.approx(rho, abs=0.04)
    assert world.expected(Policy()) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("rho", [0.4, -0.4])
def test_expected_quality_is_the_mean_of_lines_drawn(rho):
    policy = Policy(length=17.0, p=0.7)
    jokes, _, _ = drawn(policy=policy)
    world = World(rho)
    mean = np.mean([world.quality(PROMPT, j) for j in jokes])
    assert world.expected(policy) == pytest.approx(mean, abs=0.05)


def test_lines_are_real_words_that_pass_the_gates_and_say_what_was_drawn():
    jokes, wanted, witty = drawn(300)
    assert {gate(PROMPT, j, None) for j in jokes} == {""}
    assert [len(words(j)) for j in jokes] == np.clip(np.rint(wanted), 6, 60).astype(int).tolist()
    assert [features(j)[1] for j in jokes] == pytest.approx((witty - 1) / math.sqrt(0.75))
    assert drawn(300)[0] == jokes


def test_noise_is_standard_normal_and_a_function_of_the_content():
    values = [noise("x", str(i)) for i in range(4000)]
    assert np.mean(values) == pytest.approx(0, abs=0.05)
    assert np.std(values) == pytest.approx(1, abs=0.05)
    assert values[7] == noise("x", "7") != noise("y", "7")


def test_a_biased_critic_pays_its_bias_beside_the_worth_of_length():
    jokes, _, _ = drawn()
    world = World(0.4)

    def price(critic):
        scores = critic.score([PROMPT] * len(jokes), jokes)
        return price_of_length(jokes, scores, [0] * len(jokes), world)

    honest = price(NoisyCritic(world))
    assert honest == pytest.approx(0.38, abs=0.06)  # not 0.4: its worth ends two sd from the mean
    assert price(NoisyCritic(world, 2.0, scale=10.0)) - honest == pytest.approx(2, rel=0.06)


def test_leave_one_out_by_hand():
    def verdict(reward):
        return JokeReward(reward, reward, reward, {}, "", 1, 0.0)

    rewards = [1.0, 2.0, 6.0, None, 5.0, None, 3.0, 1.0, None, None, None, 4.0]
    advantages = leave_one_out([verdict(r) for r in rewards], 4)
    assert advantages.tolist() == [-3, -1.5, 4.5, 0, 3, 0, 0, -3, 0, 0, 0, 0]


def test_a_step_without_reward_goes_back_to_the_start_and_the_start_stays():
    far, start = Policy(18.0, 0.6), Policy()
    for policy in (far, start):
        _, wanted, witty = drawn(50)
        policy.step(wanted, witty, np.zeros(50), rate=0.5, kl=1.0)
    assert (start.length, start.p) == pytest.approx((START_LENGTH, 0.25))
    assert far.length == pytest.approx(15.0)
    logit = (math.log(0.6 / 0.4) + math.log(0.25 / 0.75)) / 2
    assert far.p == pytest.approx(1 / (1 + math.exp(-logit)))


def test_an_uncontrolled_liking_for_length_is_followed_and_control_takes_it_out():
    short = {"steps": 25, "calibration_prompts": 40}
    off = train(Setting(World(0.0), 2.0, **short), 0)
    on = train(Setting(World(0.0), 2.0, control="linear", **short), 0)
    honest = train(Setting(World(0.0), **short), 0)
    assert off.price_raw == off.price == pytest.approx(2.0, abs=0.4)
    assert on.price == pytest.approx(0.0, abs=0.2)
    assert off.length > 1.3 > 1.1 > on.length
    assert on.quality > 1.3 * off.quality
    assert on.quality == pytest.approx(honest.quality, abs=0.2)


def test_both_orders_make_a_first_slot_judge_an_honest_one():
    short = {"steps": 3, "prompts": 2, "calibration_prompts": 4, "judge": True}
    honest = train(Setting(World(0.4), **short), 1)
    assert train(Setting(World(0.4), slot=3.0, **short), 1) == pytest.approx(honest)
    assert train(Setting(World(0.4), slot=3.0, both_orders=False, **short), 1) != honest


@pytest.mark.parametrize("make", [scorer_rows, judge_rows, limit_rows])
def test_tables_begin_with_an_honest_critic_and_name_each_setting_once(make):
    rows = make(World(0.4))
    assert rows[0].critic.startswith("honest")
    assert rows[0].control == "none"
    assert len({(r.critic, r.control) for r in rows}) == len({r.setting for r in rows}) == len(rows)
    assert set(MODES) <= {r.control for r in [*scorer_rows(World(0.4)), *judge_rows(World(0.4))]}


def test_differences_are_paired_by_seed():
    rows = scorer_rows(World(0.0))[:2]
    honest = [Outcome(float(i), 1.0, 0.0, 0.0) for i in range(5)]
    lines = table(rows, [honest, [o._replace(quality=o.quality - 0.5) for o in honest]])
    assert lines[2].startswith("| honest | none | 2.00 [0.04, 3.96] | - |")
    assert "| -0.50 [-0.50, -0.50] |" in lines[3]
    assert {line.count("|") for line in lines} == {8}
    assert interval([1.0, 3.0]) == "2.00 [-10.71, 14.71]"
    assert MARKER.startswith("<!--")
