import itertools
import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from evaluation.audit import (
    Cost,
    agreement,
    decoding_label,
    favours,
    order_effects,
    over,
    pair_group,
    pair_slope,
    preference,
    preference_reliability,
    repeat_noise,
)
from evaluation.audit_groups import POOLED, Audit, LabelledPair, figures, measure
from evaluation.audit_light import BOUNDS, USES, Figures, traffic_light
from evaluation.audit_report import html, markdown

N = 400


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def prompts(n):
    return [i // 4 for i in range(n)]


def test_accuracy_and_kappa_of_a_known_table(rng):
    p = [1, 1, 0, 0.5, None]
    label = [1, 0, 0, 1, 1]
    found = agreement(p, label, range(5), rng)
    assert found.accuracy.value == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert found.kappa.value == pytest.approx(cohen_kappa_score([2, 2, 0, 1], [2, 0, 0, 2]))
    assert (found.pairs, found.unscored) == (4, 1)


def test_without_a_verdict_there_is_no_figure(rng):
    found = agreement([None, None], [1, 0], [0, 1], rng)
    assert found == (None, None, 0, 2)


def test_over_is_the_difference_of_accuracies(rng):
    label = rng.integers(2, size=N)
    p, other = rng.random(N), rng.random(N)
    found = over(p, other, label, prompts(N), rng)
    a, b = (agreement(x, label, prompts(N), rng).accuracy.value for x in (p, other))
    assert found.value == pytest.approx(a - b)
    assert over(p, p, label, prompts(N), rng).value == 0


def test_a_judge_that_always_picks_the_first_slot(rng):
    label = rng.integers(2, size=N)
    found = order_effects([1.0] * N, [0.0] * N, [0.5] * N, label, prompts(N), rng)
    assert (found.flip_rate.value, found.first_slot.value) == (1, 1)
    assert found.one_order.value == pytest.approx(label.mean())
    assert found.averaged.value == 0.5


def test_an_honest_judge_has_no_order(rng):
    p = rng.random(N)
    found = order_effects(p, p, p, (p > 0.5).astype(float), prompts(N), rng)
    assert found.flip_rate.value == 0
    assert found.first_slot.value == pytest.approx(0.5)
    assert found.one_order.value == found.averaged.value == 1


def test_one_missing_order_leaves_the_pair_out(rng):
    found = order_effects([1, None], [None, 1], [None, None], [1, 1], [0, 1], rng)
    assert found == (None, None, None, None)


def test_slopes_of_a_rule_that_follows_length(rng):
    d = rng.choice([-3.0, -1.0, 1.0, 3.0], N)
    label = rng.integers(2, size=N).astype(float)
    found = pair_slope(preference(d, 0 * d), label, d, prompts(N), rng)
    assert found.critic.value == pytest.approx(0.5 * np.abs(d).sum() / (d * d).sum())
    assert found.excess.value == pytest.approx(found.critic.value - found.labels.value)
    assert found.bias > 0.3


def test_random_errors_are_no_bias(rng):
    d = rng.normal(size=N)
    label = (d > 0).astype(float)
    found = pair_slope(np.where(rng.random(N) < 0.3, 1 - label, label), label, d, prompts(N), rng)
    assert found.excess.high < 0
    assert found.bias == 0


def test_what_never_varies_decides_nothing(rng):
    found = pair_slope([1, 0], [1, 0], [0, 0], [0, 1], rng)
    assert found == (None, None, None, 0, 0)


def test_exchanging_the_sides_changes_no_slope(rng):
    d, p, label = rng.normal(size=N), rng.random(N), rng.integers(2, size=N).astype(float)
    one = pair_slope(p, label, d, prompts(N), rng)
    two = pair_slope(1 - p, 1 - label, -d, prompts(N), rng)
    assert one.critic.value == pytest.approx(two.critic.value)
    assert one.bias == pytest.approx(two.bias)


def test_self_preference_is_more_than_the_labels_give(rng):
    sources = [("own", "other"), ("other", "own")] * (N // 2)
    label = rng.integers(2, size=N).astype(float)
    p = np.array([1.0, 0.0] * (N // 2))  # its own line, wherever it stands
    found = favours(p, label, sources, prompts(N), rng)
    assert found["own"].critic.value == 1
    assert found["other"].critic.value == 0
    assert found["own"].excess.value == pytest.approx(-found["other"].excess.value)


def test_pairs_of_one_source_favour_nobody(rng):
    assert favours([1, 0], [1, 0], [("x", "x"), ("", "x")], [0, 1], rng) == {}


def test_noise_counts_other_winners(rng):
    found = repeat_noise([1, 0.6, 0.2, None], [1, 0.4, 0.3, 1], range(4), rng)
    assert found.changed.value == pytest.approx(1 / 3)
    assert found.difference == pytest.approx((0 + 0.2 + 0.1) / 3)
    assert found.pairs == 3


def test_a_calibrated_judge_has_no_calibration_error():
    assert preference_reliability([0.75] * 4, [1, 1, 1, 0]).ece == pytest.approx(0)
    assert preference_reliability([1.0] * 4, [1, 1, 0, 0]).ece == pytest.approx(0.5)
    assert preference_reliability([None], [1]) is None


def test_lengths_must_agree(rng):
    with pytest.raises(ValueError, match="2 verdicts, 1 labels, 2 prompt ids"):
        agreement([1, 0], [1], [0, 1], rng)
    with pytest.raises(ValueError, match="1 values a and 2 values b"):
        preference([1], [1, 2])


def test_sources_of_the_corpus():
    assert decoding_label("student2-greedy") > decoding_label("student2-t0.7")
    assert decoding_label("teacher") == 0
    assert pair_group("student2-t0.7", "student2-t0.7") == "start lines, one temperature"
    assert pair_group("student2-t0.7", "student2-greedy") == "start lines, mixed decoding"
    assert pair_group("rl1-40-t0.7", "student2-t0.7") == "RL lines against RL or start lines"
    assert pair_group("student", "student") == "first student's lines"
    assert pair_group("teacher", "student") == "student lines against other hands' lines"
    assert pair_group("copy", "light") == "other hands' lines"


# The whole table and the light on made-up judges of known bias.


def made_pairs(n=N):
    """Pairs whose labels have nothing to do with length or overlap."""
    draw = np.random.default_rng(1)
    pairs = []
    for i in range(n):
        a, b = (" ".join(f"w{draw.integers(99)}" for _ in range(draw.integers(3, 9))) for _ in "ab")
        pairs.append(
            LabelledPair(f"p{i // 4}", "the w1 w2 w3", a, b, float(draw.integers(2)), group="made")
        )
    return pairs


def audited(pairs, first, second, mean, rng, *, probes=None):
    groups = measure(pairs, first, second, mean, rng, compares=True, probabilities=False)
    noise = repeat_noise(mean, mean, [p.id for p in pairs], rng)
    seen = figures(
        groups["made"], noise=noise, own=None, has_own=False, probes=probes or {}, changes={}
    )
    clean = seen.__dict__ | {"probe_excess": 0.0, "filler_gain": 0.0, "shortening_loss": 0.0}
    return groups, traffic_light(Figures(**clean))


def failed(light, use="train"):
    return {check.figure for check in light.checks[use] if not check.passed}


def test_an_honest_judge_is_green(rng):
    pairs = made_pairs()
    p = [0.9 if x.label else 0.1 for x in pairs]
    groups, light = audited(pairs, p, p, p, rng)
    assert light.colour == "green"
    assert light.fit == USES
    assert groups[POOLED].agreement.accuracy.value == 1


def test_always_first_is_flagged_by_its_flips(rng):
    pairs = made_pairs()
    n = len(pairs)
    _, light = audited(pairs, [1.0] * n, [0.0] * n, [0.5] * n, rng)
    assert light.colour == "red"
    assert {"flip_rate", "accuracy"} <= failed(light)
    assert any("flip_rate is 1, must be at most 0.4" in x for x in light.reasons("train"))


def test_longer_wins_is_flagged_by_its_length_slope(rng):
    pairs = made_pairs()
    d = [len(x.a.split()) - len(x.b.split()) for x in pairs]
    p = preference(d, [0] * len(d))
    _, light = audited(pairs, p, p, p, rng)
    assert "length_bias" in failed(light)
    assert "overlap_bias" not in failed(light)


def test_an_accurate_judge_that_likes_length_is_flagged_too(rng):
    pairs = made_pairs()
    d = np.array([len(x.a.split()) - len(x.b.split()) for x in pairs])
    label = np.array([x.label for x in pairs])
    p = np.where(np.abs(d) >= 3, d > 0, label)  # right except where lengths differ much
    groups, light = audited(pairs, p, p, p, rng)
    assert groups["made"].agreement.accuracy.value > 0.7
    assert "length_bias" in failed(light)


def test_what_was_not_measured_fails_and_what_does_not_apply_is_left_out():
    names = Figures.__dataclass_fields__
    good = dict.fromkeys(names, 0.0) | {
        "pairs": 1000, "accuracy": 1, "accuracy_low": 1, "over_baselines": 0.1,
        "over_baselines_low": 0.1, "flip_rate": float("nan"),
    }  # fmt: skip
    light = traffic_light(Figures(**good))
    assert light.colour == "green"
    assert all(c.figure != "flip_rate" for c in light.checks["train"])
    light = traffic_light(Figures(**(good | {"noise": None})))
    assert light.verdict == "fit for none"
    assert light.reasons("train") == ["noise is not measured, must be at most 0.15"]


def test_biases_count_whichever_their_sign():
    names = Figures.__dataclass_fields__
    nothing = dict.fromkeys(names, float("nan"))
    assert traffic_light(Figures(**(nothing | {"length_bias": -0.3}))).colour == "red"


def test_later_uses_ask_for_no_less():
    for earlier, later in itertools.pairwise(USES):
        strict = {b.figure: b for b in BOUNDS[later]}
        for bound in BOUNDS[earlier]:
            if bound.figure == "over_baselines" and bound.figure not in strict:
                continue  # asked for by its lower end there
            other = strict[bound.figure].limit
            assert other >= bound.limit if bound.at_least else other <= bound.limit


def report_of(rng, name="fake"):
    pairs = made_pairs(40)
    p = [x.label for x in pairs]
    groups, light = audited(pairs, p, p, p, rng)
    cost = Cost(40, 0.01, 12.5, None, {"TimeoutError": 2})
    return Audit(name, "judge", "made", "made", groups, {}, "", {}, None, cost, {}, {}, {}, light)


def test_the_report_holds_what_was_measured(rng):
    audit = report_of(rng)
    text = markdown(audit)
    assert "| seconds a verdict | 0.0100 |" in text
    assert "| missing: TimeoutError | 2 |" in text
    assert json.loads(json.dumps(audit.to_json()))["light"]["verdict"] == audit.light.verdict


def test_the_page_is_self_contained_and_escapes_what_others_wrote(rng):
    pytest.importorskip("matplotlib")
    audit = report_of(rng, "<script>alert(1)</script>\x1b[2K$x_1$")
    page = html(audit)
    assert "<script" not in page
    assert "\x1b" not in page
    assert page.count("<svg") == 2
    assert "src=" not in page
    assert html(audit) == page
    assert "\\<script\\>" in markdown(audit)
