import itertools
import math

import numpy as np
import pytest

from evaluation.contrasts import (
    BestOfN,
    Side,
    best_of_n,
    best_of_n_curve,
    contrast,
    holm,
    holm_adjusted,
    n_equivalent,
    over_seeds,
    sign_flip_p,
)


def rng():
    return np.random.default_rng(0)


def side(*seeds):
    """Each seed: one score a prompt."""
    return Side([[[x] for x in row] for row in seeds], list(seeds))


# ---- Holm


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_holm_lies_between_the_p_value_and_bonferroni_and_keeps_the_order():
    p = list(rng().random(20) ** 2)
    adjusted = holm(p)
    assert all(a <= b <= min(1, 20 * a) for a, b in zip(p, adjusted, strict=True))
    assert [x for _, x in sorted(zip(p, adjusted, strict=True))] == sorted(adjusted)


def test_a_missing_test_stays_missing_and_makes_no_other_easier():
    assert holm([0.01, None, 0.04]) == [pytest.approx(0.03), None, pytest.approx(0.08)]
    assert holm([]) == []


def test_p_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"p is 1\.5, must lie in 0\.\.1"):
        holm([0.1, 1.5])


# ---- signs


def test_signs_are_counted_exactly_where_they_are_few():
    assert sign_flip_p([1, 1, 1, 1, 1], rng()) == pytest.approx(2 / 32)
    assert sign_flip_p([1, -1], rng()) == 1.0
    assert sign_flip_p([3.0], rng()) == 1.0  # one cluster tells nothing
    assert sign_flip_p([0.0] * 4, rng()) == 1.0
    assert sign_flip_p([None, 1, 1], rng()) == pytest.approx(0.5)
    assert sign_flip_p([None], rng()) is None


def test_random_signs_agree_with_exact_ones():
    values = rng().normal(0.3, 1, 12)
    exact = sign_flip_p(values, rng(), flips=5000)
    assert sign_flip_p(values, rng(), flips=4000) == pytest.approx(exact, abs=0.03)


def test_no_p_value_is_zero():
    assert sign_flip_p([1.0] * 40, rng(), flips=99) == pytest.approx(1 / 100)


# ---- contrasts


