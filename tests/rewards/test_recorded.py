from dataclasses import dataclass, field

import pytest

from rewards.build import build_reward
from rewards.fakes import AlwaysFirst, Honest, ScorerAsJudge, ScorerAsRanker, fails
from rewards.ledger import Budget, BudgetReached, Ledger, NotRecorded
from rewards.protocols import Judge, Ranker, Scorer
from rewards.recorded import Recorded
from rewards.types import Rater, Rating
from rewards.wrappers import BothOrders, ShuffledRanks


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", run="run") as opened:
        yield opened


@dataclass
class Answers:
    """Scores and rates by a table, and notes what it was asked; an exception is raised."""

    table: dict
    asked: list = field(default_factory=list)
    name: str = "answers"

    def score(self, prompts, jokes):
        self.asked.append(list(zip(prompts, jokes, strict=True)))
        if isinstance(self.table, Exception):
            raise self.table
        return [self.table[joke] for joke in jokes]


@dataclass
class Rates(Answers):
    def rate(self, prompts, jokes):
        scores = self.score(prompts, jokes)
        return [None if s is None else Rating(s, 0.25, float("nan"), True) for s in scores]


@dataclass
class Ranks:
    answer: object
    name: str = "ranks"

    def rank(self, prompts, groups):
        return [self.answer for _ in groups]


@pytest.mark.parametrize(
    ("critic", "kinds"),
    [
        (Honest(), {Scorer}),
        (AlwaysFirst(), {Judge}),
        (ScorerAsRanker(Honest()), {Ranker}),
        (Rates({}), {Scorer, Rater}),
    ],
)
def test_it_answers_exactly_what_the_critic_answers(ledger, critic, kinds):
    recorded = Recorded(critic, ledger)
    assert {k for k in (Scorer, Judge, Ranker, Rater) if isinstance(recorded, k)} == kinds
    assert recorded.name == critic.name


def test_a_critic_without_a_method_is_refused(ledger):
    with pytest.raises(ValueError, match="nothing to record"):
        Recorded(object(), ledger)


def test_only_new_questions_are_asked_each_once_and_answers_keep_their_order(ledger):
    critic = Answers({"x": 1.0, "y": 2.0, "z": None})
    recorded = Recorded(critic, ledger)
    assert recorded.score(["p"] * 3, ["y", "x", "y"]) == [2.0, 1.0, 2.0]
    assert recorded.score(["p"] * 5, ["z", "x", "z", "y", "x"]) == [None, 1.0, None, 2.0, 1.0]
    assert recorded.score(["p"], ["z"]) == [None]  # its own failure is not asked again
    assert critic.asked == [[("p", "y"), ("p", "x")], [("p", "z")]]
    assert recorded.score([], []) == []
    assert ledger.spent().requests == 3


@pytest.mark.parametrize("method", ["score", "compare", "rank", "rate"])
def test_a_replay_gives_the_same_answers_without_the_critic(tmp_path, method):
    class Noisy:
        name = "noisy"
        calls = 0

        def _next(self, *content):
            Noisy.calls += 1
            return None if fails(0.3, 0, *content) else 1 / (1 + Noisy.calls)

        def score(self, prompts, jokes):
            return [self._next(j) for j in jokes]

        def compare(self, prompts, a, b):
            return [self._next(x, y) for x, y in zip(a, b, strict=True)]

        def rank(self, prompts, groups):
            return [[self._next("r")] * 2 if len(set(g)) > 1 else None for g in groups]

        def rate(self, prompts, jokes):
            return [None if (s := self._next(j)) is None else Rating(s, s, s, True) for j in jokes]

    jokes = [f"joke {i % 20}" for i in range(30)]
    other = jokes[::-1]
    columns = {
        "score": [jokes],
        "rate": [jokes],
        "compare": [jokes, other],
        "rank": [[list(pair) for pair in zip(jokes, other, strict=True)]],
    }[method]
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, run="run") as ledger:
        asked = getattr(Recorded(Noisy(), ledger), method)(["p"] * 30, *columns)
    calls = Noisy.calls
    with Ledger(path, run="run", replay=True) as ledger:
        replayed = Recorded(Noisy(), ledger)
        assert getattr(replayed, method)(["p"] * 30, *columns) == asked
        with pytest.raises(NotRecorded):
            getattr(replayed, method)(["another prompt"] * 30, *columns)
    assert Noisy.calls == calls


def test_what_is_no_number_is_no_verdict_by_cause(ledger):
    critic = Answers({"nan": float("nan"), "inf": float("inf"), "none": None})
    assert Recorded(critic, ledger).score(["p"] * 3, ["nan", "inf", "none"]) == [None] * 3
    judge = ScorerAsJudge(Honest())
    object.__setattr__(judge, "compare", lambda prompts, a, b: [1.5])
    assert Recorded(judge, ledger).compare(["p"], ["a"], ["b"]) == [None]
    ranks = Recorded(Ranks([1.0, float("nan")]), ledger)
    assert ranks.rank(["p"], [["a", "b"]]) == [None]
    causes = {k: v for k, v in ledger.metrics().items() if k.startswith("critic/failed/")}
    assert causes == {
        "critic/failed/not finite": 3.0,
        "critic/failed/no verdict": 1.0,
        "critic/failed/out of range": 1.0,
    }


