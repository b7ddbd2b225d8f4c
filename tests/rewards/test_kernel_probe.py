from dataclasses import replace

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

from rewards.kernel_probe import (
    ProbeRecipe,
    fit_probe,
    kernel_matrix,
    principal_axes,
    prompt_noise,
)

RECIPE = ProbeRecipe((1,), ("mean",), ("recall",), components=5, gamma=0.7, ridge=1.3)


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    n = 60
    prompts = [f"p{i // 4}" for i in range(n)]
    folds = [(i // 4) % 3 for i in range(n)]
    pooled = rng.normal(size=(n, 12)) @ rng.normal(size=(12, 12))
    plain = rng.normal(size=(n, 2))
    targets = np.stack([pooled[:, 0] + plain[:, 0], np.sin(plain[:, 1])], axis=1)
    return pooled, plain, targets, prompts, folds


def test_equals_sklearns_kernel_ridge(data):
    pooled, plain, targets, prompts, folds = data
    probe = fit_probe(RECIPE, *data)
    x = probe.rows(pooled, plain)
    ridge = KernelRidge(kernel="rbf", gamma=0.7, alpha=1.3)
    full = ridge.fit(x, targets - targets.mean(0)).predict(x) + targets.mean(0)
    got = probe.predict(pooled, plain, [-1] * len(pooled)).values
    np.testing.assert_allclose(got, full, atol=1e-4)
    at = np.array(folds) != 1
    mean = targets[at].mean(0)
    without = ridge.fit(x[at], targets[at] - mean).predict(x) + mean
    got = probe.predict(pooled, plain, folds).values
    np.testing.assert_allclose(got[~at], without[~at], atol=1e-4)


def test_linear_kernel_equals_sklearns(data):
    pooled, plain, targets, *_ = data
    probe = fit_probe(replace(RECIPE, kernel="linear"), *data)
    x = probe.rows(pooled, plain)
    mean = targets.mean(0)
    want = KernelRidge(kernel="linear", alpha=1.3).fit(x, targets - mean).predict(x) + mean
    np.testing.assert_allclose(probe.predict(pooled, plain, [-1] * 60).values, want, atol=1e-3)


def test_rows_have_mean_squared_norm_one(data):
    probe = fit_probe(RECIPE, *data)
    assert (probe.points**2).sum(1).mean() == pytest.approx(1, abs=1e-5)


def test_a_prompts_labels_never_touch_its_own_score(data):
    pooled, plain, targets, prompts, folds = data
    own = np.array([p == "p4" for p in prompts])
    changed = targets.copy()
    changed[own] += 100
    a = fit_probe(RECIPE, *data).predict(pooled, plain, folds).values
    b = fit_probe(RECIPE, pooled, plain, changed, prompts, folds)
    b = b.predict(pooled, plain, folds).values
    fold = folds[prompts.index("p4")]
    same = np.array(folds) == fold
    np.testing.assert_allclose(a[same], b[same], atol=1e-5)
    assert np.abs(a[~same] - b[~same]).max() > 1  # the labels do count for others


def test_share_minimises_its_loss(data):
    """The closed form is the minimum of squared error + within-prompt error + norm."""
    pooled, plain, targets, prompts, folds = data
    share, ridge = 0.6, 1.3
    recipe = replace(RECIPE, share=share)
    probe = fit_probe(recipe, *data)
    kernel = kernel_matrix(probe.points, probe.points, recipe).astype(float)
    weights = probe.weights[0, :, 0].astype(float)
    y = targets[:, 0] - targets[:, 0].mean()
    group = np.unique(prompts, return_inverse=True)[1]
    centring = (np.eye(60) - prompt_noise(group, share)) / share

    def loss(a):
        error = y - kernel @ a
        within = centring @ error
        return error @ error + share / (1 - share) * within @ within + ridge * a @ kernel @ a

    rng = np.random.default_rng(0)
    best = loss(weights)
    for _ in range(20):
        assert loss(weights + 0.01 * rng.normal(size=60)) > best


def test_noise_is_the_identity_without_share():
    group = np.array([0, 0, 1])
    np.testing.assert_allclose(prompt_noise(group, 0.0), np.eye(3))
    half = prompt_noise(group, 0.5)
    np.testing.assert_allclose(half[:2, :2], [[0.75, 0.25], [0.25, 0.75]])
    assert half[2, 2] == 1  # a line alone has no order to learn: all of its noise stays


@pytest.mark.parametrize("shape", [(40, 6), (8, 30)])
def test_components_are_uncorrelated_with_unit_variance(shape):
    rng = np.random.default_rng(1)
    z = rng.normal(size=shape)
    z -= z.mean(0)
    x = z @ principal_axes(z, 4)
    np.testing.assert_allclose(x.T @ x / len(x), np.eye(4), atol=1e-4)


def test_vanishing_components_are_zero():
    z = np.outer(np.linspace(-1, 1, 9), np.ones(5))
    axes = principal_axes(z, 3)
    assert np.abs(axes[:, 1:]).max() == 0


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_nearest_is_one_at_a_fitted_line_and_skips_its_own_fold(data, kernel):
    pooled, plain, _, _, folds = data
    probe = fit_probe(replace(RECIPE, kernel=kernel), *data)
    np.testing.assert_allclose(probe.predict(pooled, plain, [-1] * 60).nearest, 1, atol=1e-5)
    assert probe.predict(pooled, plain, folds).nearest.max() < 0.999
    far = probe.predict(pooled + 1000, plain, [-1] * 60).nearest
    assert far.max() < 1e-3


def test_far_away_a_probe_says_its_mean(data):
    pooled, plain, targets, *_ = data
    far = fit_probe(RECIPE, *data).predict(pooled + 1e4, plain, [-1] * 60).values
    np.testing.assert_allclose(far, np.broadcast_to(targets.mean(0), far.shape), atol=1e-5)


def test_a_prompt_in_two_folds_is_refused(data):
    pooled, plain, targets, prompts, folds = data
    with pytest.raises(ValueError, match="more than one fold"):
        fit_probe(
            RECIPE,
            pooled,
            plain,
            targets,
            prompts,
            [(f + (i == 0)) % 3 for i, f in enumerate(folds)],
        )


def test_too_few_lines_are_refused(data):
    with pytest.raises(ValueError, match="more lines than"):
        fit_probe(RECIPE, *(x[:4] for x in data))


@pytest.mark.parametrize(
    "wrong",
    [{"share": 1.0}, {"ridge": 0.0}, {"gamma": -1.0}, {"components": 0}, {"kernel": "poly"}],
)
def test_impossible_recipes_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        replace(RECIPE, **wrong)


def test_recipe_survives_json():
    assert ProbeRecipe.from_json(RECIPE.to_json()) == RECIPE