def test_a_method_against_itself_is_even():
    method = side([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    found = contrast("a against a", method, method, 0.0, rng())
    assert found.win.value == 0.5
    assert found.difference.value == 0.0
    assert (found.p, found.verdict) == (1.0, "open")


def test_every_seed_meets_every_seed_and_each_is_shown():
    a, b = side([2.0, 2.0], [0.0, 2.0]), side([1.0, 1.0])
    found = contrast("x", a, b, 0.0, rng())
    assert found.win.value == pytest.approx(3 / 4)
    assert found.by_seed == (1.0, 0.5)
    assert found.difference.value == pytest.approx(0.5)
    turned = contrast("x", b, a, 0.0, rng())
    assert turned.win.value == pytest.approx(1 / 4)
    assert turned.p == found.p


def test_prompts_are_the_clusters_however_many_seeds_there_are():
    gaps = rng().normal(0.2, 1, 30).tolist()
    start = side([0.0] * 30)
    one, many = (contrast("x", side(*[gaps] * n), start, 0.0, rng()) for n in (1, 5))
    assert (one.win, one.p) == (many.win, many.p)
    assert one.difference == pytest.approx(many.difference)


def test_a_clear_difference_is_found_and_named_by_its_direction():
    a, b = side([2.0] * 12), side([1.0] * 12)
    assert contrast("x", a, b, 0.5, rng()).verdict == "better"
    assert contrast("x", b, a, 0.5, rng()).verdict == "worse"
    assert contrast("x", a, b, 2.0, rng()).verdict == "open"  # all tie


def test_a_prompt_without_a_verdict_is_missing_not_a_tie():
    found = contrast("x", side([2.0, None]), side([1.0, 1.0]), 0.0, rng())
    assert (found.win.value, found.win.prompts, found.win.missing) == (1.0, 1, 1)
    nothing = contrast("x", side([None]), side([1.0]), 0.0, rng())
    assert (nothing.win, nothing.p, nothing.verdict) == (None, None, "no verdict")


def test_holm_is_put_into_contrasts():
    clear = contrast("x", side([2.0] * 12), side([1.0] * 12), 0.0, rng())
    adjusted = holm_adjusted([clear, clear])
    assert [c.adjusted for c in adjusted] == [2 * clear.p] * 2
    assert [c.p for c in adjusted] == [clear.p] * 2


def test_sides_of_other_prompts_are_refused():
    with pytest.raises(ValueError, match=r"a against b: .* on \[1, 2\] prompts"):
        contrast("a against b", side([1.0, 2.0]), side([1.0]), 0.0, rng())
    with pytest.raises(ValueError, match="0 and 1 seeds"):
        contrast("a against b", side(), side([1.0]), 0.0, rng())


def test_means_over_seeds_leave_out_what_is_missing():
    assert over_seeds([[1.0, None, None], [3.0, 4.0, None]]) == [2.0, 4.0, None]


# ---- best of N


def test_best_of_n_is_the_mean_over_all_draws():
    random = rng()
    picking, reported = random.normal(size=6).tolist(), random.normal(size=6).tolist()
    for n in range(1, 7):
        draws = [
            reported[max(drawn, key=picking.__getitem__)]
            for drawn in itertools.combinations(range(6), n)
        ]
        assert best_of_n(picking, reported, [n])[0] == pytest.approx(np.mean(draws))


def test_one_line_is_the_mean_and_all_lines_the_pick():
    assert best_of_n([3, 1, 2], [10, 20, 60], [1, 3]) == pytest.approx([30, 10])


def test_uniform_scores_give_the_known_order_statistic():
    values = [float(i) for i in range(1, 65)]  # the maximum of N of M numbers: N (M + 1) / (N + 1)
    found = best_of_n(values, values, [1, 4, 16, 64])
    assert found == pytest.approx([n * 65 / (n + 1) for n in (1, 4, 16, 64)])


def test_lines_that_tie_share_their_weight():
    assert best_of_n([5, 5, 0], [10, 20, 0], [3]) == pytest.approx([15])
    assert best_of_n([1, 1, 1], [0, 3, 6], [1, 2, 3]) == pytest.approx([3, 3, 3])


def test_a_line_without_a_picking_score_is_taken_only_where_nothing_else_is_drawn():
    assert best_of_n([None, 1.0], [50, 2], [2]) == pytest.approx([2])
    assert best_of_n([None, 1.0], [50, 2], [1]) == pytest.approx([26])
    assert best_of_n([None, -math.inf], [50, 2], [2]) == pytest.approx([26])


def test_a_missing_report_rating_is_left_out_and_never_a_number():
    assert best_of_n([1, 2], [4.0, None], [1, 2]) == [pytest.approx(4.0), None]
    assert best_of_n([1, 2, 3], [4.0, None, 7.0], [1]) == pytest.approx([5.5])


def test_sizes_outside_the_pool_are_refused():
    with pytest.raises(ValueError, match=r"N is 3, must lie in 1\.\.2"):
        best_of_n([1, 2], [1, 2], [3])
    with pytest.raises(ValueError, match="2 picking scores and 1 ratings"):
        best_of_n([1, 2], [1], [1])
    with pytest.raises(ValueError, match="is NaN"):
        best_of_n([math.nan], [1], [1])
    with pytest.raises(ValueError, match="0 and 0 prompts"):
        best_of_n_curve([], [])


def test_a_critic_that_knows_lifts_the_curve_and_one_that_does_not_leaves_it_flat():
    random = rng()
    truth = random.normal(size=(40, 16))
    knows = best_of_n_curve(truth.tolist(), truth.tolist()).means
    guesses = best_of_n_curve(random.normal(size=(40, 16)).tolist(), truth.tolist()).means
    assert (np.diff(knows) > 0).all()
    assert abs(guesses[-1] - guesses[0]) < 0.5 < knows[-1] - knows[0]


# ---- N-equivalent


def flat_curve(means, prompts=20):
    return BestOfN(tuple(range(1, len(means) + 1)), np.tile(means, (prompts, 1)))


def test_a_point_of_the_curve_is_its_own_equivalent():
    curve = flat_curve([1.0, 2.0, 2.5, 3.0])
    for n in curve.sizes:
        found = n_equivalent([curve.means[n - 1]] * 20, curve, rng(), resamples=20)
        assert found == pytest.approx((n, n, n))


def test_between_two_points_it_is_linear_in_log_n():
    found = n_equivalent([1.5] * 20, flat_curve([1.0, 2.0]), rng(), resamples=20)
    assert found.value == pytest.approx(2**0.5)


def test_beyond_the_ends_it_says_so():
    curve = flat_curve([1.0, 2.0])
    assert n_equivalent([0.0] * 20, curve, rng(), resamples=20) == (1, 1, 1)
    assert n_equivalent([9.0] * 20, curve, rng(), resamples=20) == (math.inf,) * 3


def test_prompts_without_a_figure_do_not_count():
    curve = BestOfN((1, 2), np.array([[1.0, 2.0], [np.nan, 5.0], [1.0, 2.0]]))
    assert curve.means == pytest.approx([1.0, 2.0])
    found = n_equivalent([2.0, 0.0, 2.0], curve, rng(), resamples=20)
    assert found.value == 2
    assert n_equivalent([None, 1.0, None], curve, rng(), resamples=20) is None
    with pytest.raises(ValueError, match="1 ratings for a curve of 3 prompts"):
        n_equivalent([1.0], curve, rng())


def test_its_interval_is_wider_than_a_point_when_prompts_differ():
    ratings = rng().normal(2.0, 1.0, 60).tolist()
    noise = rng().normal(0, 1, (60, 1))
    curve = BestOfN((1, 2, 3, 4), np.array([1.0, 1.8, 2.2, 2.5]) + noise)
    found = n_equivalent(ratings, curve, rng(), resamples=200)
    assert 1 <= found.low <= found.value <= found.high
    assert found.low < found.high
