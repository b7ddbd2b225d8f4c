import json
from pathlib import Path

import pytest

from compare import carry_out
from evaluation.compare_figures import figures
from evaluation.compare_report import markdown
from rewards.embedded import manifest_of
from training.comparison import Settings, find, plan_runs, plan_trials, read_json
from training.comparison_evaluations import evaluation_calls
from training.comparison_figures import _labels, collect, pick_best
from training.comparison_publish import publish
from training.comparison_reuse import take_over
from training.comparison_runs import Record, TrialsOpen, best_look, tune
from training.presets import Grid, read_grid
from training.workers import Workers

PROMPTS = ["p0", "p1", "p2"]
RATES = tuple({"learning_rate": x} for x in (1e-4, 3e-4, 6e-4))
GRID = {name: Grid({}, RATES) for name in read_grid()}
SMALL = {"algos": ("sft-more", "dpo", "online-dpo"), "seeds": 1, "primary_seeds": 2, "pool": 4}


class Processes(Workers):
    """Stands in for train.py and evaluate.py: writes what they would, and keeps what was asked."""

    def __init__(self, ends=()):
        super().__init__()
        self.asked, self.ends = [], dict(ends)

    def run(self, command, log):
        script, *rest = command[1:]
        self.asked.append((Path(script).name, rest))
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("it began\nit ended: a reason\n\n")
        return self.train(rest) if script.endswith("train.py") else self.evaluate(rest)

    def train(self, rest):
        if rest[0] == "--resume":
            folder = Path(rest[1])
            options = read_json(folder / "config.json")["options"]["run"]
        else:
            options = read_json(Path(rest[3]))
            folder = Path(options["out"]) / f"{rest[1]}-start"
            folder.mkdir(parents=True, exist_ok=True)
            content = {"algo": rest[1], "options": {"run": options}}
            (folder / "config.json").write_text(json.dumps(content))
        end = self.ends.pop(Path(options["out"]).name, 0)
        if isinstance(end, type):
            raise end
        if end == 0:
            finish(folder, options)
        return end

    def evaluate(self, rest):
        out = Path(rest[rest.index("--out") + 1])
        if end := self.ends.pop(out.name, 0):
            return end
        names = [x.partition("=")[0] for x in rest if "=" in x]
        systems = ["start", "start-tuned", "copy"] + ["best-of-4"] * ("best-of-4" in rest)
        systems += [n + t for n in names for t in ("", "-tuned")]
        found = {
            "critic": rest[rest.index("--critic") + 1], "tie": 0.1,
            "prompts": [{"id": p, "text": f"the cat {p}"} for p in PROMPTS],
            "systems": [system(name) for name in systems],
        }  # fmt: skip
        if "--rate-pool" in rest:
            found["pool"] = {
                "train_scores": [[1.0, 2.0, 3.0, 4.0]] * 3, "ratings": [[1.0, 2.0, 3.0, 4.0]] * 3,
            }  # fmt: skip
        out.mkdir(parents=True)
        (out / "results.json").write_text(json.dumps(found))
        return 0


def finish(folder, options):
    results = {
        "best_step": 4,
        "last_step": options["updates"],
        "judged_jokes": 0 if "sft-more" in str(folder) else 640,
    }
    (folder / "results.json").write_text(json.dumps(results))
    rating = 2 + 1000 * options.get("learning_rate", 1e-4)
    lines = [{"step": s, "select/rating": r} for s, r in ((0, 2.0), (4, rating), (10, 2.1))]
    lines.insert(1, {"step": 1, "reward/mean": 0.1})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    adapter = folder / "checkpoints" / "step-000004" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "punchline.json").write_text(json.dumps({"base_sha256": "a" * 64}))


