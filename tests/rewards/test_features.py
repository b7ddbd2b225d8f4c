import numpy as np
import pytest

from rewards.features import (
    LIKELIHOOD_NAMES,
    PLAIN_NAMES,
    POOLINGS,
    features,
    likelihood_features,
    longest_run,
    plain_features,
    pool,
    text_features,
)

PROMPT = "The cat slept on the warm laptop all afternoon."


def named(prompt, joke, logps=(-1.0, -1.0)):
    return dict(zip(PLAIN_NAMES, plain_features(prompt, joke, np.array(logps)), strict=True))


def test_a_copy_keeps_and_borrows_everything():
    f = named(PROMPT, PROMPT)
    for name in ("recall", "precision", "kept", "borrowed", "length_ratio", "equal", "run"):
        assert f[name] == 1
    assert f["near_copy"] == 1
    assert f["tail_new"] == 0
    assert f["new_words"] == 0


def test_shuffling_the_words_changes_order_features_only():
    words = PROMPT.split()
    shuffled = " ".join(words[::-1])
    a, b = named(PROMPT, PROMPT), named(PROMPT, shuffled)
    assert b["recall"] == a["recall"]
    assert b["length"] == a["length"]
    assert b["kept"] < a["kept"]
    assert b["run"] < a["run"]


def test_pooling_by_hand():
    states = np.array([[[1.0, 2.0]], [[3.0, 6.0]], [[10.0, 20.0]]])  # two tokens and the end token
    got = pool(states, POOLINGS).reshape(len(POOLINGS), 2)
    by_name = dict(zip(POOLINGS, got.tolist(), strict=True))
    assert by_name == {
        "mean": [2, 4],
        "last": [10, 20],
        "first": [1, 2],
        "max": [3, 6],
        "tail": [3, 6],
        "spread": [1, 2],
    }


def test_pooling_is_layer_major():
    states = np.arange(2 * 3 * 4, dtype=float).reshape(2, 3, 4)
    both = pool(states, ("mean", "last"))
    one = [pool(states[:, [k]], ("mean", "last")) for k in range(3)]
    np.testing.assert_array_equal(both, np.concatenate(one))


def test_likelihood_by_hand():
    logps = np.array([-1.0, -2.0, -6.0, -0.5])
    f = dict(zip(LIKELIHOOD_NAMES, likelihood_features(logps), strict=True))
    assert f["logp_mean"] == -3
    assert f["logp_min"] == -6
    assert f["logp_end"] == -0.5
    assert (f["logp_head"], f["logp_middle"], f["logp_tail"]) == (-1, -2, -6)
    assert f["logp_sum"] == -9


@pytest.mark.parametrize("joke", ["", " ", "\ud83d", "😀😀", "a\n\nb", '"', "x" * 5000])
def test_strange_jokes_have_finite_features(joke):
    states = np.ones((3, 2, 4), dtype=np.float32)
    f = features(PROMPT, joke, states, np.full(3, -1.0, dtype=np.float32), POOLINGS)
    assert np.isfinite(f.plain).all()
    assert f.pooled.shape == (2 * len(POOLINGS) * 4,)


def test_the_end_token_alone_is_enough():
    f = features(PROMPT, "", np.ones((1, 1, 2)), np.array([-3.0]), ("mean", "tail", "last"))
    assert f.pooled.tolist() == [1] * 6


@pytest.mark.parametrize(
    ("states", "logps", "message"),
    [
        (np.ones((2, 1, 3)), np.ones(3), "one T"),
        (np.ones((0, 1, 3)), np.ones(0), "one T"),
        (np.ones((2, 3)), np.ones(2), "one T"),
        (np.full((2, 1, 3), np.nan), np.ones(2), "not finite"),
        (np.ones((2, 1, 3)), np.array([-np.inf, 0]), "not finite"),
    ],
)
def test_bad_arrays_are_refused(states, logps, message):
    with pytest.raises(ValueError, match=message):
        features(PROMPT, "x", states, logps)


def test_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="median"):
        pool(np.ones((2, 1, 3)), ("median",))


def test_longest_run():
    assert longest_run("a b c d".split(), "x b c y d".split()) == 2
    assert longest_run([], ["a"]) == 0
    assert longest_run(["a"], []) == 0


def test_text_features_need_no_model():
    both = plain_features(PROMPT, "A joke.", np.array([-1.0, -2.0]))
    np.testing.assert_array_equal(both[: -len(LIKELIHOOD_NAMES)], text_features(PROMPT, "A joke."))
