import numpy as np
import pytest

from evaluation.rogan_gladen import (
    Corrected,
    NotCorrected,
    corrected_rate,
    lang_reiczigel,
    mean_votes,
    rogan_gladen,
)


def test_the_formula_undoes_what_errors_do():
    for p in (0.1, 0.5, 0.8):
        for se, sp in ((0.9, 0.7), (0.6, 0.6), (1.0, 1.0)):
            q = p * se + (1 - p) * (1 - sp)
            assert corrected_rate(q, se, sp) == pytest.approx(p)
    with pytest.raises(ValueError, match="says nothing"):
        corrected_rate(0.5, 0.5, 0.5)


def test_on_pairs_that_all_have_votes_the_corrected_rate_is_the_votes():
    """Ties and divided votes included: the identity is exact for fractions."""
    draws = np.random.default_rng(0)
    votes = draws.choice([0.0, 0.5, 1.0, 0.25], 200)
    verdicts = np.where(draws.uniform(size=200) < 0.7, votes.round(), draws.choice([0, 0.5, 1]))
    found = rogan_gladen(verdicts, votes)
    assert isinstance(found, Corrected)
    assert found.rate == pytest.approx(votes.mean())
    assert found.critic == pytest.approx(verdicts.mean())
    assert found.low < found.rate < found.high


def test_a_perfect_critic_is_not_corrected():
    verdicts = [1.0] * 60 + [0.0] * 40
    votes = [1.0] * 10 + [None] * 50 + [0.0] * 10 + [None] * 30
    found = rogan_gladen(verdicts, votes)
    assert found.rate == pytest.approx(found.critic)
    assert (found.critic, found.sensitivity, found.specificity) == (0.6, 1, 1)
    assert (found.pairs, found.voted) == (100, 20)


def test_a_biased_critic_loses_its_bonus():
    """It likes a always when a is better and half the time when b is: 75 %, where 50 is true."""
    votes = [1.0] * 40 + [0.0] * 40
    verdicts = [1.0] * 40 + [1.0, 0.0] * 20
    found = rogan_gladen([*verdicts, *verdicts], [*votes, *[None] * 80])
    assert found.critic == pytest.approx(0.75)
    assert found.rate == pytest.approx(0.5)


def test_intervals_cover_the_truth():
    draws, hits, p, se, sp = np.random.default_rng(1), 0, 0.65, 0.8, 0.75
    for _ in range(200):
        truth = draws.uniform(size=300) < p
        right = draws.uniform(size=300) < np.where(truth, se, sp)
        verdicts = np.where(right, truth, ~truth).astype(float)
        votes = [float(t) if i < 80 else None for i, t in enumerate(truth)]
        found = rogan_gladen(verdicts, votes)
        hits += isinstance(found, Corrected) and found.low <= p <= found.high
    assert 180 <= hits <= 200


def test_more_votes_narrow_the_interval_and_known_errors_leave_the_binomial_one():
    few = lang_reiczigel(0.6, 100, 0.8, 20, 0.8, 20)
    many = lang_reiczigel(0.6, 100, 0.8, 2000, 0.8, 2000)
    assert many[1] - many[0] < few[1] - few[0]
    n, z = 100, 1.959963984540054
    low, high = lang_reiczigel(0.6, n, 1.0, 1e12, 1.0, 1e12)
    q = (0.6 * n + z**2 / 2) / (n + z**2)  # Agresti and Coull 1998
    half = z * (q * (1 - q) / (n + z**2)) ** 0.5
    assert (low, high) == pytest.approx((q - half, q + half), abs=1e-6)


def test_no_verdict_and_no_vote_are_not_numbers():
    verdicts = [1.0] * 10 + [0.0] * 10 + [None] * 5
    votes = [1.0] * 9 + [None] + [0.0] * 10 + [1.0] * 5
    found = rogan_gladen(verdicts, votes)
    assert (found.pairs, found.voted) == (20, 19)
    assert found.critic == 0.5


@pytest.mark.parametrize(
    ("verdicts", "votes", "reason"),
    [
        ([1.0] * 20, [1.0] * 20, "20 votes for one side and 0 for the other"),
        ([1.0, 0.0] * 10, [1.0] * 10 + [0.0] * 10, "hardly agrees"),
        ([], [], "0 votes"),
    ],
)
def test_too_little_to_go_on_is_said(verdicts, votes, reason):
    found = rogan_gladen(verdicts, votes)
    assert isinstance(found, NotCorrected)
    assert reason in found.reason


@pytest.mark.parametrize(
    ("verdicts", "votes", "message"),
    [
        ([1.0], [1.0, 0.0], "1 verdicts and 2 votes"),
        ([1.5], [1.0], "a verdict is outside"),
        ([1.0], [-1.0], "a vote is outside"),
    ],
)
def test_bad_input_is_refused(verdicts, votes, message):
    with pytest.raises(ValueError, match=message):
        rogan_gladen(verdicts, votes)


def test_votes_are_averaged():
    assert mean_votes(["a"]) == 1
    assert mean_votes(["a", "b", "tie", "tie"]) == 0.5
    for votes in (["A"], []):
        with pytest.raises(ValueError, match="allowed are a, b, tie"):
            mean_votes(votes)