def system(name):
    n = len(PROMPTS)
    rating = 2.9 if name.startswith("online") else 2.5
    return {
        "name": name, "decoding": "0.7", "prompts": PROMPTS, "rating": [rating] * n,
        "amusing": [0.2] * n, "fact": [0.8] * n, "words": [14.0] * n, "recall": [0.6] * n,
        "scores": [[rating, rating, 1.0, 3.5]] * n, "lost": [[False] * 3 + [True]] * n,
        "train_scores": [[1.0, 2.0, 0.0, 9.0]] * n,
        "jokes": [["a", "the cat", "b", "c"]] * n,
    }  # fmt: skip


def sit(root, processes, settings=None):
    """One sitting, as compare.py runs it."""
    settings = settings or Settings(**SMALL)
    study, record = settings.make_study(), Record(root, settings)
    tune(settings, study, GRID, root, record, processes)
    runs = plan_runs(settings, study, GRID, record.tuned, root)
    carry_out(settings, runs, root, record, processes)
    return collect(settings, study, runs, record, root)


def scripts(processes):
    return [name for name, _ in processes.asked]


# ---- the plan


def test_seeds_alternate_and_only_the_primary_methods_get_more_of_them(tmp_path):
    settings = Settings(**SMALL)
    runs = plan_runs(settings, settings.make_study(), GRID, {}, tmp_path)
    assert [r.name for r in runs] == [
        "sft-more-s0", "dpo-s0", "online-dpo-s0", "dpo-s1", "online-dpo-s1",
    ]  # fmt: skip
    assert [r.kind for r in runs] == ["seed"] * 3 + ["extra"] * 2


def test_every_run_has_the_same_budget_start_and_prompts(tmp_path):
    settings = Settings(options={"select-size": 20}, budget=128)
    runs = plan_runs(settings, settings.make_study(), GRID, {}, tmp_path)
    own = ("seed", "out", "critic", "learning_rate")
    kinds = {json.dumps({k: v for k, v in r.options.items() if k not in own}) for r in runs}
    assert len(kinds) == 1
    assert {r.options["updates"] for r in runs} == {2}
    assert {r.options["select_size"] for r in runs} == {20}
    assert {r.options["stop_rule"] for r in runs} == {False}
    control = [r for r in runs if r.method == "control"]
    assert {r.options["critic"] for r in control} == {"likelihood-recall"}
    assert not any("best-of-n" in r.name for r in runs)


def test_trials_are_as_many_for_each_and_use_no_seed_that_is_compared(tmp_path):
    settings = Settings(**SMALL, trials=2)
    trials = plan_trials(settings, settings.make_study(), GRID, tmp_path)
    assert [t.method for t in trials] == [m for m in SMALL["algos"] for _ in range(2)]
    assert {t.options["seed"] for t in trials} == {1000}
    with pytest.raises(ValueError, match="--trials is 2, the grid has 1 for sft-more"):
        plan_trials(settings, settings.make_study(), {"sft-more": Grid({}, ({},))}, tmp_path)


def test_data_sizes_have_as_many_updates_as_their_share(tmp_path):
    settings = Settings(study="data-size", budget=9 * 64, seeds=1, primary_seeds=1)
    runs = plan_runs(settings, settings.make_study(), GRID, {}, tmp_path)
    assert [r.options["updates"] for r in runs] == [3, 6, 9]


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"budget": 100}, "judged_jokes=100 is no whole number of updates of 64 jokes"),
        ({"budget": 0}, "--budget is 0, must be >= 1"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"trials": -1}, "--trials is -1, must be >= 0"),
        ({"pool": 3}, "--pool is 3"),
        ({"options": {"seed": 4}}, "--config sets 'seed'"),
        ({"options": {"report-critic": "x"}}, "--config sets 'report_critic'"),
        ({"splits": ("report", "test")}, "every look is recorded"),
        ({"splits": ("test",), "reason": "x"}, "report comes first and is always among them"),
        ({"splits": ("test", "report"), "reason": "x"}, "report comes first"),
        ({"options": {"select_critic": "a:b"}, "critic": "a:b"}, "must be one that no run"),
        ({"critic": "embedded-select"}, "must be one that no run has seen"),
        ({"reason": "because"}, "every look is recorded"),
        ({"critic": "embedded"}, "--critic embedded must be one that no run has seen"),
        ({"critic": "a:b", "options": {"select_critic": "a:b"}}, "must be one that no run"),
    ],
)
def test_bad_settings_are_refused(known, said):
    with pytest.raises(ValueError, match=said):
        Settings(**known)


