import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.fakes import (
    FAKES,
    AlwaysFirst,
    CopiesWin,
    CountsWord,
    Honest,
    LongerWins,
    ScorerAsJudge,
    ScorerAsRanker,
    failing,
    fails,
)
from rewards.lift import Lifted
from rewards.protocols import Judge, Ranker, Scorer
from rewards.wrappers import BothOrders


def test_always_first_knows_only_the_slot():
    assert AlwaysFirst(0.8).compare(["p", "p"], ["a", "b"], ["b", "a"]) == [0.8, 0.8]


def test_longer_wins_counts_words_and_ties():
    judge = LongerWins()
    assert judge.compare(["p"] * 3, ["a b", "a", "a b"], ["a", "a b", "c d"]) == [1.0, 0.0, 0.5]


def test_counts_word_counts_whole_words_in_any_case():
    assert CountsWord("Ha").score(["p", "p"], ["Ha, ha! hat", "shaha"]) == [2.0, 0.0]


def test_copies_win_orders_by_resemblance():
    scores = CopiesWin().score(["a b c d"] * 4, ["a b c d", "a b c", "d c b a", "x"])
    assert scores == [1.0, 0.75, 0.25, 0.0]


def test_honest_reads_its_table_or_recall():
    assert Honest().score(["red cat"], ["a red dog"]) == [5.0]
    assert Honest({("p", "a"): 3.0}).score(["p", "p"], ["a", "b"]) == [3.0, None]


@given(st.text(), st.text(), st.floats(0, 1))
def test_failures_depend_on_content_alone(prompt, joke, share):
    assert fails(share, 0, prompt, joke) == fails(share, 0, prompt, joke)
    assert not fails(0.0, 0, prompt, joke)
    assert fails(1.0, 0, prompt, joke)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_random_failures_fail_their_share_the_same_jokes_in_every_batch(share):
    critic = failing(CountsWord("a"), share)
    jokes = [f"a {i}" for i in range(3000)]
    answers = critic.score(["p"] * 3000, jokes)
    assert sum(x is None for x in answers) / 3000 == pytest.approx(share, abs=0.03)
    assert critic.score(["p"] * 3000, jokes[::-1]) == answers[::-1]
    assert set(answers) <= {1.0, None}


def test_failures_keep_the_critics_kind():
    assert isinstance(failing(CountsWord(), 0.5), Scorer)
    assert isinstance(failing(LongerWins(), 0.5), Judge)
    ranker = failing(ScorerAsRanker(Honest()), 1.0)
    assert isinstance(ranker, Ranker)
    assert ranker.rank(["p"], [["a", "b"]]) == [None]
    with pytest.raises(ValueError, match="share in"):
        failing(CountsWord(), 1.5)


def test_every_named_fake_is_a_critic_that_lifts():
    for name, factory in FAKES.items():
        critic = factory()
        scores = Lifted(critic).score(["red cat"] * 2, ["a red dog", "the red cat"])
        assert all(x is None or isinstance(x, float) for x in scores), name


def test_both_orders_make_a_leaning_honest_judge_honest():
    leaning = BothOrders(ScorerAsJudge(Honest(), slot=3.0))
    honest = Lifted(ScorerAsJudge(Honest())).score(["red cat"] * 2, ["a red dog", "green"])
    assert Lifted(leaning).score(["red cat"] * 2, ["a red dog", "green"]) == pytest.approx(honest)
