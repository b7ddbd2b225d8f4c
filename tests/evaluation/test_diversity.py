import numpy as np
import pytest

from evaluation.diversity import (
    commonest_opening,
    commonest_own_phrase,
    distinct_n,
    longest_overlaps,
    near_copies_of_any,
    near_copy_share,
    self_bleu,
)
from rewards.text import is_near_copy


def test_distinct_n_ends():
    assert distinct_n([["a b c"], ["d e f"]]) == 1.0
    assert distinct_n([["a b c"], ["a b c"]]) == 0.5
    assert distinct_n([["a"], [""]]) is None


def test_distinct_n_compares_equal_numbers_of_lines():
    # Two lines a prompt that repeat each other look worse together than one at a time.
    jokes = [["a b c", "a b c"], ["d e f", "d e f"]]
    assert distinct_n(jokes) == 0.5
    assert distinct_n(jokes, lines=1) == 1.0
    with pytest.raises(ValueError, match=r"lines is 3, must be in 1\.\.2"):
        distinct_n(jokes, lines=3)


def test_self_bleu_ends():
    assert self_bleu([["the cat sat on the mat"] * 3]) == pytest.approx(1.0)
    assert self_bleu([["one two three four", "five six seven eight"]]) == 0.0
    assert self_bleu([["alone"]]) is None
    assert self_bleu([["", "a b"]]) == 0.0


def test_self_bleu_rises_with_shared_words():
    far = self_bleu([["the cat sat on the mat today", "the dog ran up a hill today"]])
    near = self_bleu([["the cat sat on the mat today", "the cat sat on the hill today"]])
    assert 0 < far < near < 1


def test_self_bleu_by_hand():
    # One word of two shared, no pair: p1 = 1/2, p2 = (0 + 1)/(1 + 1), p3 = p4 = 1/1; no penalty.
    assert self_bleu([["a b", "a c"]]) == pytest.approx((0.5 * 0.5) ** 0.25)


def test_commonest_phrases():
    prompts = ["I lost my keys", "the dog barked"]
    jokes = [["I lost my keys and now I live here"], ["The dog barked and now I live in fear"]]
    assert commonest_own_phrase(prompts, jokes) == ("and now i live", 1.0)
    assert commonest_opening([["My cat is a cat", "my cat is away"], ["No"]]) == (
        "my cat is",
        pytest.approx(2 / 3),
    )
    assert commonest_own_phrase(["a b c d"], [["a b c d"]]) == ("", 0.0)


def test_a_phrase_counts_once_a_line():
    assert commonest_own_phrase(["x"], [["a b c d a b c d", "q"]]).share == 0.5


def test_near_copies_of_the_prompt():
    prompts = ["I lost my keys again today"]
    jokes = [["I lost my keys again today!", "My keys lost me."]]
    assert near_copy_share(prompts, jokes) == 0.5


def test_near_copies_of_training_jokes_agree_with_the_slow_way():
    random = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(12)]

    def line(n):
        return " ".join(random.choice(vocabulary, size=n))

    training = [line(int(random.integers(3, 9))) for _ in range(150)]
    jokes = [line(int(random.integers(3, 9))) for _ in range(150)] + training[:20] + [""]
    for place in range(20):  # one word changed of a known joke
        words = training[place].split()
        words[0] = "new"
        jokes.append(" ".join(words))
    slow = [bool(j) and any(is_near_copy(t, j) for t in training) for j in jokes]
    assert near_copies_of_any(jokes, training) == slow
    assert 20 <= sum(slow) < len(jokes)


def test_longest_overlap_is_the_longest_run_in_any_training_joke():
    training = ["a b c d e", "x y a b z"]
    jokes = ["q a b c z", "x y a b z", "e", "nothing known", ""]
    assert longest_overlaps(jokes, training) == [3, 5, 1, 0, 0]