# ---- sittings


def test_a_sitting_runs_everything_once_and_the_next_one_nothing(tmp_path):
    processes = Processes()
    first = sit(tmp_path, processes)
    assert scripts(processes).count("train.py") == 5
    assert scripts(processes).count("evaluate.py") == 6  # the references and five runs
    assert {r.state for m in first.methods for r in m.runs} == {"done"}
    again = Processes()
    second = sit(tmp_path, again)
    assert (second.methods, second.references) == (first.methods, first.references)
    assert again.asked == []


def test_what_is_half_done_is_resumed(tmp_path):
    sit(tmp_path, Processes({"dpo-s0": 3}))
    later = Processes()
    sit(tmp_path, later)
    trained = [rest for name, rest in later.asked if name == "train.py"]
    assert trained == [["--resume", str(tmp_path / "runs" / "dpo-s0" / "dpo-start")]]


def test_only_code_that_the_plan_names_is_trusted_on_resume(tmp_path):
    settings = Settings(**SMALL, options={"critic": "mine:make"})
    sit(tmp_path, Processes({"dpo-s0": 3}), settings)
    later = Processes()
    sit(tmp_path, later, settings)
    (resumed,) = [rest for name, rest in later.asked if name == "train.py"]
    assert resumed[-1] == "--trust-critic"


def test_a_trial_that_fails_has_been_tried_and_one_that_was_stopped_is_made_first(tmp_path):
    settings = Settings(**SMALL, trials=2)
    with pytest.raises(TrialsOpen, match="tuning is not finished: dpo-trial-0 stopped"):
        sit(tmp_path, Processes({"dpo-trial-0": 3}), settings)
    record = Record(tmp_path, settings)
    assert record.tuned == {}
    assert not [name for name in record.runs if "-s0" in name]
    sit(tmp_path, Processes({"dpo-trial-0": 1, "online-dpo-trial-0": 1}), settings)
    tuned = Record(tmp_path, settings).tuned
    assert tuned["dpo"] == dict(RATES[1])
    later = Processes()
    assert sit(tmp_path, later, settings)
    assert later.asked == []  # what failed was tried


def test_where_all_trials_fail_the_committed_options_are_noted(tmp_path):
    settings = Settings(**SMALL, trials=2)
    ends = {f"dpo-trial-{i}": 1 for i in range(2)}
    sit(tmp_path, Processes(ends), settings)
    assert Record(tmp_path, settings).tuned["dpo"] == dict(GRID["dpo"].best)
    assert sit(tmp_path, Processes(), settings)


def test_the_seconds_of_a_run_whose_sitting_was_killed_are_not_known(tmp_path):
    sit(tmp_path, Processes())
    record = Record(tmp_path, Settings(**SMALL))
    assert record.seconds("dpo-s0") is not None
    record.begin("dpo-s0")  # and then the machine lost power; the process itself went on
    sit(tmp_path, Processes())
    assert Record(tmp_path, Settings(**SMALL)).seconds("dpo-s0") is None


def test_failures_are_rows_with_their_reason_and_tried_again(tmp_path):
    found = sit(tmp_path, Processes({"dpo-s0": 1, "sft-more-s0": 3, "online-dpo-s0": 2}))
    states = {r.name: (r.state, r.reason) for m in found.methods for r in m.runs}
    assert states["dpo-s0"] == ("failed", "it ended: a reason")
    assert states["sft-more-s0"][0] == "stopped"
    assert states["dpo-s1"] == ("done", "")
    assert {r.state for m in sit(tmp_path, Processes()).methods for r in m.runs} == {"done"}


