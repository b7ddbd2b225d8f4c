from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.fakes import (
    AlwaysFirst,
    FailingJudge,
    Honest,
    LongerWins,
    ScorerAsJudge,
    ScorerAsRanker,
)
from rewards.wrappers import BothOrders, ShuffledRanks


@dataclass
class TableJudge:
    """Answers what it was told, by (a, b)."""

    table: dict
    asked: list = field(default_factory=list)

    def compare(self, prompts, a, b):
        self.asked.append(list(zip(prompts, a, b, strict=True)))
        return [self.table[x, y] for x, y in zip(a, b, strict=True)]


PROBABILITY = st.floats(0, 1)


@given(PROBABILITY, PROBABILITY)
def test_both_directions_add_up_to_exactly_one(ab, ba):
    judge = BothOrders(TableJudge({("a", "b"): ab, ("b", "a"): ba}))
    (forward,) = judge.compare(["p"], ["a"], ["b"])
    (backward,) = judge.compare(["p"], ["b"], ["a"])
    assert forward + backward == 1.0
    assert 0 < forward < 1


@given(st.floats(-5, 5), st.floats(-3, 3))
def test_an_additive_slot_preference_cancels(quality, slot):
    scorer = Honest({("p", "a"): quality, ("p", "b"): 0.0})
    clean = BothOrders(ScorerAsJudge(scorer)).compare(["p"], ["a"], ["b"])
    leaning = BothOrders(ScorerAsJudge(scorer, slot=slot)).compare(["p"], ["a"], ["b"])
    assert leaning == pytest.approx(clean, abs=1e-9)


@given(st.sampled_from([None, 0.3]), st.sampled_from([None, 0.9]))
def test_one_order_without_a_verdict_is_none(ab, ba):
    (p,) = BothOrders(TableJudge({("a", "b"): ab, ("b", "a"): ba})).compare(["p"], ["a"], ["b"])
    assert (p is None) == (ab is None or ba is None)


def test_a_slot_judge_gives_one_half_and_is_counted():
    judge = BothOrders(AlwaysFirst())
    assert judge.compare(["p", "p"], ["a", "b"], ["c", "d"]) == [0.5, 0.5]
    assert judge.counts.metrics() == {
        "critic/flip_rate": 1.0,
        "critic/clipped_share": 1.0,
        "critic/margin": 0.0,
    }


def test_a_content_judge_never_flips():
    judge = BothOrders(LongerWins())
    judge.compare(["p"], ["one two three"], ["one"])
    assert judge.counts.flips == 0
    assert judge.counts.margin == pytest.approx(0.5 - 1e-4)


def test_both_orders_go_out_in_one_call():
    judge = TableJudge({("a", "b"): 0.5, ("b", "a"): 0.5})
    BothOrders(judge).compare(["p"], ["a"], ["b"])
    assert judge.asked == [[("p", "a", "b"), ("p", "b", "a")]]


def test_a_probability_that_is_none_is_no_verdict():
    for bad in (float("nan"), float("inf"), 1.5, -0.1):
        judge = BothOrders(TableJudge({("a", "b"): bad, ("b", "a"): 0.5}))
        assert judge.compare(["p"], ["a"], ["b"]) == [None]


def test_wrong_lengths_name_the_critic():
    class Short:
        name = "shorty"

        def compare(self, prompts, a, b):
            return [0.5]

    with pytest.raises(ValueError, match=r"shorty gave 1 answers for 2"):
        BothOrders(Short()).compare(["p"], ["a"], ["b"])
    with pytest.raises(ValueError, match="1 prompts, 2 jokes a"):
        BothOrders(AlwaysFirst()).compare(["p"], ["a", "b"], ["c"])


@pytest.mark.parametrize("clip", [0, 0.5, -1])
def test_an_impossible_clip_is_refused(clip):
    with pytest.raises(ValueError, match="clip"):
        BothOrders(AlwaysFirst(), clip=clip)


def test_failures_of_the_inner_judge_stay_failures():
    judge = BothOrders(FailingJudge(LongerWins(), share=0.3))
    n = 2000
    answers = judge.compare(["p"] * n, [f"a {i}" for i in range(n)], ["b"] * n)
    assert sum(x is None for x in answers) / n == pytest.approx(1 - 0.7**2, abs=0.05)


JOKES = st.lists(st.sampled_from(["one", "two", "three", "four", "five"]), min_size=1, max_size=6)


@given(JOKES, st.randoms(use_true_random=False), st.integers(1, 7))
def test_ranks_follow_the_jokes_whatever_their_order(jokes, random, permutations):
    scorer = Honest({("p", j): float(len(j)) for j in jokes})
    ranker = ShuffledRanks(ScorerAsRanker(scorer, slot=0.7), permutations=permutations)
    (ranks,) = ranker.rank(["p"], [jokes])
    shuffled = jokes.copy()
    random.shuffle(shuffled)
    (again,) = ranker.rank(["p"], [shuffled])
    assert dict(zip(jokes, ranks, strict=True)) == dict(zip(shuffled, again, strict=True))


def test_as_many_orders_as_jokes_cancel_the_slot():
    jokes = ["a", "b", "c", "d"]
    scorer = Honest({("p", j): float(i) for i, j in enumerate(jokes)})
    (ranks,) = ShuffledRanks(ScorerAsRanker(scorer, slot=5.0), permutations=4).rank(["p"], [jokes])
    assert [r - ranks[0] for r in ranks] == pytest.approx([0, 1, 2, 3])


def test_orders_depend_on_content_and_seed_alone():
    ranker = ShuffledRanks(ScorerAsRanker(Honest(), slot=1.0), permutations=1)
    alone = ranker.rank(["p"], [["a", "b", "c"]])
    beside = ranker.rank(["q", "p"], [["x", "y"], ["a", "b", "c"]])
    assert alone[0] == beside[1]
    others = {
        tuple(ShuffledRanks(ranker.ranker, 1, seed).rank(["p"], [["a", "b", "c"]])[0])
        for seed in range(8)
    }
    assert len(others) > 1


def test_one_order_without_a_rank_is_none():
    class Moody:
        calls = 0

        def rank(self, prompts, groups):
            return [None if i == 1 else [1.0] * len(g) for i, g in enumerate(groups)]

    assert ShuffledRanks(Moody(), permutations=2).rank(["p", "q"], [["a"], ["b"]]) == [None, [1.0]]


def test_lone_surrogates_are_ranked():
    ranker = ShuffledRanks(ScorerAsRanker(Honest()), permutations=2)
    assert ranker.rank(["p"], [["\ud800", "b"]]) == [[0.0, 0.0]]
