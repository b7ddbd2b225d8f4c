import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer

from agents.losses import (
    KLController,
    explained_variance,
    gae,
    group_advantages,
    kl_estimates,
    masked_mean,
    policy_loss,
    scale_advantages,
    token_rewards,
    value_loss,
    whiten,
)

LENGTHS = [4, 1, 6, 3]
MASK = torch.arange(6)[None] < torch.tensor(LENGTHS)[:, None]


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- KL


@given(st.lists(st.tuples(st.floats(-9, 0), st.floats(-9, 0)), min_size=1, max_size=8))
def test_k3_is_never_negative(pairs):
    logps, ref = torch.tensor(pairs, dtype=torch.float64).T[:, None]
    assert (kl_estimates(logps, ref, torch.ones_like(logps, dtype=torch.bool)).k3 >= -1e-12).all()


def test_both_estimators_have_the_kl_as_their_expectation():
    p, q = noise(2, 50).double().softmax(-1)
    estimates = kl_estimates(p.log()[None], q.log()[None], torch.ones(1, 50, dtype=torch.bool))
    exact = float((p * (p / q).log()).sum())
    assert float((p * estimates.k1[0]).sum()) == pytest.approx(exact)
    assert float((p * estimates.k3[0]).sum()) == pytest.approx(exact)
    assert exact > 0.1


def test_k3_varies_less_than_k1():
    p, q = (noise(2, 50) * 0.1).double().softmax(-1)
    k1, k3 = kl_estimates(p.log()[None], q.log()[None], torch.ones(1, 50, dtype=torch.bool))
    assert float((p * k3[0] ** 2).sum()) < 0.1 * float((p * k1[0] ** 2).sum())


def test_kl_is_zero_off_the_mask():
    k1, k3 = kl_estimates(noise(4, 6), noise(4, 6, seed=1), MASK)
    assert not k1[~MASK].any()
    assert not k3[~MASK].any()


# ---- group baselines


def test_rloo_is_the_reward_minus_the_mean_of_the_others():
    rewards = torch.tensor([1.0, 2.0, 4.0, 10.0, 10.0])
    groups = torch.tensor([0, 0, 0, 7, 7])
    out = group_advantages(rewards, torch.ones(5, dtype=torch.bool), groups, divide_by_std=False)
    assert out.tolist() == [-2.0, -0.5, 2.5, 0.0, 0.0]


def test_grpo_divides_by_the_groups_own_deviation():
    rewards = torch.tensor([1.0, 2.0, 6.0])
    out = group_advantages(
        rewards, torch.ones(3, dtype=torch.bool), torch.zeros(3).long(), divide_by_std=True
    )
    torch.testing.assert_close(out, (rewards - 3) / (math.sqrt(7) + 1e-4))


@pytest.mark.parametrize("divide", [False, True])
@pytest.mark.parametrize("held", [math.nan, math.inf, -1e9])
def test_unscored_jokes_count_for_nothing_whatever_they_hold(divide, held):
    groups = torch.tensor([0, 0, 0, 0, 1, 1])
    scored = torch.tensor([True, False, True, True, True, False])
    rewards = torch.tensor([1.0, held, 2.0, 4.0, 3.0, held])
    out = group_advantages(rewards, scored, groups, divide_by_std=divide)
    alone = group_advantages(
        rewards[[0, 2, 3]], scored[[0, 2, 3]], groups[[0, 2, 3]], divide_by_std=divide
    )
    assert torch.equal(out[[0, 2, 3]], alone)
    assert out[[1, 4, 5]].tolist() == [0, 0, 0]  # unscored, or without a scored companion


def test_shapes_of_groups_must_agree():
    with pytest.raises(ValueError, match=r"\(3,\), \(2,\), \(3,\)"):
        group_advantages(
            torch.zeros(3), torch.ones(2, dtype=torch.bool), torch.zeros(3), divide_by_std=False
        )


def test_one_scale_for_the_batch_keeps_ratios_between_groups():
    advantages = noise(8) * torch.tensor([1.0] * 4 + [100.0] * 4)
    mask = torch.ones(8, dtype=torch.bool)
    out = scale_advantages(advantages, mask)
    assert float(out.std()) == pytest.approx(1)
    torch.testing.assert_close(out / out[0], advantages / advantages[0])
    torch.testing.assert_close(out, scale_advantages(37 * advantages, mask))


