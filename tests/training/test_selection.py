import math

import pytest

from evaluation.bounds import broken_bounds
from rewards.fakes import CountsWord, failing
from rewards.types import Rating, Unfinished
from training import selection
from training.parts import ScoresOnly, as_rater
from training.selection import (
    Look,
    look,
    rate_jokes,
    text_metrics,
    tune_decoding,
    write_jokes,
)

PROMPTS = ["a lamp ran late .", "the bread sang .", "my hat slept in the rain ."]
HOW = {"temperature": 1.0, "max_tokens": 10, "seed": 3}


@pytest.fixture(scope="module")
def student(word_base):
    import torch

    from agents.student import Student

    return Student.load(str(word_base), dtype=torch.float32)


def test_same_seed_same_jokes_in_the_shape_of_the_prompts(student):
    one = write_jokes(student, PROMPTS, 4, **HOW)
    assert [len(row) for row in one] == [4, 4, 4]
    assert one == write_jokes(student, PROMPTS, 4, **HOW)
    assert one != write_jokes(student, PROMPTS, 4, **(HOW | {"seed": 4}))


def test_unfinished_jokes_are_marked(student):
    jokes = [j for row in write_jokes(student, PROMPTS, 8, **HOW) for j in row]
    marked = [isinstance(j, Unfinished) for j in jokes]
    assert {True, False} == set(marked)
    assert all(len(j.split()) <= 10 for j in jokes)


def test_greedy_decoding_writes_one_joke_a_prompt(student):
    jokes = write_jokes(student, PROMPTS, 4, **(HOW | {"temperature": 0.0}))
    assert [len(row) for row in jokes] == [1, 1, 1]


def test_ratings_keep_the_shape_and_their_missing_verdicts():
    jokes = [["the the", "cat"], ["the"]]
    rated = rate_jokes(ScoresOnly(CountsWord("the")), PROMPTS[:2], jokes)
    assert [[r.score for r in row] for row in rated] == [[2, 0], [1]]
    assert math.isnan(rated[0][0].amusing)
    lost = rate_jokes(ScoresOnly(failing(CountsWord("the"), 1.0)), PROMPTS[:2], jokes)
    assert lost == [[None, None], [None]]


def test_unfinished_and_empty_jokes_lose_whatever_the_critic_says(student):
    class Generous:
        def rate(self, prompts, jokes):
            return [Rating(9.0, 1.0, 1.0, False) for _ in jokes]

    seen = look(student, Generous(), PROMPTS, 8, **HOW)
    for row, score in zip(seen.jokes, seen.scores, strict=True):
        kept = [0.0 if isinstance(j, Unfinished) or not j else 9.0 for j in row]
        assert score == pytest.approx(sum(kept) / 8)


def test_mean_of_a_look_is_over_prompts_with_a_verdict():
    assert Look([], [], [1.0, None, 4.0]).mean == 2.5
    assert math.isnan(Look([], [], [None]).mean)


def test_decoding_without_a_verdict_is_never_the_best(student, monkeypatch):
    answers = {0.0: None, 0.4: 1.0, 0.7: 2.0}

    def told(*_, temperature, **__):
        return Look([], [], [answers[temperature]])

    monkeypatch.setattr(selection, "look", told)
    monkeypatch.setattr(student, "tuned_temperature", 0.4)
    how = {"max_tokens": 40, "seed": 3}
    assert tune_decoding(student, None, PROMPTS, **how)[0] == 0.7
    answers.update(dict.fromkeys(answers))
    assert tune_decoding(student, None, PROMPTS, **how)[0] == 0.4


@pytest.mark.parametrize(
    ("cool", "warm", "chosen"),
    [
        ([2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 3.0], 0.0),  # lead .25, its standard error .25
        ([2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 3.0, 3.0], 0.7),  # lead .50, its standard error .29
        ([3.0, 1.0, 3.0, 1.0], [3.1, 1.1, 3.1, 1.1], 0.7),  # small, but on every prompt
        ([3.0, 3.0, 3.0, 3.0], [2.0, 2.0, 2.0, 2.0], 0.0),
        ([2.0, None, 2.0, 2.0], [2.0, 9.0, 2.0, 3.0], 0.0),  # only what both have is compared
        ([2.0, None, None, None], [None, 2.0, 3.0, 3.0], 0.7),  # nothing in common: no doubt
    ],
)
def test_a_warmer_decoding_must_lead_by_more_than_a_standard_error(
    student, monkeypatch, cool, warm, chosen
):
    answers = {0.0: cool, 0.7: warm}
    monkeypatch.setattr(
        selection, "look", lambda *_, temperature, **__: Look([], [], answers[temperature])
    )
    how = {"max_tokens": 40, "seed": 3, "grid": (0.0, 0.7)}
    assert tune_decoding(student, None, PROMPTS, **how)[0] == chosen


def test_decoding_is_tuned_on_the_same_lines_as_a_look(student):
    class CountsLetters:
        def rate(self, prompts, jokes):
            return [Rating(float(j.count("a")), 0.0, 0.0, False) for j in jokes]

    critic = CountsLetters()
    how = {"max_tokens": 40, "seed": 3}
    _, means = tune_decoding(student, critic, PROMPTS, grid=(0.0, 0.7, 1.5), **how)
    looks = {
        f"{t:g}": look(student, critic, PROMPTS, 1, temperature=t, **how) for t in (0.0, 0.7, 1.5)
    }
    assert means == {t: seen.mean for t, seen in looks.items()}
    assert len(set(means.values())) > 1


def test_text_metrics_in_closed_form():
    jokes = [["the lamp ran very late"], ["the lamp ran"]]
    metrics = text_metrics(PROMPTS[:2], jokes, "x")
    assert metrics["x/words"] == 4
    assert metrics["x/recall"] == pytest.approx((1.0 + 0.0) / 2)
    assert metrics["x/commonest_opening"] == 1.0
    assert metrics["x/commonest_4gram"] == 0.5


AS_TUNED = {
    "tuned/words": 10.0,
    "tuned/recall": 0.3,
    "tuned/distinct_2": 0.8,
    "tuned/commonest_4gram": 0.05,
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"words": 12.4, "recall": 0.39, "distinct_2": 0.7}, []),
        ({"words": 7.9}, ["length is 0.79 of start-tuned's"]),
        ({"words": 12.6}, ["length is 1.26 of start-tuned's"]),
        ({"recall": 0.45}, ["recall of the prompt rose by 0.15"]),
        ({"distinct_2": 0.6}, ["distinct-2 fell from 0.80 to 0.60"]),
        ({"commonest_4gram": 0.2}, ["one 4-gram stands in 20% of lines"]),
    ],
)
@pytest.mark.parametrize("prefix", ["select", "tuned"])
def test_bounds_against_start_tuned(changes, told, prefix):
    now = {f"{prefix}/{name.removeprefix('tuned/')}": value for name, value in AS_TUNED.items()}
    now |= {f"{prefix}/{name}": value for name, value in changes.items()}
    assert broken_bounds(now, AS_TUNED, prefix) == told


def test_critic_that_only_compares_cannot_select():
    class Compares:
        def compare(self, prompts, a, b):
            return [0.5 for _ in a]

    with pytest.raises(ValueError, match="must score jokes"):
        as_rater(Compares())