def test_a_failed_call_keeps_what_was_known_and_is_repeated_on_resume(tmp_path):
    """Else a resumed run would see verdicts that the first one masked, or the other way round."""
    path = tmp_path / "ledger.sqlite"
    critic = Answers({"x": 1.0})
    with Ledger(path, run="run") as ledger:
        recorded = Recorded(critic, ledger)
        recorded.score(["p"], ["x"])
        critic.table = TimeoutError("too slow")
        assert recorded.score(["p"] * 3, ["y", "x", "z"]) == [None, 1.0, None]
        assert ledger.metrics()["critic/failed/TimeoutError"] == 2.0
    critic.table = {"y": 5.0, "z": 6.0}
    with Ledger(path, run="run") as ledger:
        assert Recorded(critic, ledger).score(["p"] * 3, ["y", "x", "z"]) == [None, 1.0, None]
    with Ledger(path, run="another") as ledger:
        assert Recorded(critic, ledger).score(["p"] * 3, ["y", "x", "z"]) == [5.0, 1.0, 6.0]


@pytest.mark.parametrize(
    ("critic", "error"),
    [
        (Answers(ZeroDivisionError("a bug")), ZeroDivisionError),
        (Answers({"x": "a word", "y": 1.0}), ValueError),
        (Answers({}), KeyError),
    ],
)
def test_a_bug_propagates_and_leaves_nothing_behind(tmp_path, critic, error):
    with Ledger(tmp_path / "ledger.sqlite", budget=Budget(requests=2)) as ledger:
        for _ in range(2):
            with pytest.raises(error):
                Recorded(critic, ledger).score(["p", "p"], ["x", "y"])
        assert ledger.spent().requests == 0


def test_another_number_of_answers_is_a_broken_critic(ledger):
    with pytest.raises(ValueError, match="1 answers for 2 questions|answers"):
        Recorded(Ranks([0.5]), ledger).rank(["p"], [["a", "b"]])
    with pytest.raises(ValueError, match="lengths"):
        Recorded(Honest(), ledger).score(["p", "q"], ["x"])


def test_the_budget_is_checked_before_the_critic_is_asked(tmp_path):
    critic = Answers(dict.fromkeys("abcdef", 1.0))
    with Ledger(tmp_path / "ledger.sqlite", budget=Budget(requests=4)) as ledger:
        recorded = Recorded(critic, ledger)
        recorded.score(["p"] * 3, list("abc"))
        with pytest.raises(BudgetReached):
            recorded.score(["p"] * 4, list("bcde"))
        assert recorded.score(["p"] * 3, list("abd")) == [1.0] * 3
        assert critic.asked == [[("p", x) for x in "abc"], [("p", "d")]]


def test_the_order_shown_the_arguments_and_the_method_are_part_of_the_question(ledger):
    judge = Recorded(AlwaysFirst(0.9), ledger, identity=["confidence=0.9"])
    assert judge.compare(["p", "p"], ["a", "b"], ["b", "a"]) == [0.9, 0.9]
    assert ledger.spent().requests == 2
    other = Recorded(AlwaysFirst(0.6), ledger, identity=["confidence=0.6"])
    assert other.compare(["p"], ["a"], ["b"]) == [0.6]
    rater = Recorded(Rates({"a": 1.0}), ledger)
    assert rater.score(["p"], ["a"]) == [1.0]
    (rating,) = rater.rate(["p"], ["a"])
    assert (rating.score, rating.amusing, rating.out_of_domain) == (1.0, 0.25, True)
    assert rating.fact != rating.fact  # NaN: not known


def test_it_stands_wherever_a_critic_stands(ledger):
    prompts, a, b = ["p", "q"], ["one p", "q two"], ["p three", "four"]
    judge, ranker = ScorerAsJudge(Honest(), slot=1.0), ScorerAsRanker(Honest(), slot=0.5)
    plain = BothOrders(judge).compare(prompts, a, b)
    assert BothOrders(Recorded(judge, ledger)).compare(prompts, a, b) == plain
    groups = [list(pair) for pair in zip(a, b, strict=True)]
    plain = ShuffledRanks(ranker).rank(prompts, groups)
    assert ShuffledRanks(Recorded(ranker, ledger)).rank(prompts, groups) == plain
    jokes = ["I lost my keys and the car.", "I lost my keys, they found me.", "Nobody keeps keys."]
    rewards = [
        build_reward(critic, {"humor": 1.0})(["I lost my keys."] * 3, jokes)
        for critic in (Honest(), Recorded(Honest(), ledger))
    ]
    assert rewards[0] == rewards[1]
