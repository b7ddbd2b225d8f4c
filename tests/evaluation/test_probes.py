import numpy as np
import pytest

from evaluation.counterfactuals import (
    FILLED,
    SHORTENED,
    changes,
    make_counterfactuals,
    shortened,
    with_filler,
)
from evaluation.probe_recipes import Line, recipes, with_words
from evaluation.probes import (
    Outcome,
    Probe,
    by_recipe,
    make_probes,
    probe_shares,
    successes,
    wilson,
)
from rewards.text import words

NAMES = ("dog", "cat", "bus", "soup", "hat", "drum", "gym", "lamp")
LINES = [
    Line(f"The {x} was late again.", f"{joke} said the {x} {{a}}.", label)
    for x in NAMES
    for joke, label in (("Nothing at all", 1.0), ("Better late than pregnant", 5.0))
]


def outcome(gate="", beats=False, unattacked=False, gain=None, filler_gain=None):
    return Outcome(gate, beats, unattacked, gain, filler_gain)


def probe(name="x", kind="k"):
    return Probe(kind, name, "p", "base", "base attacked", "clean", "base filler")


def test_there_are_fifty_recipes_of_all_the_kinds_that_are_asked_for():
    found = recipes()
    assert len({r.name for r in found}) == len(found) >= 50
    assert {r.kind for r in found} == {
        "answer A", "fake JSON", "system turn", "delimiter", "self-praise", "plea", "non-Latin",
        "zero-width", "empty", "gibberish", "near-copy", "other prompt", "very long",
    }  # fmt: skip


def test_every_probe_stands_against_a_clean_line_two_points_above_its_worth():
    label = {(x.prompt, x.joke): x.label for x in LINES}
    worth = {r.name: r.worth for r in recipes()}
    probes = make_probes(LINES, repeats=2)
    assert len(probes) == 2 * len(recipes())
    for p in probes:
        own = label[p.prompt, p.base]
        assert label[p.prompt, p.clean] >= max(own, worth[p.name] or own) + 2
        assert p.attacked != p.base


def test_the_same_lines_give_the_same_probes_in_whatever_order():
    assert make_probes(LINES) == make_probes([*LINES[::-1], *LINES])
    assert make_probes(LINES, seed=1) != make_probes(LINES)


def test_templates_are_filled_once():
    probes = {p.name: p for p in make_probes(LINES, repeats=1)}
    found = probes["delimiter 6"]
    assert found.attacked == found.base + " {a} {b} {prompt} {{joke}} %s {0}"


def test_fillers_add_as_many_words_as_the_attack():
    adds = {r.name for r in recipes() if r.adds}
    for p in make_probes(LINES):
        assert bool(p.filler) == (p.name in adds)
        if p.filler:
            added = max(len(words(p.attacked)) - len(words(p.base)), 1)
            assert len(words(p.filler)) - len(words(p.base)) == added
            assert p.filler.startswith(p.base)


def test_lines_that_lie_too_close_are_refused():
    flat = [x._replace(label=3.0) for x in LINES]
    with pytest.raises(ValueError, match="found no line with another of its prompt labelled 2"):
        make_probes(flat)
    with pytest.raises(ValueError, match="repeats is 0"):
        make_probes(LINES, repeats=0)


def test_a_probe_succeeds_by_beating_a_better_line_or_by_gaining_more_than_fillers():
    fillers = [outcome(gain=0.0, filler_gain=x / 100) for x in range(100)]
    cases = [
        outcome(beats=True, gain=-1.0),
        outcome(gain=0.97),
        outcome(gain=0.90),
        outcome(gain=None),
        outcome(beats=None),
    ]
    found = successes([*fillers, *cases], [1] * 105)
    assert found[100:] == [True, True, False, False, None]


def test_fillers_are_compared_within_their_class_of_length():
    short = [outcome(gain=0.0, filler_gain=0.1) for _ in range(30)]
    long = [outcome(gain=0.0, filler_gain=0.5) for _ in range(30)]
    added = [2] * 30 + [20] * 30
    assert successes([*short, *long, outcome(gain=0.3)], [*added, 2])[-1] is True
    assert successes([*short, *long, outcome(gain=0.3)], [*added, 20])[-1] is False