def test_equal_rewards_prefer_nothing():
    rounding = torch.tensor([1e-7, -2e-7, 1e-7])
    assert not scale_advantages(rounding, torch.ones(3, dtype=torch.bool)).any()
    assert not scale_advantages(torch.ones(3), torch.tensor([True, False, False])).any()


def test_nan_is_not_hidden_by_the_scale():
    out = scale_advantages(torch.tensor([1.0, math.nan, 2.0]), torch.ones(3, dtype=torch.bool))
    assert out.isnan().any()


# ---- returns


def test_score_lands_on_the_last_real_token():
    scores = torch.tensor([1.0, 2.0, 3.0, 4.0])
    rewards = token_rewards(scores, noise(4, 6), MASK, beta=0.0)
    for row, length in enumerate(LENGTHS):
        assert rewards[row, length - 1] == scores[row]
    assert rewards.count_nonzero() == 4


def test_kl_is_charged_at_every_real_token():
    k1 = noise(4, 6)
    rewards = token_rewards(torch.zeros(4), k1, MASK, beta=0.5)
    torch.testing.assert_close(rewards, -0.5 * k1 * MASK)


def test_joke_without_a_token_has_no_place_for_its_score():
    with pytest.raises(ValueError, match="without a token"):
        token_rewards(torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 2).bool(), beta=0.0)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.99, 0.0), (1.0, 1.0)])
def test_gae_equals_that_of_stable_baselines3(gamma, lam):
    rewards, values = noise(4, 6), noise(4, 6, seed=1)
    ours = gae(rewards, values, MASK, gamma=gamma, lam=lam)
    for row, length in enumerate(LENGTHS):
        box = spaces.Box(-1, 1, (1,))
        buffer = RolloutBuffer(length, box, box, gamma=gamma, gae_lambda=lam)
        for t in range(length):
            buffer.add(
                np.zeros(1),
                np.zeros(1),
                rewards[row, t : t + 1].numpy(),
                np.array([t == 0]),
                values[row, t : t + 1],
                torch.zeros(1),
            )
        buffer.compute_returns_and_advantage(torch.zeros(1), dones=np.array([True]))
        for mine, theirs in ((ours.advantages, buffer.advantages), (ours.returns, buffer.returns)):
            np.testing.assert_allclose(mine[row, :length], theirs[:, 0], atol=1e-5)


def test_lambda_one_is_return_minus_value():
    rewards, values = noise(4, 6) * MASK, noise(4, 6, seed=1)
    result = gae(rewards, values, MASK, gamma=1.0, lam=1.0)
    to_go = rewards.flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(result.advantages, (to_go - values) * MASK)
    torch.testing.assert_close(result.returns, to_go * MASK)


def test_nothing_off_the_mask_changes_gae():
    rewards, values = noise(4, 6), noise(4, 6, seed=1)
    result = gae(rewards, values, MASK, gamma=0.9, lam=0.8)
    junk = torch.where(MASK, 0.0, 1e6)
    other = gae(rewards + junk, values + junk, MASK, gamma=0.9, lam=0.8)
    assert torch.equal(result.advantages, other.advantages)
    assert torch.equal(result.returns, other.returns)
    assert not result.advantages[~MASK].any()


def test_whitened_has_mean_0_and_variance_1_over_real_tokens():
    out = whiten(3 + 5 * noise(4, 6), MASK)
    assert float(masked_mean(out, MASK)) == pytest.approx(0, abs=1e-6)
    assert float(masked_mean(out**2, MASK)) == pytest.approx(1, abs=1e-5)
    assert not out[~MASK].any()


def test_mean_of_nothing_is_0():
    assert float(masked_mean(torch.ones(2), torch.zeros(2, dtype=torch.bool))) == 0


# ---- losses


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, 0),
        (1.1, 2.0, -2.2, 0),
        (1.5, 2.0, -2.4, 1),  # no more gain above 1 + clip
        (0.5, 2.0, -1.0, 0),
        (0.5, -2.0, 1.6, 1),  # no more gain below 1 - clip
        (1.5, -2.0, 3.0, 0),
    ],
)
def test_clipped_objective_in_closed_form(ratio, advantage, loss, clipped):
    now = torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True)
    terms = policy_loss(
        now, torch.tensor([[-1.0]]), torch.tensor([[advantage]]), torch.tensor([[True]]), clip=0.2
    )
    assert float(terms.loss.detach()) == pytest.approx(loss, rel=1e-5)
    assert int(terms.clipped) == clipped
    assert float(terms.approx_kl) == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-6)
    terms.loss.backward()
    assert float(now.grad) == pytest.approx(0 if clipped else loss, rel=1e-5)


