import math

import numpy as np
import pytest

from evaluation.matches import (
    best_of_n_kl,
    halves,
    judge_match,
    match_length_controlled,
    match_rate,
    over_optimisation,
    score_match,
)
from evaluation.win_rate import win_rate
from rewards.types import Unfinished


def rng():
    return np.random.default_rng(0)


def lines(n, k, word="x"):
    return [[f"{word} {p} {j}" for j in range(k)] for p in range(n)]


def test_scores_give_the_win_rate_of_win_rate():
    draws = rng()
    a, b = draws.normal(size=(12, 3)).tolist(), draws.normal(size=(12, 2)).tolist()
    match = score_match(lines(12, 3), lines(12, 2), a, b, 0.2)
    found, expected = match_rate(match, rng()), win_rate(a, b, 0.2, rng())
    assert found.rate.value == expected.rate.value
    assert (found.win, found.tie, found.loss) == (expected.win, expected.tie, expected.loss)
    assert [sum(v) / len(v) for v in match.verdicts] == pytest.approx(match.outcomes.rates())


def test_both_sides_sum_to_one():
    a, b = [[1.0, None], [0.0]], [[0.5], [0.0, 2.0]]
    one = score_match([["x", "y"], ["z"]], [["u"], ["v", "w"]], a, b, 0.0)
    other = score_match([["u"], ["v", "w"]], [["x", "y"], ["z"]], b, a, 0.0)
    assert [x + y for x, y in zip(one.outcomes.rates(), other.outcomes.rates(), strict=True)] == [
        1.0,
        1.0,
    ]
    assert one.verdicts == [[1.0, None], [0.5, 0.0]]
    assert one.outcomes.unscored == 1


def test_a_lost_line_loses_whatever_its_score():
    match = score_match([[Unfinished("x")]], [["y"]], [[9.0]], [[0.0]], 0.5)
    assert match.verdicts == [[0.0]]
    asked = judge_match([Unfinished("x"), "", "x"], ["y", " ", "y"], [1.0, 1.0, None])
    assert asked.verdicts == [[0.0], [0.5], [None]]


def test_a_judges_probability_becomes_a_win_a_tie_or_nothing():
    match = judge_match(["a b", "c", "d", "e", "f"], ["g", "h", "i", "e", None],
                        [0.9, 0.2, 0.5, 0.99, 0.7])  # fmt: skip
    assert match.verdicts == [[1.0], [0.0], [0.5], [0.5], []]
    assert match.lengths[0] == [(2, 1)]
    found = match_rate(match, rng())
    assert found.rate.value == 0.5
    assert (found.rate.prompts, found.rate.missing) == (4, 1)


def test_nothing_scored_is_no_figure():
    match = judge_match(["x"], ["y"], [None])
    assert match_rate(match, rng()) is None
    assert over_optimisation(match, match, rng()) is None


def test_length_control_says_why_it_does_not_work():
    few = score_match(lines(3, 1), lines(3, 1), [[1.0]] * 3, [[0.0]] * 3, 0.0)
    assert "needs 30 prompts" in match_length_controlled(few)
    draws = rng()
    n = 60
    longer = [["w " * int(draws.integers(3, 20))] for _ in range(n)]
    other = [["w " * int(draws.integers(3, 20))] for _ in range(n)]
    size = [[[float(len(row[0]))] for row in side] for side in (longer, other)]
    found = match_length_controlled(score_match(longer, other, *size, 0.0))
    assert found.phi.value > 1  # a critic that only counts words
    assert abs(found.rate.value - 0.5) < 0.2


def test_the_gap_is_paired_by_prompt():
    report = score_match(lines(4, 1), lines(4, 1), [[1.0]] * 4, [[0.0], [2.0], [0.0], [None]], 0.0)
    train = score_match(lines(4, 1), lines(4, 1), [[1.0]] * 4, [[0.0]] * 4, 0.0)
    found = over_optimisation(train, report, rng())
    assert (found.train, found.report) == (1.0, pytest.approx(2 / 3))
    assert found.gap.value == pytest.approx(1 / 3)
    assert found.gap.prompts == 3
    same = over_optimisation(report, report, rng())
    assert same.gap[:3] == (0.0, 0.0, 0.0)


def test_halves_of_one_system_are_even():
    scores = rng().normal(size=(200, 4)).tolist()
    (x, a), (y, b) = halves(lines(200, 4), scores)
    found = match_rate(score_match(x, y, a, b, 0.0), rng())
    assert found.rate.low <= 0.5 <= found.rate.high
    assert [len(r) for r in x] == [len(r) for r in y] == [2] * 200
    with pytest.raises(ValueError, match="at least two lines"):
        halves(lines(3, 1), [[1.0]] * 3)


def test_kl_of_best_of_n():
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)
    with pytest.raises(ValueError, match="n is 0"):
        best_of_n_kl(0)
