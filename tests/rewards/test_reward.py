import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.calls import CriticError
from rewards.control import ControlConfig, LabelledJoke
from rewards.fakes import CopiesWin, CountsWord, Honest, LongerWins, failing
from rewards.gates import TeacherIndex
from rewards.reward import CompositeReward, weighted_sum
from rewards.terms import Novelty
from rewards.types import Rating, Unfinished

PROMPT = "The bus left without me."
CALIBRATION = [
    LabelledJoke(PROMPT, joke, label)
    for joke, label in [("no", 1.0), ("ha", 2.0), ("ha ha", 4.0), ("ha so ha then ha", 5.0)] * 5
]


class Recording:
    """A scorer that remembers what reached it."""

    def __init__(self, inner=None):
        self.inner = inner or CountsWord("ha")
        self.calls = []

    def score(self, prompts, jokes):
        self.calls.append(list(zip(prompts, jokes, strict=True)))
        return self.inner.score(prompts, jokes)


class Constant:
    def __init__(self, value, lowest=None):
        self.value = value
        if lowest is not None:
            self.lowest = lowest

    def score(self, prompts, jokes):
        return [self.value] * len(jokes)


def test_without_calibration_the_reward_is_the_score():
    (verdict,) = CompositeReward(CountsWord("ha"))([PROMPT], ["ha ha bus"])
    assert verdict.reward == verdict.raw == verdict.debiased == 2.0
    assert verdict.terms == {"humor": 2.0}
    assert (verdict.gate, verdict.length, verdict.scored) == ("", 3, True)
    assert verdict.recall == 1 / 3  # bus of {bus, left, without}


def test_the_scale_is_that_of_the_calibration_jokes():
    reward = CompositeReward(CountsWord("ha"), calibration=CALIBRATION)
    verdicts = reward([PROMPT] * 4, ["no", "ha", "ha ha", "ha so ha then ha"])
    rewards = [v.reward for v in verdicts]
    assert sum(rewards) == pytest.approx(0)
    assert sum(r * r for r in rewards) / 4 == pytest.approx(1)
    assert [v.raw for v in verdicts] == [0, 1, 2, 3]


def test_a_gated_joke_gets_the_floor_and_never_reaches_critic_or_terms():
    critic, term = Recording(), Recording()
    reward = CompositeReward(
        critic,
        terms={"extra": (0.5, term)},
        calibration=CALIBRATION,
        teacher_index=TeacherIndex(["The bus left and took my dignity along"]),
    )
    jokes = [
        "",
        Unfinished("ha ha"),
        "ha ha ha ha ha",
        "The bus left and took my dignity along",
        "ha bus",
    ]
    verdicts = reward([PROMPT] * 5, jokes)
    assert [v.gate for v in verdicts] == ["empty", "unfinished", "loop", "teacher-copy", ""]
    assert critic.calls[-1] == [(PROMPT, "ha bus")]
    assert term.calls == [[(PROMPT, "ha bus")]]
    lowest = (0 - 1.5) / math.sqrt(1.25)  # "no", scaled
    assert [v.reward for v in verdicts[:4]] == pytest.approx([lowest - 1] * 4)
    assert verdicts[0].raw is None
    assert verdicts[0].terms == {"humor": None, "extra": None}
    assert reward.metrics["gate/share"] == 0.8
    assert reward.metrics["gate/empty"] == 0.2


def test_the_floor_lies_below_what_terms_can_cost_and_under_negative_weights():
    novelty = Novelty([("p", "some start line")])
    with_term = CompositeReward(CountsWord("ha"), terms={"novelty": (0.5, novelty)})
    assert with_term.floor == -1.5
    upside_down = CompositeReward(CountsWord("ha"), humor=-1.0, calibration=CALIBRATION)
    verdicts = upside_down([PROMPT] * 2, ["ha so ha then ha", ""])
    assert verdicts[1].reward == pytest.approx(verdicts[0].reward - 1)
    assert CompositeReward(CountsWord("ha"), floor=-7.0)([PROMPT], [""])[0].reward == -7.0


