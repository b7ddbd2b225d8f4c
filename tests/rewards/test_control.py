import json

import numpy as np
import pytest

from rewards.control import (
    Control,
    ControlConfig,
    LabelledJoke,
    covariates,
    fit_curves,
    fit_slopes,
    local_line,
)

WORDS = ["red", "blue", "green", "white", "black", "pink", "grey", "gold"]
PROMPT_WORDS = "apple bridge candle donkey engine feather".split()


def lines(n_prompts=40, k=6, seed=0, *, score_slope=(0.3, 2.0), label_slope=(0.1, 1.0), noise=0.1):
    """Jokes of varying length and overlap whose scores and labels have known slopes on them."""
    rng = np.random.default_rng(seed)
    jokes, scores = [], []
    for p in range(n_prompts):
        prompt = " ".join(PROMPT_WORDS) + f" number{p}"
        for _ in range(k):
            kept = PROMPT_WORDS[: rng.integers(0, 7)]
            own = rng.choice(WORDS, size=rng.integers(1, 9)).tolist()
            joke = " ".join([*kept, *own])
            x = np.array(covariates(prompt, joke, ("length", "overlap")))
            base = 0.2 * p
            label = base + x @ label_slope + noise * rng.normal()
            scores.append(float(base + x @ score_slope + noise * rng.normal()))
            jokes.append(LabelledJoke(prompt, joke, float(label)))
    return jokes, scores


def slopes_of(jokes, values):
    x = np.array([covariates(j.prompt, j.joke, ("length", "overlap")) for j in jokes])
    ids = {p: i for i, p in enumerate(dict.fromkeys(j.prompt for j in jokes))}
    return fit_slopes(x, np.array(values), [ids[j.prompt] for j in jokes]).slope


def debiased(control, jokes, scores):
    return control.apply([j.prompt for j in jokes], [j.joke for j in jokes], scores)


def fitted(mode, jokes, scores, **options):
    control = Control(ControlConfig(mode=mode, **options))
    control.calibrate(jokes, scores)
    return control


def test_calibrated_leaves_exactly_the_labels_slopes():
    jokes, scores = lines()
    control = fitted("calibrated", jokes, scores, same_scale=True)
    after = slopes_of(jokes, debiased(control, jokes, scores))
    assert after == pytest.approx(slopes_of(jokes, [j.label for j in jokes]), abs=1e-9)


def test_calibrated_does_not_care_about_the_critics_unit():
    jokes, scores = lines()
    once = debiased(fitted("calibrated", jokes, scores), jokes, scores)
    scaled = [10 * s + 3 for s in scores]
    ten = debiased(fitted("calibrated", jokes, scaled), jokes, scaled)
    assert ten == pytest.approx([10 * x + 3 for x in once])


@pytest.mark.parametrize("label_slope", [(0.1, 1.0), (-0.1, -1.0)])
def test_a_critics_liking_for_length_does_not_pass_for_another_scale(label_slope):
    jokes, scores = lines(label_slope=label_slope, noise=0.0)
    quality = np.random.default_rng(1).normal(size=len(jokes))  # beside length and overlap
    jokes = [j._replace(label=j.label + q) for j, q in zip(jokes, quality, strict=True)]
    scores = [3 * (s + q) for s, q in zip(scores, quality, strict=True)]
    after = slopes_of(jokes, debiased(fitted("calibrated", jokes, scores), jokes, scores))
    assert after == pytest.approx(3 * slopes_of(jokes, [j.label for j in jokes]))


def test_a_critic_against_the_labels_keeps_no_slope():
    jokes, scores = lines()
    against = [-s for s in scores]
    after = slopes_of(jokes, debiased(fitted("calibrated", jokes, against), jokes, against))
    assert after == pytest.approx([0, 0], abs=1e-9)


def test_a_critic_that_shares_the_labels_slopes_is_left_alone():
    jokes, scores = lines(score_slope=(0.1, 1.0), noise=0.0)
    control = fitted("calibrated", jokes, scores)
    assert debiased(control, jokes, scores) == pytest.approx(scores)


def test_a_critic_that_follows_the_labels_too_little_is_not_pushed():
    jokes, scores = lines(score_slope=(0.05, 0.5), noise=0.0)
    control = fitted("calibrated", jokes, scores, same_scale=True)
    assert debiased(control, jokes, scores) == scores


def test_labels_that_go_the_other_way_are_followed():
    jokes, scores = lines(score_slope=(0.3, 2.0), label_slope=(-0.1, 1.0), noise=0.0)
    control = fitted("calibrated", jokes, scores, same_scale=True)
    after = slopes_of(jokes, debiased(control, jokes, scores))
    assert after == pytest.approx([-0.1, 1.0])


def test_linear_leaves_no_slope_on_the_calibration_jokes():
    jokes, scores = lines()
    after = slopes_of(jokes, debiased(fitted("linear", jokes, scores), jokes, scores))
    assert after == pytest.approx([0, 0], abs=1e-9)


def test_lowess_removes_a_curve_that_a_line_cannot():
    jokes, _ = lines()
    length = np.array([covariates(j.prompt, j.joke, ("length",))[0] for j in jokes])
    scores = ((length - length.mean()) ** 2).tolist()
    options = {"covariates": ("length",)}
    straight = np.var(debiased(fitted("linear", jokes, scores, **options), jokes, scores))
    curved = np.var(debiased(fitted("lowess", jokes, scores, **options), jokes, scores))
    assert curved < 0.35 * straight


