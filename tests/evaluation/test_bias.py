import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.bias import (
    accuracy_table,
    pair_accuracy,
    pair_counts,
    pick_best,
    source_order,
    spearman_interval,
    within_prompt_slopes,
)


def rng():
    return np.random.default_rng(0)


def jokes(n_prompts=60, k=5, seed=0):
    """Labels 0-8 in whole points, prompt ids, and a generator for whatever a test adds."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 9, size=n_prompts * k).astype(float)
    return label, np.repeat(np.arange(n_prompts), k), random


def test_labels_order_themselves():
    label, prompt, _ = jokes()
    result = pair_accuracy(label, label, prompt, rng())
    assert result.interval[:3] == (1.0, 1.0, 1.0)


def test_reversed_labels_never_do():
    label, prompt, _ = jokes()
    assert pair_accuracy(-label, label, prompt, rng()).interval.value == 0.0


def test_a_critic_that_says_the_same_of_all_gets_half():
    label, prompt, _ = jokes()
    result = pair_accuracy(np.zeros(label.size), label, prompt, rng())
    assert result.interval[:3] == (0.5, 0.5, 0.5)


def test_hand_counted_pairs():
    label, score = [1.0, 2.0, 4.0, 4.0], [0.0, 1.0, 0.5, 2.0]
    counts = pair_counts(score, label, [7, 7, 7, 7])
    assert (counts.right[0], counts.total[0]) == (4.0, 5.0)
    assert pair_counts(score, label, [7] * 4, gap=2).total[0] == 4
    assert pair_counts(score, label, [7] * 4, gap=3).total[0] == 2
    assert pair_counts(score, label, [7] * 4, worse=2).total[0] == 2
    assert pair_counts(score, label, [7] * 4, better=4).total[0] == 4
    assert pair_counts(score, label, [7] * 4, keep=[True, False, True, False]).total[0] == 1


def test_jokes_of_different_prompts_are_never_compared():
    assert pair_counts([1.0, 2.0], [0.0, 5.0], ["a", "b"]).total.sum() == 0
    assert pair_accuracy([1.0, 2.0], [0.0, 5.0], ["a", "b"], rng()).interval is None


def test_a_gap_of_one_point_survives_rounding_of_mean_ratings():
    third = 1 / 3
    assert pair_counts([1.0, 0.0], [1 + third, third], [0, 0]).total[0] == 1


def test_unscored_jokes_are_left_out_and_counted():
    result = pair_accuracy([None, 1.0, 2.0], [9.0, 1.0, 5.0], [0, 0, 0], rng())
    assert (result.interval.value, result.pairs, result.unscored) == (1.0, 1, 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_only_the_order_of_scores_counts(seed):
    label, prompt, random = jokes(8, 4, seed)
    score = random.normal(size=label.size)
    one, two = pair_counts(score, label, prompt), pair_counts(np.exp(3 * score), label, prompt)
    assert (one.right == two.right).all()
    flipped = pair_counts(-score, label, prompt)
    assert one.right + flipped.right == pytest.approx(one.total)


def test_difference_to_itself_is_nought_and_to_noise_is_not():
    label, prompt, random = jokes()
    score = label + random.normal(size=label.size)
    noise = random.normal(size=label.size)
    assert pair_accuracy(score, label, prompt, rng(), baseline=score).over_baseline[:3] == (0, 0, 0)
    over = pair_accuracy(score, label, prompt, rng(), baseline=noise).over_baseline
    own, other = (pair_accuracy(s, label, prompt, rng()).interval.value for s in (score, noise))
    assert over.value == pytest.approx(own - other)
    assert over.low > 0


def test_a_baseline_is_compared_on_the_jokes_both_scored():
    label, score = [0.0, 2.0, 4.0], [0.0, 2.0, 1.0]
    result = pair_accuracy(score, label, [0] * 3, rng(), baseline=[0.0, None, 1.0])
    assert (result.pairs, result.interval.value, result.over_baseline.value) == (1, 1.0, 0.0)


def test_table_has_the_pairs_that_are_reported():
    label, prompt, random = jokes()
    fact = (random.random(label.size) < 0.5).astype(float)
    table = accuracy_table(label, label, prompt, rng(), fact=fact)
    assert list(table) == [
        "1+ points",
        "2+ points",
        "both >= 2",
        "better >= 4",
        "both keep fact",
    ]
    for name in list(table)[1:]:
        assert 0 < table[name].pairs < table["1+ points"].pairs
        assert table[name].interval.value == 1.0


def test_slope_inside_prompts_is_recovered_whatever_lies_between_them():
    _, prompt, random = jokes()
    length = random.normal(size=prompt.size) + prompt  # long prompts have long jokes
    value = 0.7 * length - 5.0 * prompt  # and low ratings: the plain slope is negative
    slope = within_prompt_slopes(value, {"length": length}, prompt, rng())["length"]
    assert slope.slope.value == pytest.approx(0.7)
    assert slope.slope.error == pytest.approx(0.0, abs=1e-9)
    assert slope.correlation == pytest.approx(1.0)


def test_slope_of_a_covariate_that_does_not_vary_is_none():
    label, prompt, _ = jokes(5)
    slope = within_prompt_slopes(label, {"constant": np.ones(label.size)}, prompt, rng())
    assert slope["constant"].slope is None
    assert math.isnan(slope["constant"].correlation)


def test_slope_of_noise_includes_nought_as_often_as_it_should():
    _, prompt, random = jokes()
    hits = 0
    for _ in range(60):
        x, y = random.normal(size=(2, prompt.size))
        slope = within_prompt_slopes(y, {"x": x}, prompt, random, resamples=200)["x"].slope
        hits += slope.low < 0 < slope.high
    assert hits >= 51


def test_sources_in_the_same_order_correlate_fully():
    score = [0.1, 0.3, 1.0, 1.2, 5.0, None]
    order = source_order(score, [0, 0, 2, 2, 4, 9], ["bad", "bad", "copy", "copy", "good", "good"])
    assert order.spearman == pytest.approx(1.0)
    assert order.means["bad"] == (pytest.approx(0.2), 0.0, 2)
    assert order.means["good"] == (5.0, 4.0, 1)
    assert math.isnan(source_order([1, 2], [1, 2], ["a", "b"]).spearman)


def test_picking_by_the_label_is_the_ceiling_and_by_nothing_is_chance():
    label, prompt, _ = jokes()
    best = pick_best(label, label, prompt)
    assert (best.mean, best.amusing) == (best.ceiling, best.ceiling_amusing)
    nothing = pick_best(np.zeros(label.size), label, prompt)
    assert nothing.mean == pytest.approx(nothing.chance)
    assert nothing.amusing == pytest.approx(nothing.chance_amusing)
    assert pick_best(-label, label, prompt).mean < nothing.mean


def test_pick_by_hand():
    best = pick_best([1, 2, 2, 9, None], [0, 4, 2, 7, 9], [0, 0, 0, 1, 1])
    assert best == (3.0, 0.5, 2.0, pytest.approx(1 / 3), 4.0, 1.0, 1)
    with pytest.raises(ValueError, match="no prompt has two"):
        pick_best([1.0], [1.0], [0])


def test_rank_correlation_interval_holds_its_value():
    label, prompt, random = jokes()
    interval = spearman_interval(label + random.normal(size=label.size), label, prompt, rng())
    assert interval.low < interval.value < interval.high < 1


def test_bad_input_names_the_value():
    with pytest.raises(ValueError, match="gap is 0"):
        pair_counts([1.0], [1.0], [0], gap=0)
    with pytest.raises(ValueError, match="1 and 2 values, 1 prompt ids"):
        pair_counts([1.0], [1.0, 2.0], [0])
    with pytest.raises(ValueError, match="mask has shape"):
        pair_counts([1.0], [1.0], [0], keep=[True, False])
    with pytest.raises(ValueError, match="baseline has 1 scores"):
        pair_accuracy([1.0, 2.0], [1.0, 2.0], [0, 0], rng(), baseline=[1.0])