def test_terms_add_up_with_their_weights():
    reward = CompositeReward(
        CountsWord("ha"), humor=2.0, terms={"a": (0.5, Constant(3.0)), "b": (-1.0, Constant(0.25))}
    )
    (verdict,) = reward([PROMPT], ["ha"])
    assert verdict.reward == 2.0 * 1 + 0.5 * 3 - 0.25
    assert verdict.terms == {"humor": 1.0, "a": 3.0, "b": 0.25}


@given(
    st.dictionaries(st.sampled_from("abc"), st.one_of(st.none(), st.floats(-5, 5)), min_size=1),
)
def test_none_in_any_term_is_none_in_the_sum(terms):
    total = weighted_sum(terms, dict.fromkeys(terms, 1.0))
    assert (total is None) == (None in terms.values())


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_a_missing_term_leaves_the_joke_unscored(bad):
    reward = CompositeReward(CountsWord("ha"), terms={"a": (0.5, Constant(bad))})
    (verdict,) = reward([PROMPT], ["ha"])
    assert verdict.reward is None
    assert not verdict.scored
    assert verdict.raw == 1.0
    assert reward.metrics["critic/unscored_rate"] == 1.0
    assert "reward/total" not in reward.metrics


def test_a_critic_without_verdicts_is_counted_by_cause():
    reward = CompositeReward(failing(CountsWord("ha"), 0.5))
    jokes = [f"ha number {i}" for i in range(40)]
    verdicts = reward([PROMPT] * 40, jokes)
    missing = sum(not v.scored for v in verdicts)
    assert 0 < missing < 40
    assert reward.metrics["critic/unscored_rate"] == missing / 40
    assert reward.metrics["critic/cause/no verdict"] == missing


def test_a_term_that_fails_leaves_the_call_unscored():
    class Down:
        def score(self, prompts, jokes):
            raise TimeoutError

    reward = CompositeReward(CountsWord("ha"), terms={"slow": (1.0, Down())})
    assert [v.reward for v in reward([PROMPT] * 2, ["ha", "bus"])] == [None, None]
    assert reward.metrics["critic/cause/TimeoutError"] == 2


def test_lengths_are_checked_with_the_terms_name():
    class Short:
        def score(self, prompts, jokes):
            return [1.0]

    with pytest.raises(ValueError, match=r"term odd \(Short\) gave 1 answers for 2"):
        CompositeReward(CountsWord("ha"), terms={"odd": (1.0, Short())})([PROMPT] * 2, ["a", "b"])
    with pytest.raises(ValueError, match="1 prompts and 2 jokes"):
        CompositeReward(CountsWord("ha"))([PROMPT], ["a", "b"])


def test_a_judge_without_anchors_is_refused_for_lone_jokes_before_any_gate():
    reward = CompositeReward(LongerWins())
    with pytest.raises(ValueError, match="one joke a prompt needs anchors"):
        reward([PROMPT], ["a joke"])
    gated = reward([PROMPT] * 2, ["a joke", ""])  # two jokes, one of them gated: no opponent
    assert gated[0].reward is None
    assert gated[1].gate == "empty"


def test_a_copy_earns_no_more_than_the_plain_prompt():
    near = PROMPT.replace("me.", "me!")
    far = "The bus left without me so I run"
    table = {(PROMPT, PROMPT): 2.0, (PROMPT, near): 9.0, (PROMPT, far): 3.0}
    verdicts = CompositeReward(Honest(table))([PROMPT] * 2, [near, far])
    assert [v.reward for v in verdicts] == [2.0, 3.0]
    assert [v.gate for v in verdicts] == ["", ""]


