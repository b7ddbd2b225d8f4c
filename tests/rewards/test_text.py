import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.text import (
    common_subsequence,
    content_words,
    is_near_copy,
    ngrams,
    precision,
    recall,
    words,
)

LINES = st.lists(st.sampled_from("a b c d".split()), max_size=7)


def test_words_keep_inner_apostrophes_and_drop_marks():
    assert words("Don\u2019t PANIC: it's 3 o'clock!") == ["don't", "panic", "it's", "3", "o'clock"]
    assert words("\U0001f600 \u2026 _ \ud800") == []
    assert words("\u00dcber caf\u00e9") == ["\u00fcber", "caf\u00e9"]


def test_content_words_leave_stop_words_and_endings_out():
    assert content_words("It's the cat's hat, isn't it?") == {"cat", "hat", "isn"}


def test_recall_and_precision_by_hand():
    prompt, joke = "The cat ate my red hat", "A red cat, a red dog, a lawyer"
    assert recall(prompt, joke) == 2 / 4
    assert precision(prompt, joke) == 2 / 4
    assert recall("it is", joke) == precision(prompt, "") == 0.0
    assert recall(prompt, prompt) == precision(prompt, prompt) == 1.0


@given(LINES, LINES)
def test_common_subsequence_is_symmetric_bounded_and_whole_for_equal_lines(a, b):
    length = common_subsequence(a, b)
    assert length == common_subsequence(b, a) <= min(len(a), len(b))
    assert common_subsequence(a, a) == len(a)
    assert common_subsequence([*a, "z"], [*b, "z"]) == length + 1


@given(LINES, LINES)
def test_near_copies_are_mutual(a, b):
    a, b = " ".join(a), " ".join(b)
    assert is_near_copy(a, b) == is_near_copy(b, a)
    assert is_near_copy(a, a)


@pytest.mark.parametrize(
    ("joke", "near"),
    [
        ("one two three four five", True),
        ("One, two, three, four!", True),
        ("one two three four five six", True),
        ("one two three six seven", False),
        ("one two three four five and then a punchline", False),
        ("five four three two one", False),
        ("", False),
    ],
)
def test_a_near_copy_shares_four_fifths_of_both(joke, near):
    assert is_near_copy("one two three four five", joke) is near


def test_ngrams_keep_order_and_repeats():
    assert ngrams("a b a b", 2) == [("a", "b"), ("b", "a"), ("a", "b")]
    assert ngrams("a", 2) == []
