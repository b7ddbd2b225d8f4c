import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.terms import FULL_COST_AT, FactKept, Novelty, Overlap, SharedRatings, own_phrases
from rewards.types import Rating

START = [(f"the {w} is here", f"my {w} is late") for w in ("bus", "cat", "dog", "tram")]


def test_own_phrases_are_those_the_prompt_lacks():
    assert own_phrases("my cat is late", "my cat is now late") == {
        ("is", "now"),
        ("now", "late"),
        ("cat", "is", "now"),
        ("is", "now", "late"),
    }


def test_a_fresh_line_costs_nothing():
    assert Novelty(START).score(["the cat"], ["it has left for Rome"]) == [0.0]


def test_the_cost_follows_the_share_of_other_lines_by_hand():
    novelty = Novelty(START, window=100)
    prompts = [f"prompt {i}" for i in range(5)]
    jokes = [f"and now word{i}" for i in range(5)]
    # Four of the last hundred lines share "and now" with each of them.
    assert novelty.score(prompts, jokes) == pytest.approx([-0.04 / FULL_COST_AT] * 5)


def test_what_the_start_student_says_often_is_free_up_to_its_share():
    novelty = Novelty(START, window=10)  # all start lines say "is late"
    assert novelty.score(["a b"] * 4, [f"x{i} is late" for i in range(4)]) == [0.0] * 4


def test_a_batch_that_collapses_in_one_step_pays_in_that_step():
    novelty = Novelty(START, window=512)
    assert novelty.score([f"p{i}" for i in range(64)], ["and so now it ends"] * 64) == [-1.0] * 64


def test_phrases_of_the_prompt_are_free():
    novelty = Novelty(START, window=10)
    assert novelty.score(["keep the cat"] * 5, ["keep the cat"] * 5) == [0.0] * 5


def test_the_worst_phrase_counts():
    novelty = Novelty(START, window=100)
    novelty.score(["p"] * 7, [f"rare thing w{i}" for i in range(7)])
    novelty.score(["p"] * 2, [f"odd bird v{i}" for i in range(2)])
    both, one = novelty.score(["p", "p"], ["rare thing odd bird", "odd bird z"])
    assert both == pytest.approx(-0.07 / FULL_COST_AT)
    assert one == pytest.approx(-0.03 / FULL_COST_AT)


def test_old_lines_leave_the_window():
    novelty = Novelty(START, window=10)
    novelty.score(["p"] * 10, ["and now then"] * 10)
    novelty.score([f"q{i}" for i in range(10)], [f"alpha{i} beta{i} gamma{i}" for i in range(10)])
    assert novelty.score(["p"], ["and now then"]) == [0.0]


@given(st.lists(st.sampled_from(["a b", "a b c", "d e", "f g h", ""]), max_size=12))
def test_state_survives_json(jokes):
    first, second = Novelty(START, window=5), Novelty(START, window=5)
    first.score(["p"] * len(jokes), jokes)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for novelty in (first, second):
        assert all(-1 <= x <= 0 for x in novelty.score(["p"] * 2, ["a b c", "d e"]))
    assert first.state_dict() == second.state_dict()
    assert first.score(["p"], ["a b"]) == second.score(["p"], ["a b"])


def test_the_order_within_a_batch_does_not_matter():
    jokes = ["and now a", "and now b", "calm sea"]
    forward = Novelty(START).score(["p"] * 3, jokes)
    backward = Novelty(START).score(["p"] * 3, jokes[::-1])
    assert forward == backward[::-1]


def test_novelty_without_start_lines_is_refused():
    with pytest.raises(ValueError, match="start lines"):
        Novelty([])
    with pytest.raises(ValueError, match="window"):
        Novelty(START, window=0)


class CountingRater:
    name = "rater"

    def __init__(self):
        self.asked = []

    def rate(self, prompts, jokes):
        self.asked += jokes
        return [None if j == "?" else Rating(3.0, 0.2, 0.75, j == "far") for j in jokes]


def test_fact_kept_is_the_raters_probability_and_none_stays_none():
    term = FactKept(CountingRater())
    assert term.score(["p"] * 2, ["a", "?"]) == [0.75, None]
    assert term.name == "rater (fact)"


def test_two_questions_about_a_joke_ask_the_rater_once():
    rater = CountingRater()
    shared = SharedRatings(rater)
    shared.rate(["p", "p", "p"], ["a", "a", "?"])
    assert shared.rate(["p", "p"], ["a", "?"])[0].fact == 0.75
    assert rater.asked == ["a", "?", "?"]  # a missing rating is asked for again


def test_a_rater_of_the_wrong_length_is_named():
    class Short:
        name = "short-rater"

        def rate(self, prompts, jokes):
            return []

    with pytest.raises(ValueError, match="short-rater gave 0 answers for 1"):
        SharedRatings(Short()).rate(["p"], ["a"])


# ---- overlap


@pytest.mark.parametrize(
    ("joke", "cost"),
    [
        ("A lamp in a lamp shop.", 0.0),  # one of four content words: below the usual
        ("My lamp burned today.", 0.0),  # two of four: the usual
        ("My lamp burned until midnight.", 0.5),
        ("My lamp burned until midnight: bright.", 1.0),
    ],
)
def test_overlap_costs_from_the_usual_recall_to_all_of_it(joke, cost):
    prompt = "My lamp burned bright until midnight."
    assert Overlap(0.5).score([prompt], [joke]) == [pytest.approx(-cost)]


@pytest.mark.parametrize("usual", [-0.1, 1.0, math.nan])
def test_overlap_needs_a_usual_recall_below_1(usual):
    with pytest.raises(ValueError, match="overlap needs a usual recall"):
        Overlap(usual)
