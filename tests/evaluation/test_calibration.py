import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.calibration import auc, reliability


def test_auc_agrees_with_scikit_learn_ties_included():
    random = np.random.default_rng(0)
    score, happened = random.integers(0, 5, size=300) / 5, random.random(300) < 0.3
    assert auc(score, happened) == pytest.approx(roc_auc_score(happened, score))


def test_auc_ends():
    assert auc([0.1, 0.2, 0.9], [0, 0, 1]) == 1.0
    assert auc([0.1, 0.2, 0.9], [1, 1, 0]) == 0.0
    assert auc([0.5, 0.5], [0, 1]) == 0.5
    with pytest.raises(ValueError, match="2 true and 0 false"):
        auc([0.1, 0.2], [1, 1])


def test_a_calibrated_probability_has_no_error():
    result = reliability([0.25] * 4 + [1.0], [1, 0, 0, 0, 1])
    assert result.ece == 0.0
    assert result.bins == [(0.25, 0.25, 4), (1.0, 1.0, 1)]


def test_a_constant_offset_is_the_error():
    random = np.random.default_rng(0)
    p = random.uniform(0.1, 0.7, size=50_000)
    happened = random.random(50_000) < p + 0.2
    assert reliability(p, happened).ece == pytest.approx(0.2, abs=0.01)


def test_probabilities_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        reliability([1.2], [1])
    with pytest.raises(ValueError, match="at least one"):
        reliability([None], [1])