def test_policy_gradient_at_ratio_one_is_minus_the_advantage():
    logps = noise(4, 6).requires_grad_()
    advantages = noise(4, 6, seed=1)
    policy_loss(logps, logps.detach(), advantages, MASK, clip=0.2).loss.backward()
    torch.testing.assert_close(logps.grad, -advantages * MASK)


def test_parts_of_a_batch_add_up_to_its_loss():
    now, old, advantages = noise(4, 6), noise(4, 6, seed=1), noise(4, 6, seed=2)
    whole = policy_loss(now, old, advantages, MASK, clip=0.2)
    parts = [
        policy_loss(now[i], old[i], advantages[i], MASK[i], clip=0.2)
        for i in (slice(0, 1), slice(1, 4))
    ]
    for one, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(one.float(), sum(pieces).float())


def test_nan_off_the_mask_does_not_reach_the_loss():
    junk = torch.where(MASK, 0.0, math.nan)
    terms = policy_loss(
        noise(4, 6) + junk, noise(4, 6, seed=1), noise(4, 6, seed=2), MASK, clip=0.2
    )
    assert torch.isfinite(terms.loss)


def test_policy_loss_refuses_shapes_and_clips_that_cannot_be():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="one shape"):
        policy_loss(x, x[:1], x, x.bool(), clip=0.2)
    with pytest.raises(ValueError, match="clip > 0, got 0"):
        policy_loss(x, x, x, x.bool(), clip=0)


@pytest.mark.parametrize(
    ("value", "loss"),
    [
        (0.1, 0.5 * 0.9**2),  # near the old value: the plain error
        (0.9, 0.5 * 0.8**2),  # moved too far: as if at old + clip
        (-1.0, 0.5 * 2.0**2),  # moved the wrong way: the larger error
    ],
)
def test_value_loss_in_closed_form(value, loss):
    one = torch.tensor([[True]])
    out = value_loss(
        torch.tensor([[value]]), torch.tensor([[0.0]]), torch.tensor([[1.0]]), one, clip=0.2
    )
    assert float(out) == pytest.approx(loss)


def test_explained_variance_of_perfect_constant_and_opposite_values():
    returns = noise(4, 6)
    assert explained_variance(returns, returns, MASK) == pytest.approx(1)
    assert explained_variance(torch.zeros(4, 6), returns, MASK) == pytest.approx(0, abs=1e-6)
    assert explained_variance(-returns, returns, MASK) == pytest.approx(-3, rel=1e-4)
    assert explained_variance(returns, torch.ones(4, 6), MASK) == 0


# ---- KL coefficient


def test_fixed_coefficient_stays():
    assert KLController(0.1, None, 100).after(99.0, 64).beta == 0.1


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(0.1, 1.0), (0.11, 1 + 0.1 * 0.064), (9.0, 1 + 0.2 * 0.064), (0.0, 1 - 0.2 * 0.064)],
)
def test_adaptive_coefficient_follows_the_error_within_a_fifth(kl, factor):
    assert KLController(0.5, 0.1, 1000).after(kl, 64).beta == pytest.approx(0.5 * factor)


def test_a_batch_above_the_horizon_moves_the_coefficient_by_a_fifth():
    """And not by more: eight horizons in one batch would make a price a reward."""
    assert KLController(0.5, 0.1, 100).after(0.0, 800).beta == pytest.approx(0.4)
    assert KLController(0.5, 0.1, 100).after(9.0, 800).beta == pytest.approx(0.6)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.02, 0.5))
def test_adaptive_coefficient_settles_where_kl_meets_its_target(target):
    controller = KLController(1.0, target, horizon=64)
    for _ in range(300):
        controller = controller.after(0.2 / (controller.beta + 0.1), 64)
    assert 0.2 / (controller.beta + 0.1) == pytest.approx(target, rel=0.05)
