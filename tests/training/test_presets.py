import json
from dataclasses import fields

import pytest

import train
from agents.configs import PPOConfig, RunConfig
from rewards.from_file import members
from training.comparison import Settings
from training.presets import (
    CONTROL,
    DEFAULT_METHODS,
    ENSEMBLE,
    METHODS,
    PRIMARY,
    SMOKE,
    STUDIES,
    Method,
    main_study,
    read_grid,
    study_of,
)

PPO_OPTIONS = {f.name for f in fields(PPOConfig)}


def test_the_primary_contrast_is_there_only_with_both_of_its_methods():
    assert main_study(DEFAULT_METHODS).primary == PRIMARY == ("online-dpo", "dpo")
    assert main_study(["dpo", "ppo"]).primary == ("", "")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "--algos has"),
        (["dpo", "dqn"], "--algos has ['dqn'], allowed are sft-more"),
        (["dpo", "dpo"], "names a method twice"),
    ],
)
def test_unknown_or_repeated_methods_are_refused(names, said):
    with pytest.raises(ValueError, match=said.replace("[", r"\[").replace("]", r"\]")):
        main_study(names)


def test_frequency_is_the_papers_one_two_and_ten_of_ten():
    study = study_of("feedback-frequency", (), 10)
    assert [m.options["refresh_every"] for m in study.methods] == [10, 5, 1]
    assert study.primary == ("refresh-10-of-10", "refresh-1-of-10")
    assert len(study_of("feedback-frequency", (), 2).methods) == 2


def test_data_sizes_are_thirds_of_the_budget():
    shares = [m.updates for m in study_of("data-size", (), 9).methods]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])


def test_the_study_of_critics_takes_specs_of_ones_own():
    study = study_of("critic", (), 10, ["embedded", "file:ensemble.yaml", "mine:make"])
    assert [m.options["critic"] for m in study.methods][1:] == ["file:ensemble.yaml", "mine:make"]
    assert all("/" not in m.name and ":" not in m.name for m in study.methods)
    with pytest.raises(ValueError, match="--critics is embedded: the study needs two or more"):
        study_of("critic", (), 10, ["embedded"])
    with pytest.raises(ValueError, match="--critics belongs to --study critic"):
        study_of("debias", (), 10, ["embedded"])


def test_restraints_are_added_one_at_a_time_to_the_bare_critic():
    bare, *others, default = study_of("collapse", (), 10).methods
    for row in others:
        changed = {k: v for k, v in row.options.items() if bare.options.get(k) != v}
        assert 1 <= len(changed) <= 2  # a KL target needs a price to adapt
        assert set(bare.options) <= set(row.options)
    assert default.options == {}
    for row in (bare, *others):
        PPOConfig(**{k: v for k, v in row.options.items() if k in PPO_OPTIONS})
        RunConfig(**{k: v for k, v in row.options.items() if k not in PPO_OPTIONS})


def test_the_ensemble_of_the_study_can_be_read():
    assert members(ENSEMBLE) == ["embedded", "likelihood-recall"]


def test_the_ensemble_is_found_from_any_folder(tmp_path, monkeypatch):
    here = members(ENSEMBLE)
    monkeypatch.chdir(tmp_path)
    assert members(ENSEMBLE) == here


@pytest.mark.parametrize("name", STUDIES)
def test_each_study_has_a_question_and_a_primary_contrast_of_its_own_methods(name):
    study = study_of(name, (), 12)
    assert set(study.primary) <= {m.name for m in study.methods}
    assert study.question
    with pytest.raises(ValueError, match="--study is 'weather', allowed are feedback-frequency"):
        study_of("weather", (), 12)


def test_shares_out_of_range_are_refused():
    with pytest.raises(ValueError, match="judged of x is 2"):
        Method("x", "ppo", judged=2)
    with pytest.raises(ValueError, match="updates of x is 0"):
        Method("x", "ppo", updates=0)


# ---- grid


def test_the_committed_grid_has_as_many_trials_for_each_trained_method():
    grid = read_grid()
    assert {m.algo for m in METHODS.values() if m.algo} | {CONTROL} == set(grid)
    assert {len(g.trials) for g in grid.values()} == {4}
    for g in grid.values():
        assert not g.best or g.best in g.trials


@pytest.mark.parametrize("name", [n for n in DEFAULT_METHODS if METHODS[n].algo])
def test_train_knows_every_option_that_a_method_sets(name):
    method = METHODS[name]
    if method.algo not in train.RUNS:
        pytest.skip(f"train.py has no {method.algo}")
    grid = read_grid()[method.algo]
    for tried in (grid.best, *grid.trials):
        given = {**method.options, **tried, "updates": 3, "prompts_per_update": 4, "group_size": 4}
        options = train.read_options(method.algo, [], given)
        assert getattr(options, method.algo.replace("-", "_")).jokes_per_update == 16


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "JSONDecodeError"),
        ('{"ppo": {"best": {}}}', "need best and trials for each"),
        (
            json.dumps({"a": {"best": {}, "trials": [{}]}, "b": {"best": {}, "trials": []}}),
            "every method needs as many trials",
        ),
    ],
)
def test_a_grid_that_is_not_fair_or_damaged_is_refused(tmp_path, content, said):
    file = tmp_path / "grid.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=said):
        read_grid(file)


def test_smoke_is_small_and_whole():
    settings = Settings(**SMOKE)
    assert settings.updates == 2
    assert settings.make_study().primary == PRIMARY
