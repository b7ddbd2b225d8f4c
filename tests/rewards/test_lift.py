import math
from collections import Counter

import numpy as np
import pytest

from rewards.calls import CriticError
from rewards.fakes import (
    CountsWord,
    FailingJudge,
    Honest,
    LongerWins,
    ScorerAsJudge,
    ScorerAsRanker,
)
from rewards.lift import HARD, Lifted, expected_wins

SOFT = {("p", j): q for j, q in {"a": 0.0, "b": 1.0, "c": 2.0, "x": 0.5, "y": -1.0}.items()}


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


class Asked:
    """Counts questions of a judge or scorer."""

    def __init__(self, critic):
        self.critic = critic
        self.pairs = []

    def compare(self, prompts, a, b):
        self.pairs += list(zip(prompts, a, b, strict=True))
        return self.critic.compare(prompts, a, b)


def test_a_scorer_stays_as_it_is():
    lifted = Lifted(CountsWord("ha"))
    assert lifted.score(["p", "q"], ["ha ha", "no"]) == [2.0, 0.0]
    assert not lifted.needs_anchor_for_gae


def test_equal_jokes_of_a_prompt_are_asked_once():
    class Counting:
        def __init__(self):
            self.seen = Counter()

        def score(self, prompts, jokes):
            self.seen.update(zip(prompts, jokes, strict=True))
            return [1.0] * len(jokes)

    critic = Counting()
    assert Lifted(critic).score(["p", "p", "q"], ["a", "a", "a"]) == [1.0, 1.0, 1.0]
    assert critic.seen == {("p", "a"): 1, ("q", "a"): 1}


def test_a_judge_gives_the_mean_win_probability_over_anchors_and_group():
    lifted = Lifted(ScorerAsJudge(Honest(SOFT)), anchors={"p": ["x", "y"]})
    scores = lifted.score(["p"] * 3, ["a", "b", "c"])
    by_hand = [
        np.mean([sigmoid(SOFT["p", j] - SOFT["p", o]) for o in ("a", "b", "c", "x", "y") if o != j])
        for j in ("a", "b", "c")
    ]
    assert scores == pytest.approx(by_hand)


def test_against_anchors_alone_a_group_changes_nothing():
    lifted = Lifted(ScorerAsJudge(Honest(SOFT)), anchors={"p": ["x", "y"]}, use_group=False)
    together = lifted.score(["p"] * 3, ["a", "b", "c"])
    alone = [lifted.score(["p"], [j])[0] for j in ("a", "b", "c")]
    assert together == pytest.approx(alone)
    assert not lifted.needs_anchor_for_gae


def test_each_pair_is_asked_in_one_direction_and_equal_texts_never():
    judge = Asked(ScorerAsJudge(Honest(SOFT)))
    Lifted(judge, anchors={"p": ["x", "a"]}).score(["p"] * 4, ["a", "b", "b", "c"])
    pairs = [frozenset(pair[1:]) for pair in judge.pairs]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == {frozenset(s) for s in ("ab", "ac", "bc", "ax", "bx", "cx")}


def test_hard_verdicts_are_clipped():
    scores = Lifted(LongerWins()).score(["p", "p"], ["one two", "one"])
    assert scores == pytest.approx([1 - HARD, HARD])


def test_without_anchors_group_means_add_up_to_half_the_group():
    lifted = Lifted(ScorerAsJudge(Honest(SOFT)))
    assert sum(lifted.score(["p"] * 3, ["a", "b", "c"])) == pytest.approx(1.5)
    assert lifted.needs_anchor_for_gae


def test_a_judge_without_anchors_is_refused_for_one_joke():
    with pytest.raises(ValueError, match="one joke a prompt needs anchors"):
        Lifted(LongerWins(), group_size=1)
    Lifted(LongerWins(), group_size=1, anchors={"p": ["x"]})
    Lifted(CountsWord(), group_size=1)
    with pytest.raises(ValueError, match="anchors or a group"):
        Lifted(LongerWins(), use_group=False)


def test_a_joke_left_alone_has_no_verdict_rather_than_a_number():
    assert Lifted(LongerWins()).score(["p", "q", "q"], ["a", "b", "c d"])[0] is None


def test_a_prompt_without_anchors_is_an_error():
    with pytest.raises(ValueError, match="no anchors for the prompt 'q'"):
        Lifted(LongerWins(), anchors={"p": ["x"]}).score(["q"], ["a"])


@pytest.mark.parametrize("seed", range(10))
def test_missing_opponents_do_not_favour_those_who_met_weak_ones(seed):
    """With a true Bradley-Terry judge, imputed means lie near the complete ones."""
    jokes = [f"joke {i}" for i in range(8)]
    rng = np.random.default_rng(seed)
    quality = {("p", j): float(q) for j, q in zip(jokes, rng.normal(size=8), strict=True)}
    judge = ScorerAsJudge(Honest(quality))
    full = Lifted(judge).score(["p"] * 8, jokes)
    part = Lifted(FailingJudge(judge, share=0.3, seed=seed)).score(["p"] * 8, jokes)
    assert part == pytest.approx(full, abs=0.03)  # all scored: no joke lost every opponent


def test_a_joke_nobody_could_be_compared_with_is_none_and_leaves_the_others_alone():
    class NoB:
        def compare(self, prompts, a, b):
            inner = ScorerAsJudge(Honest(SOFT)).compare(prompts, a, b)
            return [None if "b" in (x, y) else p for x, y, p in zip(a, b, inner, strict=True)]

    scores = Lifted(NoB()).score(["p"] * 3, ["a", "b", "c"])
    assert scores[1] is None
    assert scores[::2] == pytest.approx([sigmoid(-2), sigmoid(2)])


