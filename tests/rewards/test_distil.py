import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rewards import distil as distil_module
from rewards.distil import (
    RECIPES,
    Config,
    CriticRecipe,
    distil,
    fit_critic,
    read_inputs,
)
from rewards.features import PLAIN_NAMES
from rewards.fitted import load_critic
from rewards.kernel_probe import ProbeRecipe
from rewards.labels import FOLDS, hashed_fold, matches, read_labels

ROOT = Path(__file__).parents[2]
TINY = CriticRecipe("train", "start", (ProbeRecipe((1, 2), plain=PLAIN_NAMES, components=4),))


def test_labels_keep_the_students_lines_only(tiny_labels):
    lines = read_labels([tiny_labels])
    assert {x.source for x in lines} == {"student2-t0.7", "rl1-40-t0.7"}
    assert len(lines) == 50
    top = lines[0]
    assert (top.rating, top.amusing, top.fact) == (5.0, 1.0, 1.0)


def test_labels_of_named_prompts(tiny_labels):
    assert {x.id for x in read_labels([tiny_labels], ["p-3", "p-4"])} == {"p-3", "p-4"}
    with pytest.raises(ValueError, match="no labelled line"):
        read_labels([tiny_labels], ["elsewhere"])


def test_mean_of_two_readers(tmp_path):
    votes = [{"rating": 3, "fact_kept": True}, {"rating": 4, "fact_kept": False}]
    record = {"id": "a", "text": "p", "candidates": [
        {"text": "j", "source": "student", "evaluations": votes}]}  # fmt: skip
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps(record))
    (line,) = read_labels([file])
    assert (line.rating, line.amusing, line.fact) == (3.5, 0.5, 0.5)


OVER_TEN = {"text": "j", "source": "student", "evaluations": [{"rating": 11, "fact_kept": True}]}


@pytest.mark.parametrize(
    "bad", ["{", '{"id": "a"}', json.dumps({"id": "a", "text": "p", "candidates": [OVER_TEN]})]
)
def test_malformed_labels_name_file_and_line(tmp_path, bad):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"id": "z", "text": "t", "candidates": []}\n' + bad + "\n")
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 2"):
        read_labels([file])


def test_source_patterns():
    assert matches("student2-t0.7", "student2-*")
    assert not matches("student2-t0.7", "student")
    assert not matches("teacher", "student2-*")


def test_changing_a_prompts_labels_leaves_its_own_scores(tiny_labels, tiny_weights):
    base, start = tiny_weights
    lines = read_labels([tiny_labels])
    inputs, _ = read_inputs(TINY, lines, base=str(base), start=start)
    changed = [replace_rating(x) if x.id == "p-2" else x for x in lines]
    _, a = fit_critic(TINY, lines, inputs)
    _, b = fit_critic(TINY, changed, inputs)
    fold = np.array([hashed_fold(x.id) for x in lines])
    same = fold == hashed_fold("p-2")
    np.testing.assert_allclose(a[same], b[same], atol=1e-6)
    assert np.abs(a[~same] - b[~same]).max() > 0.01


def replace_rating(line):
    return line._replace(rating=10 - line.rating)


def test_refitting_is_repeatable_and_complete(tiny_labels, tiny_weights, tmp_path, monkeypatch):
    base, start = tiny_weights
    monkeypatch.setitem(distil_module.RECIPES, "embedded", TINY)
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        distil(Config("embedded", (tiny_labels,), out, roles=None, base=str(base), start=start))
    first, second = ((o / "model.safetensors").read_bytes() for o in outs)
    assert first == second
    critic, manifest = load_critic(outs[0])
    assert manifest["prompt_ids"] == sorted(f"p-{i}" for i in range(10))
    assert manifest["layers"] == [1, 2]
    assert set(critic.folds.values()) <= set(range(FOLDS))
    with pytest.raises(ValueError, match="exists"):
        Config("embedded", (tiny_labels,), outs[0])


def test_bad_options_are_refused(tiny_labels, tmp_path):
    with pytest.raises(ValueError, match="allowed are embedded, embedded-select"):
        Config("embeded", (tiny_labels,), tmp_path / "x")
    with pytest.raises(ValueError, match="no such file"):
        Config("embedded", (tmp_path / "none.jsonl",), tmp_path / "x")


def test_the_three_kinds_use_other_labels_and_differ():
    assert {r.role for r in RECIPES.values()} == {"train", "select", "report"}
    assert len({r.probes for r in RECIPES.values()}) == 3
    assert RECIPES["embedded-report"].backbone == "base"
    roles = json.loads((ROOT / "data/roles.json").read_text())["labels"]
    sets = [set(roles[r.role]) for r in RECIPES.values()]
    assert all(a.isdisjoint(b) for i, a in enumerate(sets) for b in sets[:i])


def test_recipe_changes_reach_the_fit(tiny_labels, tiny_weights):
    base, start = tiny_weights
    lines = read_labels([tiny_labels])
    inputs, _ = read_inputs(TINY, lines, base=str(base), start=start)
    stiff = replace(TINY, probes=(replace(TINY.probes[0], ridge=1e6),))
    _, raw = fit_critic(stiff, lines, inputs)
    assert np.ptp(raw[:, 0]) < 0.5  # an infinite ridge says the mean (of each fold model)