def test_an_evaluation_that_failed_is_a_row_too(tmp_path):
    class Fails(Processes):
        def evaluate(self, rest):
            return 3 if any(x.startswith("dpo-s0=") for x in rest) else super().evaluate(rest)

    found = sit(tmp_path, Fails())
    run = next(r for m in found.methods for r in m.runs if r.name == "dpo-s0")
    assert (run.state, run.reason) == ("not evaluated", "it ended: a reason")
    assert run.judged == 640


def test_references_that_failed_are_told(tmp_path):
    class Fails(Processes):
        def evaluate(self, rest):
            return 3 if "best-of-4" in rest else super().evaluate(rest)

    found = sit(tmp_path, Fails())
    assert found.missing == ("evaluate-report-references (it ended: a reason)",)
    assert "evaluate-report-references" in markdown(found, figures(found))
    assert sit(tmp_path, Processes()).missing == ()


def test_a_look_at_held_out_prompts_trusts_what_the_plan_names(tmp_path):
    settings = Settings(**SMALL, splits=("report", "test"), reason="because")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "results.json").write_text('{"best_step": 2, "last_step": 2}')
    for spec, times in (("embedded", 0), ("file:mine.yaml", 1)):
        config = {"options": {"run": {"critic": spec}}}
        (tmp_path / "x" / "config.json").write_text(json.dumps(config))
        (call,) = evaluation_calls(settings, {"dpo-s0": tmp_path / "x"}, tmp_path, "test")
        assert call.arguments.count("--trust-critic") == times


def test_labels_behind_a_run_are_those_of_its_critic_or_of_its_pairs(tmp_path):
    sit(tmp_path, Processes())

    def labels(critic, **results):
        folder = next((tmp_path / "runs" / "dpo-s0").iterdir())
        config = {"options": {"run": {"critic": critic}}}
        (folder / "config.json").write_text(json.dumps(config))
        return _labels({"judged_jokes": 640, **results}, folder)

    lines = manifest_of("embedded")["lines"]
    assert labels("embedded") == labels("file:examples/ensemble.yaml") == lines > 1000
    assert labels("likelihood-recall") == 0
    assert labels("openai:judge") is None
    assert labels("embedded", judged_jokes=0) == 0
    assert labels("embedded", judged_jokes=0, labels=77) == 77


def test_more_seeds_and_methods_may_join_but_nothing_else_may_change(tmp_path):
    sit(tmp_path, Processes())
    more = Settings(**SMALL | {"seeds": 2, "algos": (*SMALL["algos"], "ppo")})
    processes = Processes()
    found = sit(tmp_path, processes, more)
    assert scripts(processes).count("train.py") == 3  # sft-more-s1, ppo-s0, ppo-s1
    assert len(found.methods) == 4
    with pytest.raises(ValueError, match="compares with budget 640, not 64"):
        Record(tmp_path, Settings(**SMALL, budget=64))


def test_a_folder_with_another_run_is_refused(tmp_path):
    sit(tmp_path, Processes())
    settings = Settings(**SMALL)
    runs = plan_runs(settings, settings.make_study(), GRID, {}, tmp_path)
    file = tmp_path / "runs" / "dpo-s0" / "dpo-start" / "config.json"
    stored = read_json(file)
    stored["options"]["run"]["critic"] = stored["options"]["run"]["prompts"] = "other"
    stored["options"]["run"]["updates"] = 99
    file.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="was run with updates 99, the plan wants 10"):
        find(runs[1])


