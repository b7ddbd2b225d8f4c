from collections import Counter

import pytest

from rewards.calls import CriticError
from rewards.fakes import AlwaysFirst, Honest, LongerWins, ScorerAsJudge, ScorerAsRanker
from rewards.pair_verdicts import JokePair, PairAsker, kind_of
from rewards.text import words

PAIRS = [
    JokePair("p", "one two", "one"),
    JokePair("p", "one", "one two three"),
    JokePair("q", "x y", "y x"),
]


class Lengths:
    """A scorer that notes what it was asked."""

    def __init__(self):
        self.asked = []

    def score(self, prompts, jokes):
        self.asked.extend(zip(prompts, jokes, strict=True))
        return [float(len(words(j))) for j in jokes]


def test_a_scorer_is_asked_once_a_joke_and_has_no_order():
    critic = Lengths()
    asker = PairAsker(critic, batch=2)
    found = asker.ask(PAIRS)
    assert found.first == found.second == found.mean == [1, 0, 0.5]
    assert found.margin == [1, -2, 0]
    assert len(critic.asked) == len(set(critic.asked)) == asker.questions == 5
    asker.ask(PAIRS)
    assert asker.questions == 5


def test_a_judge_is_asked_in_both_orders():
    asker = PairAsker(LongerWins(), batch=2)
    found = asker.ask(PAIRS)
    assert found.first == found.second == [1, 0, 0.5]
    assert [p > 0.5 for p in found.mean] == [True, False, False]
    assert asker.questions == 6
    first = PairAsker(AlwaysFirst()).ask(PAIRS)
    assert first.first == [1, 1, 1]
    assert first.second == [0, 0, 0]
    assert first.mean == [0.5, 0.5, 0.5]


def test_a_slot_preference_cancels_in_the_mean():
    honest = ScorerAsJudge(Lengths())
    partial = ScorerAsJudge(Lengths(), slot=1.5)
    for a, b in zip(
        PairAsker(honest).ask(PAIRS).mean, PairAsker(partial).ask(PAIRS).mean, strict=True
    ):
        assert a == pytest.approx(b)


@pytest.mark.parametrize("listwise", [False, True])
def test_a_ranker_sees_lists_in_both_directions(listwise):
    fair = PairAsker(ScorerAsRanker(Lengths())).ask(PAIRS, listwise=listwise)
    assert fair.first == fair.second == fair.mean == [1, 0, 0.5]
    slanted = PairAsker(ScorerAsRanker(Lengths(), slot=100.0))
    found = slanted.ask(PAIRS, listwise=listwise)
    assert found.first == [1, 1, 1]
    assert found.second == [0, 0, 0]
    assert found.mean == [1, 0, 0.5]  # what the slot adds in one direction it takes in the other
    assert slanted.questions == (2 * 2 if listwise else 2 * 3)


def test_a_failed_call_is_no_verdict_and_is_counted():
    class Fails:
        def score(self, prompts, jokes):
            raise CriticError("down")

    asker = PairAsker(Fails())
    assert asker.ask(PAIRS).mean == [None, None, None]
    assert asker.causes == Counter(CriticError=5)


def test_one_order_without_a_verdict_is_none():
    class Half:
        def compare(self, prompts, a, b):
            return [0.9 if len(x) >= len(y) else None for x, y in zip(a, b, strict=True)]

    found = PairAsker(Half()).ask(PAIRS[:2])
    assert found.first == [0.9, None]
    assert found.second == [None, pytest.approx(0.1)]
    assert found.mean == found.margin == [None, None]


def test_unknown_jokes_of_a_table_are_unscored():
    asker = PairAsker(Honest({("p", "one"): 1.0, ("p", "one two"): 2.0}))
    assert asker.ask(PAIRS).mean == [1, None, None]


def test_what_is_no_critic_is_refused():
    with pytest.raises(ValueError, match="none of the methods"):
        kind_of(object())
    with pytest.raises(ValueError, match="batch is 0"):
        PairAsker(LongerWins(), batch=0)