def test_none_is_the_identity_without_any_calibration():
    control = Control(ControlConfig(mode="none"))
    assert control.apply(["p"] * 2, ["a", "b"], [1.5, None]) == [1.5, None]
    control.observe(["p"], ["a"], [1.0])
    assert control.metrics == {}


@pytest.mark.parametrize("mode", ["linear", "lowess", "calibrated"])
def test_the_correction_keeps_the_mean_and_passes_none(mode):
    jokes, scores = lines()
    control = fitted(mode, jokes, scores)
    after = debiased(control, jokes, scores)
    assert np.mean(after) == pytest.approx(np.mean(scores), abs=1e-9)
    some = [None if i % 3 == 0 else s for i, s in enumerate(scores)]
    assert [x is None for x in debiased(control, jokes, some)] == [s is None for s in some]


@pytest.mark.parametrize("mode", ["linear", "lowess", "calibrated"])
def test_a_batch_is_never_in_its_own_fit(mode):
    jokes, scores = lines()
    control = fitted(mode, jokes, scores)
    batch, values = lines(n_prompts=4, seed=1, score_slope=(5.0, -9.0))
    together = debiased(control, batch, values)
    alone = [debiased(control, [j], [v])[0] for j, v in zip(batch, values, strict=True)]
    assert together == alone


def test_past_steps_move_the_fit_towards_themselves_by_their_number():
    jokes, scores = lines()
    control = fitted("linear", jokes, scores, prior_jokes=240.0)
    before = control.metrics["control/length_slope"]
    batch, values = lines(n_prompts=40, seed=1, score_slope=(1.3, 2.0))  # 240 jokes: weight 1/2
    control.observe([j.prompt for j in batch], [j.joke for j in batch], values)
    assert control.metrics["control/length_slope"] == pytest.approx(before + 0.5, abs=0.03)
    low, high = (control.metrics[f"control/length_{side}"] for side in ("low", "high"))
    assert low < control.metrics["control/length_slope"] < high


def test_each_refit_is_logged_with_slope_sign_and_interval():
    jokes, scores = lines(score_slope=(-0.3, 2.0))
    control = fitted("linear", jokes, scores)
    assert control.metrics["control/length_sign"] == -1
    assert control.metrics["control/overlap_sign"] == 1
    assert control.metrics["control/length_low"] < -0.3 < control.metrics["control/length_high"]
    control.observe(["p"] * 2, ["a b", "a"], [1.0, 2.0])
    assert len(control.refits) == 2


def test_the_window_is_bounded_and_a_window_of_none_freezes():
    jokes, scores = lines()
    control = fitted("linear", jokes, scores, window=50)
    batch, values = lines(n_prompts=40, seed=1)
    control.observe([j.prompt for j in batch], [j.joke for j in batch], values)
    assert len(control.state_dict()["window"]) == 50
    frozen = fitted("linear", jokes, scores, window=0)
    frozen.observe([j.prompt for j in batch], [j.joke for j in batch], values)
    assert len(frozen.refits) == 1


@pytest.mark.parametrize("mode", ["linear", "lowess", "calibrated"])
def test_state_survives_json_bit_for_bit(mode):
    jokes, scores = lines()
    control = fitted(mode, jokes, scores)
    batch, values = lines(n_prompts=8, seed=1)
    control.observe([j.prompt for j in batch], [j.joke for j in batch], values)
    again = Control(control.config)
    again.load_state_dict(json.loads(json.dumps(control.state_dict())))
    for each in (control, again):
        each.observe([j.prompt for j in batch], [j.joke for j in batch], values[::-1])
    assert debiased(again, jokes, scores) == debiased(control, jokes, scores)


def test_lone_lines_fall_back_to_slopes_over_all():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2))
    y = x @ [2.0, -1.0] + 3
    assert fit_slopes(x, y, list(range(50))).slope == pytest.approx([2, -1])


def test_within_prompts_a_difference_between_prompts_does_not_count():
    x = np.array([[0.0], [1.0], [10.0], [11.0]])
    y = np.array([0.0, 1.0, 100.0, 101.0])
    assert fit_slopes(x, y, [0, 0, 1, 1]).slope == pytest.approx([1.0])


def test_a_covariate_that_never_varies_has_no_slope():
    slopes = fit_slopes(np.ones((12, 1)), np.arange(12.0), [0] * 12)
    assert slopes.slope == pytest.approx([0.0])


def test_a_local_line_reads_a_line_exactly():
    x = np.linspace(0, 1, 30)
    assert local_line(x, 3 * x + 1, np.array([0.0, 0.3, 1.0])) == pytest.approx([1, 1.9, 4])
    grids = [np.linspace(0, 1, 11)]
    (curve,) = fit_curves(x[:, None], 3 * x + 1, grids)
    assert np.diff(curve) == pytest.approx(np.full(10, 0.3), abs=1e-6)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="control is 'cubic'"):
        ControlConfig(mode="cubic")
    with pytest.raises(ValueError, match="covariates"):
        ControlConfig(covariates=("charm",))
    with pytest.raises(ValueError, match="window"):
        ControlConfig(window=-1)
    with pytest.raises(ValueError, match="not calibrated"):
        Control(ControlConfig()).apply(["p"], ["a"], [1.0])
    jokes, scores = lines(n_prompts=3)
    unlabelled = [j._replace(label=None) for j in jokes]
    with pytest.raises(ValueError, match="needs 10 scored calibration jokes"):
        fitted("calibrated", unlabelled, scores)
    fitted("linear", unlabelled, scores)