def test_runs_of_other_bases_do_not_meet(tmp_path):
    sit(tmp_path, Processes())
    (file,) = (tmp_path / "runs" / "dpo-s0").rglob("punchline.json")
    file.write_text(json.dumps({"base_sha256": "b" * 64}))
    with pytest.raises(
        ValueError, match="sft-more-s0 was trained on a base with hash aaaaaaaaaaaa"
    ):
        sit(tmp_path, Processes())


def test_figures_of_another_critic_do_not_meet(tmp_path):
    sit(tmp_path, Processes())
    file = tmp_path / "evaluations" / "report" / "dpo-s0" / "results.json"
    file.write_text(file.read_text().replace("embedded-report", "fake:honest"))
    with pytest.raises(ValueError, match="was judged by 'fake:honest'"):
        sit(tmp_path, Processes())


@pytest.mark.parametrize("end", [130, -15, 143])
def test_a_run_that_was_told_to_end_says_so(tmp_path, end):
    found = sit(tmp_path, Processes({"dpo-s0": end}))
    states = {r.name: (r.state, r.reason) for m in found.methods for r in m.runs}
    assert states["dpo-s0"] == ("stopped", "told to end")


def test_seconds_are_summed_over_attempts_and_unknown_where_one_was_cut_off(tmp_path):
    record = Record(tmp_path, Settings(**SMALL))
    record.begin("x")
    record.add("x", "stopped", "", seconds=2.0)
    record.begin("x")
    record.add("x", "done", "", seconds=3.0)
    assert record.seconds("x") == 5.0
    assert Record(tmp_path, Settings(**SMALL)).seconds("x") == 5.0
    record.begin("y")
    later = Record(tmp_path, Settings(**SMALL))  # killed: nothing was noted
    later.begin("y")
    later.add("y", "done", "", seconds=3.0)
    assert later.seconds("y") is None
    assert later.seconds("z") is None


def test_trials_pick_what_the_select_critic_rates_highest_at_the_best_step(tmp_path):
    settings = Settings(**SMALL, trials=3)
    processes = Processes({"dpo-trial-2": 1})
    sit(tmp_path, processes, settings)
    tuned = read_json(tmp_path / "comparison.json")["tuned"]
    assert tuned["online-dpo"] == {"learning_rate": 6e-4}
    assert tuned["dpo"] == {"learning_rate": 3e-4}  # its third trial failed
    assert best_look(tmp_path / "runs" / "dpo-trial-1" / "dpo-start") == pytest.approx(2.3)
    assert read_json(tmp_path / "options" / "dpo-s0.json")["learning_rate"] == 3e-4
    again = Processes()
    sit(tmp_path, again, settings)
    assert again.asked == []


# ---- a copy for others


def test_a_published_copy_gives_the_same_figures_without_weights_and_paths(tmp_path):
    root, copy = tmp_path / "here", tmp_path / "copy"
    first = sit(root, Processes())
    publish(root, copy)
    assert not list(copy.glob("**/checkpoints"))
    assert all(str(tmp_path) not in f.read_text() for f in copy.glob("**/*") if f.is_file())
    later = Processes()
    second = sit(copy, later)
    assert later.asked == []
    assert (second.methods, second.references) == (first.methods, first.references)
    publish(root, copy)  # once more
    with pytest.raises(ValueError, match="own folder"):
        publish(root, root)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="neither empty nor an earlier copy"):
        publish(root, tmp_path / "full")


# ---- runs of other comparisons


def complete(run):
    """All options of a run that stands in for one of train.py: the given ones."""
    return {"run": dict(run.options)}