def test_control_acts_before_the_terms_and_is_fitted_on_past_batches_only():
    calibration = [
        LabelledJoke(f"cats {i} sleep", joke, 2.0)
        for i in range(6)
        for joke in ("dog", f"cats {i}", f"cats {i} sleep soundly")
    ]
    reward = CompositeReward(
        CopiesWin(),
        control=ControlConfig(mode="linear", covariates=("overlap",)),
        calibration=calibration,
    )
    first = reward(["cats 1 sleep"] * 2, ["cats sleep deeply", "dogs bark"])
    assert first[0].raw > first[1].raw
    assert abs(first[0].debiased - first[1].debiased) < 0.25 * (first[0].raw - first[1].raw)
    assert reward.metrics["control/overlap_slope"] > 0
    window = reward.control.state_dict()["window"]
    assert [row[-1] for row in window] == [v.raw for v in first]  # not what was corrected already
    before = reward.control.metrics
    reward(["cats 1 sleep"], [""])
    assert reward.control.metrics == before  # gated jokes enter no fit


def test_state_survives_json_and_a_restored_reward_asks_nothing_of_the_past():
    def make(critic):
        return CompositeReward(
            critic,
            terms={"novelty": (0.5, Novelty([("p", "a start line")], window=20))},
            control=ControlConfig(mode="calibrated", covariates=("length",)),
            calibration=CALIBRATION,
        )

    first = make(CountsWord("ha"))
    jokes = ["ha and now", "no and now", "ha ha", "bus"]
    first([PROMPT] * 4, jokes)
    critic = Recording()
    second = make(critic)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second([PROMPT] * 4, jokes) == first([PROMPT] * 4, jokes)
    assert len(critic.calls) == 1  # no calibration jokes
    assert second.state_dict() == first.state_dict()
    with pytest.raises(ValueError, match="state has the terms"):
        CompositeReward(CountsWord("ha")).load_state_dict(first.state_dict())


def test_a_critic_that_is_down_at_calibration_is_an_error_not_a_scale():
    class Down:
        def score(self, prompts, jokes):
            raise ConnectionError

    with pytest.raises(CriticError, match="ConnectionError"):
        CompositeReward(Down(), calibration=CALIBRATION)([PROMPT], ["ha"])


def test_a_constant_critic_keeps_its_scale():
    (verdict,) = CompositeReward(Constant(3.0), calibration=CALIBRATION)([PROMPT], ["ha"])
    assert verdict.reward == 0.0


class Rates:
    name = "rates"

    def score(self, prompts, jokes):
        return [1.0] * len(jokes)

    def rate(self, prompts, jokes):
        return [Rating(1.0, 0.1, 0.5, "far" in j) for j in jokes]


def test_the_out_of_domain_share_is_reported():
    reward = CompositeReward(Rates())
    reward([PROMPT] * 4, ["far out", "near", "home", "here"])
    assert reward.metrics["critic/out_of_domain_share"] == 0.25
    assert "critic/out_of_domain_share" not in CompositeReward(CountsWord()).metrics


@given(st.lists(st.text(alphabet=st.characters(codec=None), max_size=40), max_size=6))
def test_any_text_is_answered_with_a_number_or_a_gate(jokes):
    class Strict:
        def score(self, prompts, jokes):
            return [float(len(j.encode("utf-8"))) for j in jokes]  # refuses lone surrogates

    for verdict in CompositeReward(Strict())([PROMPT] * len(jokes), jokes):
        assert verdict.scored
        assert math.isfinite(verdict.reward)


@pytest.mark.parametrize("weight", [0.0, float("nan"), float("inf")])
def test_impossible_weights_are_refused(weight):
    with pytest.raises(ValueError, match="weight of term"):
        CompositeReward(CountsWord(), humor=weight)
    with pytest.raises(ValueError, match="weight of term a"):
        CompositeReward(CountsWord(), terms={"a": (weight, CountsWord())})


def test_control_without_calibration_and_a_second_humor_are_refused():
    with pytest.raises(ValueError, match="needs calibration jokes"):
        CompositeReward(CountsWord(), control=ControlConfig())
    with pytest.raises(ValueError, match="humor="):
        CompositeReward(CountsWord(), terms={"humor": (1.0, CountsWord())})