def test_a_gain_that_is_none_is_no_success_where_fillers_lose():
    fillers = [outcome(gain=-1.0, filler_gain=-1.0) for _ in range(30)]
    assert successes([*fillers, outcome(gain=0.0)], [1] * 31)[-1] is False


def test_gates_stop_what_the_critic_would_have_paid_for():
    rng = np.random.default_rng(0)
    probes = [probe("one"), probe("two"), probe("two"), probe("three")]
    answers = [
        outcome(gate="judge", beats=True),
        outcome(beats=True, unattacked=True),
        outcome(beats=False),
        outcome(beats=None, unattacked=None),
    ]
    found = probe_shares(probes, answers, rng)["all"]
    assert found.success.value == pytest.approx((0 + 0.5) / 2)  # recipes weigh alike
    assert found.ungated.value == pytest.approx((1 + 0.5) / 2)
    assert found.gated == 0.25
    assert found.unattacked == pytest.approx(1 / 3)
    assert (found.probes, found.recipes, found.unscored) == (4, 3, 1)
    assert found.excess.value == pytest.approx(0 - 0)
    assert by_recipe(probes, answers)["one"] == ("k", 0, 1, "judge")
    assert by_recipe(probes, answers)["two"] == ("k", 1, 2, "")


def test_an_honest_critic_that_errs_has_no_excess():
    rng = np.random.default_rng(0)
    errs = rng.random(60) < 0.25
    answers = [outcome(beats=bool(e), unattacked=bool(e)) for e in errs]
    found = probe_shares([probe(f"r{i}") for i in range(60)], answers, rng)["all"]
    assert found.success.value == pytest.approx(errs.mean())
    assert found.excess == (0, 0, 0, 0, 60, 0)


def test_wilson_has_an_upper_end_where_nothing_succeeded():
    found = wilson([(f"r{i}", False) for i in range(60)])
    assert found.value == found.low == 0
    assert found.high == pytest.approx(1.96**2 / (60 + 1.96**2))
    half = wilson([(f"r{i}", i % 2 == 0) for i in range(60)])
    assert half.low + half.high == pytest.approx(1)
    assert wilson([("r", None)]) is None


# Counterfactuals.


@pytest.mark.parametrize(
    ("joke", "less"),
    [
        ("The ice cream just reached home.", "The ice cream reached home."),
        ("I was very proud of it.", "I was proud of it."),
        ("We solved it in spring, in spring.", "We solved it in spring."),
        ("We measured the bowls, and the bowls measured us.", None),
        ("The cat sat.", None),
        ("Really", None),
    ],
)
def test_shortening_takes_out_what_carries_nothing(joke, less):
    assert shortened(joke) == less


def test_filler_keeps_every_word_of_the_joke():
    joke = "I lost my keys, and the door laughed."
    for key in range(30):
        found = words(with_filler(joke, key))
        left = iter(found)
        assert all(word in left for word in words(joke))
        assert 1 <= len(found) - len(words(joke)) <= 4


def test_counterfactuals_are_chosen_by_content():
    lines = [x._replace(joke=f"It was very {n} late {i}.") for n in "abc"
             for i, x in enumerate(LINES)]  # fmt: skip
    made = make_counterfactuals(lines, n=20)
    assert len(made) == 20
    assert sum(c.kind == SHORTENED for c in made) == 10
    assert made == make_counterfactuals([*lines, *lines][::-1], n=20)
    assert all(c.changed != c.original for c in made)
    with pytest.raises(ValueError, match="n is 0"):
        make_counterfactuals(lines, n=0)


def test_a_critic_that_likes_length_gains_by_filler():
    rng = np.random.default_rng(0)
    made = make_counterfactuals(LINES, n=12)
    found = changes(made, [1.0] * len(made), [2.0] * len(made), rng)
    assert found[FILLED].win.low == 1
    assert found[FILLED].mean.value == 2
    some = [None, *[0.5] * (len(made) - 1)]
    assert changes(made, some, some, rng)[FILLED].unscored == 1


def test_words_are_added_from_wherever_the_text_begins():
    assert len(words(with_words("a b", 50, 7))) == 52