def test_runs_with_the_same_options_are_copied_from_another_comparison(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    sit(theirs, Processes({"dpo-s1": 3}))
    settings = Settings(**SMALL, options={"select_size": 20})
    runs = plan_runs(settings, settings.make_study(), GRID, {}, ours)
    assert take_over(runs, theirs, Record(ours, settings), complete) == []  # another option
    settings = Settings(**SMALL | {"algos": ("dpo", "online-dpo", "ppo")})
    runs = plan_runs(settings, settings.make_study(), GRID, {}, ours)
    record = Record(ours, settings)
    taken = take_over(runs, theirs, record, complete)
    assert taken == ["dpo-s0", "online-dpo-s0", "online-dpo-s1"]  # dpo-s1 is not finished
    assert record.seconds("dpo-s0") == Record(theirs, Settings(**SMALL)).seconds("dpo-s0")
    config = (find(runs[0]).folder / "config.json").read_text()
    assert str(ours) in config
    assert str(theirs) not in config
    processes = Processes()
    found = sit(ours, processes, settings)
    trained = [rest for name, rest in processes.asked if name == "train.py"]
    assert len(trained) == 2  # ppo-s0, dpo-s1
    reasons = {r.name: (r.state, r.reason) for m in found.methods for r in m.runs}
    assert reasons["dpo-s0"] == ("done", "taken from dpo-s0 of theirs")
    assert reasons["dpo-s1"] == ("done", "")
    assert take_over(runs, theirs, record, complete) == []  # what is there stays


def test_a_folder_that_is_no_comparison_has_no_runs_to_give(tmp_path):
    with pytest.raises(ValueError, match=r"comparison\.json cannot be read"):
        take_over([], tmp_path, Record(tmp_path, Settings(**SMALL)), complete)


# ---- evaluations


def test_held_out_prompts_are_looked_at_once_and_last(tmp_path):
    settings = Settings(**SMALL, splits=("report", "test"), reason="figures of the paper")
    sit(tmp_path, Processes())
    processes = Processes()
    found = sit(tmp_path, processes, settings)
    ((_, rest),) = processes.asked
    assert sum("=" in x for x in rest) == 5  # best checkpoints only
    assert rest[rest.index("--reason") + 1] == "figures of the paper"
    assert set(found.references["test"]) == {"start", "start-tuned", "best-of-4", "copy"}
    again = Processes()
    sit(tmp_path, again, settings)
    assert again.asked == []


def test_evaluations_use_the_comparisons_own_files_and_critics(tmp_path):
    options = {"report_prompts": "r.txt", "student": "tiny", "critic": "fake:counts-word",
               "critic_arg": ["word=the"], "select_critic": "fake:honest"}  # fmt: skip
    settings = Settings(critic="fake:longer-wins", options=options, size=5)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "results.json").write_text('{"best_step": 2, "last_step": 2}')
    config = {"options": {"run": {"critic": "fake:counts-word"}, "sd": {}}}
    (tmp_path / "x" / "config.json").write_text(json.dumps(config))
    references, run = evaluation_calls(settings, {"sd-s0": tmp_path / "x"}, tmp_path, "report")
    words = " ".join(references.arguments)
    for part in (
        "best-of-4 best-of-64 --rate-pool", "--prompts r.txt", "--size 5", "--student tiny",
        "--critic fake:longer-wins", "--train-critic fake:counts-word --train-critic-arg word=the",
        "--select-critic fake:honest",
    ):  # fmt: skip
        assert part in words
    assert run.arguments[0] == f"sd-s0={tmp_path / 'x'}"
    assert "--decoding tuned" in " ".join(run.arguments)
    assert not {"--no-gap", "--train-critic", "--trust-critic"} & set(run.arguments)
    assert not any("@last" in x for x in run.arguments)
    config["options"]["run"]["critic"] = "file:mine.yaml"  # only this run's: the plan named it
    (tmp_path / "x" / "config.json").write_text(json.dumps(config))
    run = evaluation_calls(settings, {"sd-s0": tmp_path / "x"}, tmp_path, "report")[-1]
    assert run.arguments.count("--trust-critic") == 1


