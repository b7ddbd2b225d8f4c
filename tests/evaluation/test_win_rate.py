import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.win_rate import (
    LOST,
    fit_tie_threshold,
    outcomes,
    sensitivity,
    smallest_detectable,
    win_rate,
)

score = st.one_of(st.none(), st.just(LOST), st.floats(0, 10).map(lambda x: round(x, 1)))
systems = st.lists(st.lists(score, min_size=1, max_size=4), min_size=1, max_size=6)


def rng():
    return np.random.default_rng(0)


@settings(max_examples=100, deadline=None)
@given(systems, st.floats(0, 3))
def test_a_system_against_itself_is_exactly_even(rows, tie):
    rate = win_rate(rows, rows, tie, rng())
    if rate is None:
        assert all(s is None for row in rows for s in row)
    else:
        assert rate.rate[:3] == (0.5, 0.5, 0.5)
        assert rate.win == rate.loss


@settings(max_examples=60, deadline=None)
@given(systems, st.integers(0, 99), st.floats(0, 3))
def test_sides_swapped_sum_to_one(rows, seed, tie):
    random = np.random.default_rng(seed)
    other = [list(random.normal(5, 2, size=3)) for _ in rows]
    one, two = outcomes(rows, other, tie), outcomes(other, rows, tie)
    assert (one.wins == two.losses).all()
    assert (one.ties == two.ties).all()
    for p, q in zip(one.rates(), two.rates(), strict=True):
        assert (p is None and q is None) or p + q == pytest.approx(1)


def test_all_cross_pairs_by_hand():
    result = outcomes([[3.0, 1.0]], [[2.0, 1.1, 0.0]], tie=0.2)
    assert (result.wins[0], result.ties[0], result.losses[0]) == (4, 1, 1)
    rate = win_rate([[3.0, 1.0]], [[2.0, 1.1, 0.0]], 0.2, rng())
    assert rate.rate.value == pytest.approx(4.5 / 6)
    assert rate.wtr.value == pytest.approx(5 / 6)
    assert rate.win + rate.tie + rate.loss == pytest.approx(1)


def test_a_difference_of_the_threshold_itself_ties():
    assert outcomes([[1.5]], [[1.0]], tie=0.5).ties[0] == 1
    assert outcomes([[1.5]], [[1.0]], tie=0.49).wins[0] == 1


def test_prompts_weigh_alike_however_many_jokes_they_have():
    a, b = [[9.0] * 10, [0.0]], [[1.0] * 10, [1.0]]
    assert win_rate(a, b, 0.0, rng()).rate.value == 0.5


def test_unscored_jokes_meet_nobody_and_are_counted():
    result = outcomes([[None, 2.0]], [[1.0, None, None]])
    assert (result.pairs[0], result.wins[0], result.unscored) == (1, 1, 3)
    assert outcomes([[None]], [[1.0]]).rates() == [None]
    assert win_rate([[None]], [[1.0]], 0.0, rng()) is None
    assert sensitivity([[None]], [[1.0]], 0.1) is None


def test_a_prompt_without_verdicts_is_missing_not_a_tie():
    rate = win_rate([[2.0], [None]], [[1.0], [1.0]], 0.0, rng())
    assert (rate.rate.value, rate.rate.prompts, rate.rate.missing) == (1.0, 1, 1)


def test_an_empty_joke_loses_to_any_and_ties_with_its_like():
    result = outcomes([[LOST], [LOST]], [[0.0], [LOST]], tie=100.0)
    assert list(result.losses) == [1, 0]
    assert list(result.ties) == [0, 1]


def test_ties_grow_with_the_threshold_and_pull_to_even():
    random = np.random.default_rng(1)
    a, b = random.normal(0.5, 1, size=(40, 4)).tolist(), random.normal(0, 1, size=(40, 4)).tolist()
    rates = sensitivity(a, b, 0.5)
    assert rates.none > rates.chosen > rates.double > 0.5
    assert rates.chosen == pytest.approx(win_rate(a, b, 0.5, rng()).rate.value)
    assert win_rate(a, b, 100.0, rng()).rate.value == 0.5


def test_smallest_detectable_difference_is_2_8_errors():
    assert smallest_detectable(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-5)


def test_fitted_threshold_gives_the_wanted_share_of_ties():
    random = np.random.default_rng(2)
    scores = random.normal(size=(200, 6)).tolist()
    tie = fit_tie_threshold(scores, 0.35)
    gaps = [abs(x - y) for row in scores for i, x in enumerate(row) for y in row[i + 1 :]]
    assert np.mean(np.array(gaps) <= tie) == pytest.approx(0.35, abs=1 / len(gaps))


def test_threshold_by_hand():
    assert fit_tie_threshold([[0.0, 1.0, 3.0]], 0.0) == 0.0
    assert fit_tie_threshold([[0.0, 1.0, 3.0]], 1 / 3) == 1.0
    assert fit_tie_threshold([[0.0, 1.0, 3.0]], 0.5) == 2.0
    assert fit_tie_threshold([[0.0, 1.0, 3.0], [None, LOST, 5.0]], 0.9) == 3.0


def test_bad_input_names_the_value():
    with pytest.raises(ValueError, match="1 prompts of a and 2 of b"):
        outcomes([[1.0]], [[1.0], [2.0]])
    with pytest.raises(ValueError, match=r"tie is -0\.1"):
        outcomes([[1.0]], [[1.0]], tie=-0.1)
    with pytest.raises(ValueError, match="score b of prompt 0 is NaN"):
        outcomes([[1.0]], [[math.nan]])
    with pytest.raises(ValueError, match="two scored jokes"):
        fit_tie_threshold([[1.0], [None, 2.0]], 0.3)
    with pytest.raises(ValueError, match="target_tie_share is 1"):
        fit_tie_threshold([[1.0, 2.0]], 1.0)
