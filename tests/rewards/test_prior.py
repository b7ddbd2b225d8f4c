import json
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.fakes import AlwaysFirst, FailingJudge, Honest, ScorerAsJudge
from rewards.prior import PriorRemoved, shown_order
from rewards.wrappers import BothOrders


@dataclass
class Asked:
    """Passes questions on and remembers them."""

    judge: object
    calls: list = field(default_factory=list)

    def compare(self, prompts, a, b):
        self.calls.append(list(zip(prompts, a, b, strict=True)))
        return self.judge.compare(prompts, a, b)


def pairs(n, start=0):
    numbers = range(start, start + n)
    return ["p"] * n, [f"a {i}" for i in numbers], [f"b {i}" for i in numbers]


def scorer(n):
    quality = {("p", f"a {i}"): math.sin(i) for i in range(n)}
    return Honest(quality | {("p", f"b {i}"): math.cos(3 * i) for i in range(n)})


@given(st.floats(-3, 3), st.integers(1, 12))
def test_an_additive_slot_preference_is_recovered_and_removed_exactly(slot, estimate):
    judge = PriorRemoved(ScorerAsJudge(scorer(20), slot=slot), estimate=estimate)
    clean = ScorerAsJudge(scorer(20)).compare(*pairs(20))
    assert judge.compare(*pairs(20)) == pytest.approx(clean, abs=1e-9)
    assert judge.prior == pytest.approx(1 / (1 + math.exp(-slot)), abs=1e-9)
    assert judge.counts.metrics()["critic/prior_spread"] == pytest.approx(0, abs=1e-6)


def test_a_slot_judge_is_at_chance():
    judge = PriorRemoved(AlwaysFirst(), estimate=4)
    assert judge.compare(*pairs(10)) == pytest.approx([0.5] * 10)


def test_only_the_estimation_pairs_cost_two_questions_and_all_go_out_in_one_call():
    inner = Asked(ScorerAsJudge(scorer(60), slot=1.0))
    judge = PriorRemoved(inner, estimate=8)
    judge.compare(*pairs(30))
    assert [len(call) for call in inner.calls] == [30 + 8]
    judge.compare(*pairs(30, start=30))
    assert [len(call) for call in inner.calls] == [30 + 8, 30]
    metrics = judge.counts.metrics()
    assert (metrics["critic/prior_pairs"], metrics["critic/single_order_pairs"]) == (8, 52)


def test_estimation_pairs_are_answered_as_in_both_orders():
    inner = ScorerAsJudge(scorer(5), slot=1.0)
    judge = PriorRemoved(inner, estimate=5)
    assert judge.compare(*pairs(5)) == pytest.approx(BothOrders(inner).compare(*pairs(5)))


@given(st.permutations(range(12)))
def test_the_estimate_depends_on_content_alone(order):
    def moody(p, a, b):  # a preference that differs from pair to pair
        return 0.5 + 0.4 * math.sin(len(p) + sum(map(ord, a)) - 2 * sum(map(ord, b)))

    class Moody:
        def compare(self, prompts, a, b):
            return [moody(*q) for q in zip(prompts, a, b, strict=True)]

    straight, mixed = PriorRemoved(Moody(), estimate=5), PriorRemoved(Moody(), estimate=5)
    p, a, b = pairs(12)
    answers = straight.compare(p, a, b)
    again = mixed.compare(p, [b[i] for i in order], [a[i] for i in order])  # and swapped
    assert mixed.counts.first == straight.counts.first
    assert [x + answers[i] for x, i in zip(again, order, strict=True)] == [1.0] * 12


@given(st.lists(st.floats(0, 1), min_size=24, max_size=24))
def test_both_directions_add_up_to_exactly_one_in_any_later_call(verdicts):
    p, a, b = pairs(12)
    ab = dict(zip([*zip(a, b, strict=True), *zip(b, a, strict=True)], verdicts, strict=True))

    class Table:
        def compare(self, prompts, a, b):
            return [ab[q] for q in zip(a, b, strict=True)]

    judge = PriorRemoved(Table(), estimate=4)
    forward = judge.compare(p, a, b)
    backward = judge.compare(p, b, a)
    assert [x + y for x, y in zip(forward, backward, strict=True)] == [1.0] * 12
    assert judge.compare(p[:1], a[:1], a[:1]) == [0.5]


def test_failed_estimation_pairs_are_replaced_and_never_counted():
    inner = FailingJudge(ScorerAsJudge(scorer(40), slot=2.0), share=0.4)
    asked = Asked(inner)
    judge = PriorRemoved(asked, estimate=10)
    answers = judge.compare(*pairs(40))
    assert len(judge.counts.first) == 10
    assert len(asked.calls) > 1
    clean = ScorerAsJudge(scorer(40)).compare(*pairs(40))
    assert None in answers
    for got, true in zip(answers, clean, strict=True):
        assert got is None or got == pytest.approx(true, abs=1e-9)


def test_a_judge_that_always_fails_gives_no_verdict_and_no_prior():
    judge = PriorRemoved(FailingJudge(AlwaysFirst(), share=1.0), estimate=4)
    assert judge.compare(*pairs(6)) == [None] * 6
    assert judge.prior is None
    assert judge.counts.metrics() == {}


def test_the_state_goes_through_json_and_carries_on():
    inner = ScorerAsJudge(scorer(60), slot=1.5)
    first = PriorRemoved(inner, estimate=6)
    first.compare(*pairs(20))
    second = PriorRemoved(Asked(inner), estimate=6)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = pairs(20, start=20)
    assert second.compare(*rest) == first.compare(*rest)
    assert len(second.judge.calls[0]) == 20  # nothing is estimated again
    assert second.state_dict() == first.state_dict()
    with pytest.raises(ValueError, match="rests on 6 pairs, need 7"):
        PriorRemoved(inner, estimate=7).load_state_dict(first.state_dict())


def test_the_shown_order_is_a_fair_coin_by_content():
    shown = [shown_order("p", f"a {i}", f"b {i}") for i in range(400)]
    assert sum(x[0].startswith("a") for x in shown) / 400 == pytest.approx(0.5, abs=0.1)
    assert shown_order("p", "x", "y") == shown_order("p", "y", "x")
    assert len({shown_order("p", "x", "y", seed) for seed in range(8)}) == 2
    assert set(shown_order("p", "\ud800", "y")) == {"\ud800", "y"}


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="estimate >= 1 pairs, got 0"):
        PriorRemoved(AlwaysFirst(), estimate=0)
    with pytest.raises(ValueError, match="clip"):
        PriorRemoved(AlwaysFirst(), clip=0.5)
    with pytest.raises(ValueError, match="1 prompts, 2 jokes a"):
        PriorRemoved(AlwaysFirst()).compare(["p"], ["a", "b"], ["c"])