def test_gaps_of_evaluations_reach_the_table(tmp_path):
    """Of a reference by the critic that trained most runs, whichever evaluation comes first."""
    settings = Settings(**SMALL)
    sit(tmp_path, Processes())
    gaps = {
        "dpo-s0": ("odd", 0.5),
        "online-dpo-s0": ("usual", 0.125),
        "online-dpo-s1": ("usual", 0.25),
    }
    for name, (critic, gap) in gaps.items():
        file = tmp_path / "evaluations" / "report" / name / "results.json"
        content = read_json(file)
        start = {
            "system": "start",
            "critic": critic,
            "gap": {"value": 0.5 if critic == "odd" else 0.0},
        }
        known = {"system": f"{name}-tuned", "critic": critic, "gap": {"value": gap}}
        content["over_optimisation"] = [start, known]
        file.write_text(json.dumps(content))
    found = sit(tmp_path, Processes(), settings)
    rows = {row.system: row for row in figures(found).rows["report"]}
    assert rows["online-dpo"].gap == (0.125 + 0.25) / 2
    assert rows["dpo"].gap == 0.5
    assert rows["sft-more"].gap is None
    assert rows["start"].gap == 0.0
    assert "gap, points" in markdown(found, figures(found))


def test_an_evaluation_on_other_prompts_is_refused_with_the_reason(tmp_path):
    sit(tmp_path, Processes())
    file = tmp_path / "evaluations" / "report" / "online-dpo-s0" / "results.json"
    content = read_json(file)
    for one in content["systems"]:
        one |= {key: value[:-1] for key, value in one.items() if isinstance(value, list)}
    file.write_text(json.dumps(content))
    found = sit(tmp_path, Processes())
    with pytest.raises(ValueError, match="they must not meet in one table"):
        figures(found)


def test_last_checkpoints_are_evaluated_once_where_they_are_not_the_best(tmp_path):
    first = Processes()
    found = sit(tmp_path, first)
    run = next(m for m in found.methods if m.name == "dpo").runs[0]
    assert run.ended["report"] == run.systems["report"]  # here both write the same
    assert run.ended["report"] is not run.systems["report"]
    folder = tmp_path / "evaluations" / "report" / "dpo-s0"
    file = folder / "results.json"
    content = read_json(file)
    content["systems"] = [s for s in content["systems"] if "-last" not in s["name"]]
    file.write_text(json.dumps(content))  # as if it had been evaluated before there was a last
    later = Processes()
    sit(tmp_path, later)
    ((_, rest),) = later.asked
    assert rest[0] == f"dpo-s0-last={tmp_path / 'runs' / 'dpo-s0' / 'dpo-start'}@last"
    assert file.exists()


def test_what_was_measured_is_collected(tmp_path):
    found = sit(tmp_path, Processes())
    online = next(m for m in found.methods if m.name == "online-dpo")
    run = online.runs[0]
    assert (run.judged, run.selecting, run.best_step) == (640, (3 * 3 + 1) * 48, 4)
    assert [(x.step, x.rating) for x in run.looks] == [(0, 2.0), (4, 2.1), (10, 2.1)]
    assert run.looks[0].told == {"step": 0, "select/rating": 2.0}
    assert run.systems["report"].ratings == [2.9] * 3
    sft = next(m for m in found.methods if m.name == "sft-more")
    assert sft.runs[0].judged == 0
    assert sft.runs[0].selecting == run.selecting
    assert list(found.references["report"]) == ["start", "start-tuned", "best-of-4", "copy"]
    assert found.curve.means == pytest.approx([n * 5 / (n + 1) for n in range(1, 5)])
    assert found.tie == 0.1


def test_the_training_critic_picks_among_lines_that_are_not_lost(tmp_path):
    picked = pick_best(system("ppo-s0"), ["the cat p"] * 3)
    assert picked.ratings == [2.5] * 3
    assert picked.words == [2.0] * 3
    assert picked.recall == [1.0 / 2] * 3
    nothing = system("ppo-s0") | {"lost": [[True] * 4] * 3}
    assert pick_best(nothing, ["x"] * 3).ratings == [0.0] * 3
