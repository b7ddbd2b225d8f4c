import math

import numpy as np
import pytest

from evaluation.length_control import clustered_errors, fit_soft_logistic, length_controlled


def pairs(seed, *, prompts=200, per_prompt=2, theta=0.4, phi=0.8, shift=2.0, soft=False):
    """Verdicts of a judge with known theta and phi on jokes of known lengths."""
    rng = np.random.default_rng(seed)
    n = prompts * per_prompt
    b = rng.integers(5, 25, n)
    a = np.maximum(b + np.round(rng.normal(shift, 5, n)), 0)
    ids = np.repeat(np.arange(prompts), per_prompt)
    x = np.tanh((a - b) / np.std(a - b, ddof=1))
    p = 1 / (1 + np.exp(-(theta + phi * x)))
    return (p if soft else (rng.random(n) < p).astype(float)), a, b, ids


def test_theta_and_phi_of_a_known_judge_lie_in_their_intervals():
    truths = [(0.0, 0.0), (0.4, 0.8), (-0.5, 1.5), (0.6, -1.0)]
    covered = {"theta": 0, "phi": 0, "rate": 0}
    for theta, phi in truths:
        for seed in range(25):
            result = length_controlled(*pairs(seed, theta=theta, phi=phi))
            covered["theta"] += result.theta.low <= theta <= result.theta.high
            covered["phi"] += result.phi.low <= phi <= result.phi.high
            truth = 1 / (1 + math.exp(-theta))
            covered["rate"] += result.rate.low <= truth <= result.rate.high
    assert min(covered.values()) >= 90  # of 100; 95 are expected
    assert max(covered.values()) <= 99  # an interval that always covers is too wide


def test_soft_verdicts_give_theta_and_phi_back():
    y, a, b, ids = pairs(0, per_prompt=1, theta=-0.3, phi=1.2, soft=True)
    result = length_controlled(y, a, b, ids)
    assert result.theta.value == pytest.approx(-0.3, abs=1e-4)
    assert result.phi.value == pytest.approx(1.2, abs=1e-4)


def test_a_judge_that_does_not_look_at_length_keeps_its_raw_rate():
    rng = np.random.default_rng(1)
    y = np.repeat(rng.integers(0, 2, 60), 2).astype(float)
    gap = rng.integers(1, 9, 60)
    a = 20 + np.stack([gap, -gap], axis=1).ravel()  # each verdict once longer, once shorter
    result = length_controlled(y, a, np.full(120, 20), np.repeat(np.arange(60), 2))
    assert result.phi.value == pytest.approx(0, abs=1e-9)
    assert result.rate.value == pytest.approx(result.raw.value, abs=1e-5)
    flat = length_controlled(np.full(50, 0.7), np.arange(50), np.full(50, 25), range(50))
    assert flat.rate.value == pytest.approx(0.7, abs=1e-5) == flat.raw.value
    assert flat.remarks == ()


def test_equal_lengths_give_the_raw_rate():
    y = [1.0, 0.0, 1.0, 0.5] * 10
    result = length_controlled(y, [7] * 40, [7] * 40, range(40))
    assert result.rate.value == pytest.approx(25 / 40, abs=1e-5)
    assert result.phi.value == 0
    assert result.rate.error == pytest.approx(result.raw.error, rel=1e-3)  # the delta method


@pytest.mark.parametrize("seed", range(5))
def test_both_sides_sum_to_one(seed):
    y, a, b, ids = pairs(seed)
    one, two = length_controlled(y, a, b, ids), length_controlled(1 - y, b, a, ids)
    assert one.rate.value + two.rate.value == pytest.approx(1, abs=1e-12)
    assert one.rate.low + two.rate.high == pytest.approx(1, abs=1e-12)
    assert one.theta.value == pytest.approx(-two.theta.value, abs=1e-12)
    assert one.phi.value == pytest.approx(two.phi.value, abs=1e-12)  # a judge's, not a side's


def test_a_judge_that_pays_for_length_has_a_positive_phi_and_a_lower_rate_for_the_longer_side():
    result = length_controlled(*pairs(0, theta=0.0, phi=2.0, shift=6.0))
    assert result.phi.low > 0
    assert result.raw.value > 0.6
    assert result.rate.low < 0.5 < result.rate.high
    assert "from 7" in result.remarks[0]
    assert len(result.remarks) == 1


