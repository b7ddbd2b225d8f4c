import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.calls import CriticError
from rewards.ensembles import MeanOfScorers, MinOfScorers, PenalisedMean, Standardised
from rewards.fakes import CountsWord, Honest

SCORE = st.floats(-100, 100)
ROW = st.lists(SCORE, min_size=2, max_size=5)


def scorers(row):
    return [Honest({("p", "joke"): x}) for x in row]


def score(ensemble):
    (answer,) = ensemble.score(["p"], ["joke"])
    return answer


def evenly(row):
    return [(1.0, scorer) for scorer in scorers(row)]


def test_closed_forms():
    row = [1.0, 2.0, 6.0]
    assert score(MeanOfScorers(evenly(row))) == 3.0
    assert score(MinOfScorers(scorers(row))) == 1.0
    std = math.sqrt((4 + 1 + 9) / 3)
    assert score(PenalisedMean(evenly(row), beta=0.5)) == pytest.approx(3.0 - 0.5 * std)
    weighted = [(3.0, Honest({("p", "joke"): 0.0})), (1.0, Honest({("p", "joke"): 4.0}))]
    assert score(MeanOfScorers(weighted)) == 1.0
    assert score(PenalisedMean(weighted)) == pytest.approx(1.0 - math.sqrt(3.0))


@given(ROW)
def test_without_a_penalty_it_is_the_mean_and_agreement_costs_nothing(row):
    mean = score(MeanOfScorers(evenly(row)))
    assert score(PenalisedMean(evenly(row), beta=0.0)) == mean
    alike = evenly([row[0]] * 3)
    assert score(PenalisedMean(alike, beta=5.0)) == pytest.approx(row[0])


@given(ROW, st.floats(0, 3))
def test_a_penalty_never_raises_a_score_and_a_minimum_is_below_the_mean(row, beta):
    mean = score(MeanOfScorers(evenly(row)))
    assert score(PenalisedMean(evenly(row), beta=beta)) <= mean
    assert score(MinOfScorers(scorers(row))) <= mean + 1e-9


@given(ROW, st.floats(0.1, 10), SCORE)
def test_every_combination_follows_a_common_change_of_scale(row, gain, shift):
    moved = [gain * x + shift for x in row]
    for make in (
        lambda r: MeanOfScorers(evenly(r)),
        lambda r: MinOfScorers(scorers(r)),
        lambda r: PenalisedMean(evenly(r), beta=0.7),
    ):
        expected = gain * score(make(row)) + shift
        assert score(make(moved)) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    "combine",
    [
        lambda members: MeanOfScorers([(1.0, m) for m in members]),
        MinOfScorers,
        lambda members: PenalisedMean([(1.0, m) for m in members]),
    ],
)
def test_one_member_without_a_verdict_is_no_verdict_and_moves_no_other_joke(combine):
    knows_one = Honest({("p", "ha"): 3.0})
    ensemble = combine([CountsWord("ha"), knows_one])
    first, second = ensemble.score(["p", "p"], ["ha", "ho"])
    assert second is None
    assert ensemble.score(["p"], ["ha"]) == [first]  # nothing comes from the batch


def test_standardised_scores_have_the_given_mean_and_scale():
    values = {("p", str(i)): float(i) for i in range(5)}  # mean 2, variance 2
    scaled = Standardised(Honest(values), center=2.0, scale=math.sqrt(2.0))
    scores = scaled.score(["p"] * 6, [*"01234", "unknown"])
    assert scores[5] is None
    assert sum(scores[:5]) == pytest.approx(0.0)
    assert sum(x * x for x in scores[:5]) / 5 == pytest.approx(1.0)
    assert scaled.name == "fake:honest"


def test_a_member_of_another_scale_takes_over_unless_standardised():
    loud = Honest({("p", "good"): -50.0, ("p", "bad"): 50.0})
    fine = Honest({("p", "good"): 3.0, ("p", "bad"): 0.0})
    raw = MeanOfScorers([(1.0, loud), (1.0, fine)]).score(["p"] * 2, ["good", "bad"])
    assert raw[0] < raw[1]
    scaled = [(1.0, Standardised(loud, 0.0, 50.0)), (1.0, Standardised(fine, 1.5, 1.0))]
    even = MeanOfScorers(scaled).score(["p"] * 2, ["good", "bad"])
    assert even[0] > even[1]


def test_disagreement_is_counted():
    penalised = PenalisedMean(evenly([1.0, 3.0]))
    assert penalised.counts.metrics() == {}
    score(penalised)
    assert penalised.counts.metrics() == {"critic/ensemble_std": 1.0}


def test_a_member_that_fails_fails_by_its_own_cause():
    class Down:
        def score(self, prompts, jokes):
            raise CriticError("no network")

    with pytest.raises(CriticError, match="no network"):
        MinOfScorers([CountsWord(), Down()]).score(["p"], ["joke"])


def test_impossible_ensembles_are_refused():
    one = [(1.0, CountsWord())]
    for make, says in [
        (lambda: MeanOfScorers([]), "needs members"),
        (lambda: MeanOfScorers([(-1.0, CountsWord())]), r"positive sum.*\[-1.0\]"),
        (lambda: MinOfScorers([]), "needs members"),
        (lambda: PenalisedMean(one), "2 members or more, got 1"),
        (lambda: PenalisedMean([*one, (0.0, CountsWord())]), "weights > 0"),
        (lambda: PenalisedMean(one * 2, beta=-1.0), "beta is -1.0"),
        (lambda: Standardised(CountsWord(), 0.0, 0.0), "scale is 0.0"),
        (lambda: Standardised(CountsWord(), math.nan, 1.0), "center is nan"),
    ]:
        with pytest.raises(ValueError, match=says):
            make()
