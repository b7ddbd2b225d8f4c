import numpy as np
import pytest

from evaluation.select import Evaluation, best_evaluation, should_stop


def history(levels, rewards=None, prompts=40, noise=0.0, seed=0):
    """Evaluations whose mean follows `levels`; prompts differ, the noise is per evaluation."""
    random = np.random.default_rng(seed)
    hard = random.normal(size=prompts)
    rewards = rewards if rewards is not None else range(len(levels))
    return [
        Evaluation(10 * i, list(level + hard + noise * random.normal(size=prompts)), float(r))
        for i, (level, r) in enumerate(zip(levels, rewards, strict=True))
    ]


def test_a_rising_run_goes_on():
    assert should_stop(history([0, 1, 2, 3, 4, 5])) is None


def test_a_falling_run_whose_reward_rises_stops_with_the_reason():
    stop = should_stop(history([0, 1, 2, 2, 1, 0, -1]))
    assert stop.best_update == 30
    assert stop.drop == pytest.approx(5 / 3)
    assert stop.error == pytest.approx(0.0, abs=1e-9)
    assert stop.reward_rise == pytest.approx(3.0)
    assert "update 30" in str(stop)


def test_a_falling_run_whose_reward_falls_too_goes_on():
    assert should_stop(history([0, 1, 2, 2, 1, 0, -1], rewards=[6, 5, 4, 3, 2, 1, 0])) is None


def test_a_drop_within_the_paired_error_goes_on():
    falling = history([0.0, 0.0, 0.0, -0.02, -0.02, -0.02], noise=1.0)
    assert should_stop(falling) is None


def test_the_error_is_paired_so_hard_prompts_do_not_hide_a_drop():
    # Prompts differ by 1 (standard deviation), the drop is 0.2 on each of them.
    assert should_stop(history([0, 0, 0, -0.2, -0.2, -0.2], noise=0.1)).drop == pytest.approx(
        0.2, abs=0.05
    )


def test_one_bad_evaluation_is_not_compared_alone():
    assert should_stop(history([0, 0, 0])) is None
    assert should_stop(history([0, 1, 2, 3, 4, 3.5])) is None


def test_the_latest_three_not_the_latest_one():
    assert should_stop(history([3, 3, 3, 0, 0, 4])) is not None


def test_prompts_without_a_verdict_are_left_out():
    runs = history([0, 1, 2, 2, 1, 0, -1], prompts=4)
    holes = [e._replace(scores=[None, *e.scores[1:]]) for e in runs]
    assert should_stop(holes).drop == pytest.approx(should_stop(runs).drop)
    silent = [e._replace(scores=[None] * 4) for e in runs]
    assert should_stop(silent) is None
    assert best_evaluation(silent) is None


def test_best_is_the_first_of_the_highest():
    assert best_evaluation(history([0, 2, 1, 2], prompts=1)) == 1
    assert best_evaluation(history([-3, -2, -5], prompts=1)) == 1
    assert best_evaluation([]) is None


def test_bad_input_names_the_value():
    mixed = [*history([0, 1], prompts=3), *history([2, 3], prompts=4)]
    with pytest.raises(ValueError, match=r"\[3, 4\] prompts"):
        should_stop(mixed)
    with pytest.raises(ValueError, match="window is 0"):
        should_stop(mixed, window=0)