def test_the_unit_of_length_does_not_matter():
    y, a, b, ids = pairs(0)
    words, characters = length_controlled(y, a, b, ids), length_controlled(y, 6 * a, 6 * b, ids)
    assert characters.rate == pytest.approx(words.rate)
    assert characters.length_sd == pytest.approx(6 * words.length_sd)


def test_repeating_every_pair_of_a_prompt_adds_no_evidence():
    y, a, b, ids = pairs(3, per_prompt=1)
    once = length_controlled(y, a, b, ids)
    thrice = length_controlled(*(np.repeat(v, 3) for v in (y, a, b, ids)))
    for name in ("rate", "raw", "theta", "phi"):
        assert getattr(thrice, name) == pytest.approx(getattr(once, name), rel=1e-6)


def test_prompts_weigh_alike_and_one_pair_a_prompt_has_pandas_sd():
    y, a, b, ids = pairs(4, per_prompt=1)
    assert length_controlled(y, a, b, ids).length_sd == pytest.approx(np.std(a - b, ddof=1))
    times = np.where(np.arange(len(y)) == 0, 50, 1)
    heavy = length_controlled(*(np.repeat(v, times) for v in (y, a, b, ids)))
    assert heavy.raw.value == pytest.approx(y.mean())


def test_verdicts_that_are_missing_are_left_out_and_counted():
    y, a, b, ids = pairs(5)
    some = [None if i % 4 == 0 else v for i, v in enumerate(y)]
    some[1] = None  # prompt 0 has none left
    keep = [v is not None for v in some]
    result = length_controlled(some, a, b, ids)
    alone = length_controlled(y[keep], a[keep], b[keep], ids[keep])
    assert result.rate == pytest.approx(alone.rate._replace(missing=1))
    assert (result.unscored, result.pairs) == (101, 299)


def test_ties_pull_to_even():
    y, a, b, ids = pairs(6, theta=1.0)
    tied = np.where(np.arange(len(y)) % 2, 0.5, y)
    assert (
        0.5 < length_controlled(tied, a, b, ids).rate.value < length_controlled(y, a, b, ids)[0][0]
    )
    even = length_controlled(np.full(len(y), 0.5), a, b, ids)
    assert even.rate[:3] == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize("verdict", [0.0, 1.0])
def test_one_sided_verdicts_stay_finite_and_are_remarked_upon(verdict):
    _, a, b, ids = pairs(7)
    result = length_controlled(np.full(len(a), verdict), a, b, ids)
    assert result.rate.value == pytest.approx(verdict, abs=1e-3)
    assert any("separated" in line for line in result.remarks)


def test_a_side_that_is_always_longer_is_remarked_upon():
    y, _, b, ids = pairs(8)
    result = length_controlled(y, b + 1 + np.arange(len(b)) % 7, b, ids)
    assert "a is longer in every pair" in result.remarks[-1]


def test_errors_of_one_pair_a_cluster_are_those_of_the_textbook():
    y = np.array([1.0, 1.0, 1.0, 0.0] * 10)
    x, weight = np.ones((40, 1)), np.ones(40)
    fitted = fit_soft_logistic(x, y, weight)
    assert fitted == pytest.approx([math.log(3)], abs=1e-4)
    (error,) = clustered_errors(x, y, weight, np.arange(40), fitted)
    assert error == pytest.approx(math.sqrt(40 / 39 / (40 * 0.75 * 0.25)), rel=1e-4)


def test_bad_input_names_the_value():
    y, a, b, ids = pairs(9, prompts=29)
    with pytest.raises(ValueError, match="needs 30 prompts, got 29"):
        length_controlled(y, a, b, ids)
    with pytest.raises(ValueError, match="needs 30 prompts, got 0"):
        length_controlled([None] * 40, [1] * 40, [1] * 40, range(40))
    y, a, b, ids = pairs(9)
    with pytest.raises(ValueError, match="all pairs have the length difference 2"):
        length_controlled(y, b + 2, b, ids)
    with pytest.raises(ValueError, match="verdict 1 is 2,"):
        length_controlled([0, 2], [1, 1], [1, 1], [0, 1])
    with pytest.raises(ValueError, match="length b of pair 0 is -1"):
        length_controlled([0], [1], [-1], [0])
    with pytest.raises(ValueError, match="length a of pair 0 is nan"):
        length_controlled([0], [None], [1], [0])
    with pytest.raises(ValueError, match="2 verdicts, 1 lengths a"):
        length_controlled([0, 1], [1], [1, 1], [0, 1])
    with pytest.raises(ValueError, match="level is 95"):
        length_controlled(y, a, b, ids, level=95)
