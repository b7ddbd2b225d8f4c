import math

import numpy as np
import pytest
from scipy import stats

from evaluation.correlation import correlation, error_correlation, ranks, spearman


def test_ranks_and_correlations_agree_with_scipy():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 6, size=(2, 200)).astype(float)
    assert ranks(a) == pytest.approx(stats.rankdata(a))
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert correlation(a, b) == pytest.approx(stats.pearsonr(a, b).statistic)


def test_no_spread_has_no_correlation():
    assert math.isnan(spearman([1.0, 1.0], [1.0, 2.0]))
    assert math.isnan(spearman([1.0], [1.0]))


def test_unscored_jokes_are_left_out():
    assert spearman([1.0, None, 2.0, 3.0], [1.0, 99.0, 2.0, 3.0]) == pytest.approx(1.0)


def test_critics_with_own_errors_are_independent_however_much_they_shrink():
    random = np.random.default_rng(0)
    label = random.normal(size=4000)
    a, b = (0.2 * label + 0.3 * random.normal(size=4000) for _ in range(2))
    errors = error_correlation(a, b, label)
    assert errors.partial == pytest.approx(0.0, abs=0.05)
    assert errors.residual > 0.8


def test_critics_with_one_shared_error_are_not():
    random = np.random.default_rng(0)
    label, shared = random.normal(size=(2, 4000))
    a, b = (0.5 * label + shared + 0.1 * random.normal(size=4000) for _ in range(2))
    assert error_correlation(a, b, label).partial > 0.9
    assert error_correlation(a, a, label).partial == pytest.approx(1.0)