def test_all_failures_are_none_never_ties():
    class Down:
        def compare(self, prompts, a, b):
            raise ConnectionError("down")

    lifted = Lifted(Down())
    assert lifted.score(["p"] * 3, ["a", "b", "c"]) == [None] * 3
    assert lifted.causes == {"ConnectionError": 3}


@pytest.mark.parametrize("error", [TimeoutError, ConnectionError, OSError, CriticError])
def test_failed_calls_give_none_for_the_call(error):
    class Failing:
        def score(self, prompts, jokes):
            raise error("no")

    lifted = Lifted(Failing())
    assert lifted.score(["p", "p"], ["a", "b"]) == [None, None]
    assert lifted.causes == {error.__name__: 2}


def test_bugs_of_a_critic_propagate():
    class Broken:
        def score(self, prompts, jokes):
            raise KeyError("bug")

    with pytest.raises(KeyError):
        Lifted(Broken()).score(["p"], ["a"])


@pytest.mark.parametrize("answer", [[1.0], [1.0, 2.0, 3.0], 1.0, "ab"])
def test_answers_of_the_wrong_length_raise_with_the_name(answer):
    class Odd:
        name = "odd-critic"

        def score(self, prompts, jokes):
            return answer

    with pytest.raises(ValueError, match="odd-critic"):
        Lifted(Odd()).score(["p", "p"], ["a", "b"])


def test_numbers_that_are_none_are_unscored_and_counted():
    class Odd:
        def score(self, prompts, jokes):
            return [float("nan"), float("inf"), None, np.float32(2.0)]

    lifted = Lifted(Odd())
    assert lifted.score(["p"] * 4, ["a", "b", "c", "d"]) == [None, None, None, 2.0]
    assert lifted.causes == {"not finite": 2, "no verdict": 1}


def test_a_ranker_gives_the_share_of_others_below():
    lifted = Lifted(ScorerAsRanker(Honest(SOFT)), anchors={"p": ["x"]})
    assert lifted.score(["p"] * 3, ["a", "b", "c"]) == pytest.approx([0, 2 / 3, 1])
    same = Lifted(ScorerAsRanker(Honest(SOFT))).score(["p"] * 3, ["a", "a", "c"])
    assert same == pytest.approx([0.25, 0.25, 1.0])


def test_a_ranker_without_verdict_scores_nobody():
    class Silent:
        def rank(self, prompts, groups):
            return [None] * len(groups)

    assert Lifted(Silent()).score(["p", "p"], ["a", "b"]) == [None, None]


PROMPT = "The cat sat on my best hat all day"


def test_a_near_copy_gets_at_most_the_plain_prompts_score():
    copy = "The cat sat on my very best hat all day"
    quality = {(PROMPT, PROMPT): 2.0, (PROMPT, copy): 5.0, (PROMPT, "fun"): 4.0}
    assert Lifted(Honest(quality)).score([PROMPT] * 2, [copy, "fun"]) == [2.0, 4.0]
    quality[PROMPT, copy] = 1.0
    assert Lifted(Honest(quality)).score([PROMPT], [copy]) == [1.0]
    del quality[PROMPT, PROMPT]
    assert Lifted(Honest(quality)).score([PROMPT, PROMPT], [copy, "fun"]) == [None, 4.0]


@pytest.mark.parametrize("wrap", [lambda s: s, ScorerAsJudge, ScorerAsRanker])
def test_with_a_literal_clip_a_restatement_earns_nothing(wrap):
    quality = {(PROMPT, PROMPT): 2.0, (PROMPT, "worse"): 1.0, (PROMPT, "fun"): 4.0}
    lifted = Lifted(wrap(Honest(quality)), clip="literal")
    plain, worse, fun = lifted.score([PROMPT] * 3, [PROMPT, "worse", "fun"])
    assert plain == worse == 0.0
    assert fun > 0
    if wrap(Honest(quality)).__class__ is Honest:
        assert fun == 2.0


def test_the_literal_is_no_opponent_of_the_jokes():
    quality = {(PROMPT, PROMPT): 9.0, (PROMPT, "a"): 1.0, (PROMPT, "b"): 0.0}
    judge = ScorerAsJudge(Honest(quality))
    plain = Lifted(judge).score([PROMPT] * 2, ["a", "b"])
    assert plain == pytest.approx([sigmoid(1), sigmoid(-1)])


def test_expected_wins_recovers_strengths_of_a_chain():
    wins = np.full((3, 3), np.nan)
    wins[0, 1], wins[1, 0] = sigmoid(1), sigmoid(-1)
    wins[1, 2], wins[2, 1] = sigmoid(1), sigmoid(-1)
    assert expected_wins(wins)[0, 2] == pytest.approx(sigmoid(2), abs=0.02)
    wins[1, 2] = wins[2, 1] = np.nan
    assert np.isnan(expected_wins(wins)[0, 2])


def test_unknown_options_and_no_critic_are_refused():
    with pytest.raises(ValueError, match="clip is 'half'"):
        Lifted(CountsWord(), clip="half")
    with pytest.raises(ValueError, match="none of the methods"):
        Lifted(object())
    with pytest.raises(ValueError, match="1 prompts and 2 jokes"):
        Lifted(CountsWord()).score(["p"], ["a", "b"])
