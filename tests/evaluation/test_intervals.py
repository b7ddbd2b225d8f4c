import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.intervals import (
    mean_interval,
    mean_over_seeds,
    numbers,
    paired_difference,
    prompt_means,
    ratio_interval,
    standard_error,
    statistic_interval,
)


def rng():
    return np.random.default_rng(0)


def test_a_constant_has_no_width():
    interval = mean_interval([3.0] * 10, rng())
    assert interval == (3.0, 3.0, 3.0, 0.0, 10, 0)


def test_none_is_left_out_and_counted_never_zero():
    interval = mean_interval([4.0, None, 4.0, None], rng())
    assert (interval.value, interval.low, interval.prompts, interval.missing) == (4.0, 4.0, 2, 2)


def test_no_verdict_at_all_is_none():
    assert mean_interval([None, None], rng()) is None
    assert mean_interval([], rng()) is None
    assert paired_difference([1.0, None], [None, 1.0], rng()) is None


def test_interval_has_the_width_of_the_normal_approximation():
    values = np.random.default_rng(1).normal(size=400)
    interval = mean_interval(values, rng())
    assert interval.error == pytest.approx(standard_error(values), rel=0.05)
    width = 2 * 1.96 * standard_error(values)
    assert interval.high - interval.low == pytest.approx(width, rel=0.05)


def test_intervals_cover_the_truth_as_often_as_they_say():
    draws, random = np.random.default_rng(2), np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        interval = mean_interval(draws.normal(size=60), random, resamples=300)
        hits += interval.low <= 0 <= interval.high
    assert 0.89 <= hits / 200 <= 0.99


def test_clusters_not_jokes_set_the_width():
    # Ten jokes of a prompt that say the same are one observation, not ten.
    per_prompt = np.random.default_rng(4).normal(size=50)
    once = mean_interval(per_prompt, rng())
    tenfold = ratio_interval(per_prompt * 10, np.full(50, 10.0), rng())
    assert tenfold[:4] == pytest.approx(once[:4])


def test_same_generator_state_same_interval():
    values = np.random.default_rng(5).normal(size=30)
    assert mean_interval(values, rng()) == mean_interval(values, rng())


def test_ratio_pools_by_weight():
    assert ratio_interval([1.0, 9.0], [1.0, 19.0], rng()).value == 0.5


def test_chunked_resamples_are_the_same_kind(monkeypatch):
    monkeypatch.setattr("evaluation.intervals._CHUNK", 90)
    interval = mean_interval(np.random.default_rng(1).normal(size=40), rng(), resamples=500)
    assert interval.error == pytest.approx(1 / math.sqrt(40), rel=0.25)


def test_paired_error_is_the_closed_form():
    a, b = [1.0, 2.0, 4.0, None], [0.0, 2.0, 1.0, 5.0]
    interval = paired_difference(a, b, rng())
    assert interval.value == pytest.approx(4 / 3)
    assert interval.error == pytest.approx(np.std([1, 0, 3], ddof=1) / math.sqrt(3))
    assert (interval.prompts, interval.missing) == (3, 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20), st.integers(0, 99))
def test_paired_difference_changes_sign_with_its_sides(values, seed):
    b = list(np.random.default_rng(seed).normal(size=len(values)))
    one = paired_difference(values, b, np.random.default_rng(seed), resamples=50)
    two = paired_difference(b, values, np.random.default_rng(seed), resamples=50)
    assert one.value == pytest.approx(-two.value)
    assert one.low == pytest.approx(-two.high)


def test_shared_noise_cancels_in_pairs():
    hard = np.random.default_rng(6).normal(size=100) * 5
    interval = paired_difference(hard + 0.1, hard, rng())
    assert interval.low == pytest.approx(0.1)
    assert interval.high == pytest.approx(0.1)


def test_statistic_interval_of_a_mean_is_the_mean_interval():
    values = np.random.default_rng(7).normal(size=40)
    general = statistic_interval(lambda i: float(values[i].mean()), 40, rng())
    assert general[:4] == pytest.approx(mean_interval(values, rng())[:4])


def test_statistic_undefined_everywhere_is_none():
    assert statistic_interval(lambda i: math.nan, 5, rng(), resamples=10) is None
    assert statistic_interval(lambda i: 1.0, 0, rng(), resamples=10) is None


def test_standard_error():
    assert standard_error([1.0, 3.0]) == pytest.approx(1.0)
    assert standard_error([1.0, None]) == 0.0


def test_prompt_means_ignore_the_unscored():
    assert prompt_means([[1.0, None, 3.0], [None], []]) == [2.0, None, None]


def test_seeds_are_averaged_inside_prompts():
    one = np.random.default_rng(8).normal(size=30)
    assert mean_over_seeds([one, one], rng()) == mean_interval(one, rng())
    opposite = mean_over_seeds([one, -one], rng())
    assert opposite[:3] == pytest.approx((0, 0, 0), abs=1e-12)
    assert mean_over_seeds([[1.0, None], [3.0, None]], rng())[:1] == (2.0,)
    with pytest.raises(ValueError, match=r"\[1, 2\] prompts"):
        mean_over_seeds([[1.0], [1.0, 2.0]], rng())


def test_bad_input_names_the_value():
    with pytest.raises(ValueError, match="value 1 is infinite"):
        numbers([1.0, math.inf])
    with pytest.raises(ValueError, match="2 numerators and 1 denominators"):
        ratio_interval([1.0, 2.0], [1.0], rng())
    with pytest.raises(ValueError, match="denominator is negative"):
        ratio_interval([1.0], [-1.0], rng())
    with pytest.raises(ValueError, match="level is 1"):
        mean_interval([1.0], rng(), level=1.0)
    with pytest.raises(ValueError, match="resamples is 1"):
        mean_interval([1.0], rng(), resamples=1)
    with pytest.raises(ValueError, match="2 values a and 1 values b"):
        paired_difference([1.0, 2.0], [1.0], rng())
