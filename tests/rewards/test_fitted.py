import json
from dataclasses import replace

import numpy as np
import pytest

from rewards.features import PLAIN_NAMES
from rewards.fitted import (
    Calibration,
    FittedCritic,
    Inputs,
    answers,
    calibrate,
    load_critic,
    make_inputs,
    platt,
    prompt_key,
    rounded,
    save_critic,
    sigmoid,
)
from rewards.kernel_probe import Prediction, ProbeRecipe, fit_probe


@pytest.fixture
def critic():
    rng = np.random.default_rng(5)
    recipes = [
        ProbeRecipe((1, 2), ("mean",), ("recall", "length"), components=4),
        ProbeRecipe((2,), ("mean", "last"), ("logp_mean",), components=3, kernel="linear"),
    ]
    n = 30
    plain = rng.normal(size=(n, len(PLAIN_NAMES))).astype(np.float32)
    pooled = [rng.normal(size=(n, 10)).astype(np.float32), rng.normal(size=(n, 8))]
    targets = rng.uniform(0, 1, size=(n, 3)).astype(np.float32)
    prompts = [f"p{i // 3}" for i in range(n)]
    folds = {f"p{k}": k % 5 for k in range(10)}
    probes = []
    for recipe, x in zip(recipes, pooled, strict=True):
        columns = [PLAIN_NAMES.index(name) for name in recipe.plain]
        of_line = [folds[p] for p in prompts]
        probes.append(fit_probe(recipe, x, plain[:, columns], targets, prompts, of_line))
    return (
        FittedCritic(
            tuple(rounded(p) for p in probes),
            Calibration((1.1, 0.2), (2.0, -1.0), (3.0, 0.5), 0.0),
            {prompt_key(p): f for p, f in folds.items()},
        ),
        Inputs(pooled, plain),
        prompts,
    )


def test_a_saved_critic_answers_identically(critic, tmp_path):
    fitted, inputs, prompts = critic
    save_critic(tmp_path / "c", fitted, {"kind": "mine"})
    loaded, manifest = load_critic(tmp_path / "c")
    assert manifest["kind"] == "mine"
    assert loaded.layers == fitted.layers == (1, 2)
    assert loaded.calibration == fitted.calibration
    for a, b in zip(fitted.judge(prompts, inputs), loaded.judge(prompts, inputs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_changed_model_file_is_refused(critic, tmp_path):
    save_critic(tmp_path, critic[0], {})
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="its manifest names"):
        load_critic(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"manifest\.json is missing"):
        load_critic(tmp_path)


def test_fitted_prompts_are_scored_by_their_fold_model(critic):
    fitted, inputs, prompts = critic
    known = fitted.judge(prompts, inputs)
    new = fitted.judge([p + " indeed" for p in prompts], inputs)
    assert np.abs(known.score - new.score).max() > 1e-3
    spaced = fitted.judge([f"  {p}\n" for p in prompts], inputs)
    np.testing.assert_array_equal(spaced.score, known.score)


def test_platt_recovers_a_logistic_curve():
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, size=20000)
    y = rng.uniform(size=x.size) < sigmoid(1.5 * x - 0.7)
    slope, intercept = platt(x, y)
    assert slope == pytest.approx(1.5, abs=0.08)
    assert intercept == pytest.approx(-0.7, abs=0.08)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.arange(10.0), np.arange(10) >= 5),  # separable
        (np.zeros(10), np.arange(10) >= 5),  # constant
        (np.arange(10.0), np.ones(10)),  # one class
        (np.arange(10.0), np.arange(10) < 5),  # against the values
    ],
)
def test_platt_is_finite_and_never_decreasing(x, y):
    slope, intercept = platt(x, y.astype(float))
    assert np.isfinite([slope, intercept]).all()
    assert slope >= 0
    p = sigmoid(slope * x + intercept)
    assert p.mean() == pytest.approx(y.mean(), abs=0.1)


def test_calibration_keeps_the_mean_and_sets_the_guard():
    rng = np.random.default_rng(2)
    raw = Prediction(rng.normal(size=(500, 3)), rng.uniform(size=500))
    targets = np.stack([raw.values[:, 0] * 0.5 + 2, *(raw.values[:, 1:] > 0).T], axis=1)
    own = np.arange(500) < 400
    c = calibrate(raw, targets, own)
    assert c.rating == pytest.approx((0.5, 2.0))
    assert (raw.nearest[own] < c.nearest).mean() == pytest.approx(0.01, abs=0.003)
    for values, low in zip(answers(c, raw.values), c.pessimistic, strict=True):
        assert (values[own] < low).mean() == pytest.approx(0.01, abs=0.003)


def test_the_guard_lowers_all_three_answers_and_only_out_of_domain(critic):
    fitted, inputs, prompts = critic
    limits = (0.2, 0.05, 0.1)
    strict = replace(
        fitted, calibration=replace(fitted.calibration, nearest=2.0, pessimistic=limits)
    )
    free, held = fitted.judge(prompts, inputs), strict.judge(prompts, inputs)
    assert not free.away.any()
    assert held.away.all()
    for before, after, limit in zip(free[:3], held[:3], limits, strict=True):
        np.testing.assert_array_equal(after, np.minimum(before, limit))


def test_a_layer_that_the_reader_lacks_is_refused():
    recipe = ProbeRecipe((3,), ("mean",))
    with pytest.raises(ValueError, match=r"layers \[3\], the reader gives \[1, 2\]"):
        make_inputs([recipe], ["p"], ["j"], [np.ones((2, 2, 4))], [np.ones(2)], [1, 2])


def test_the_manifest_is_plain_json(critic, tmp_path):
    save_critic(tmp_path, critic[0], {"prompt_ids": ["a"]})
    body = json.loads((tmp_path / "manifest.json").read_text())
    assert body["prompt_ids"] == ["a"]
    assert [p["layers"] for p in body["probes"]] == [[1, 2], [2]]
