"""What a system is, and what must not meet; no weights are loaded here."""

import json

import pytest

from envs.prompts import Prompt, corpus_prompts
from rewards.embedded import manifest_of
from rewards.types import Unfinished
from training import test_looks
from training.system_lines import DESCENDANT, Lines, why_not_ratable
from training.systems import (
    check_meeting,
    evaluation_prompts,
    parse_system,
    parse_systems,
    read_jokes,
    read_run,
    refuse_modules,
    select_prompts,
)

PROMPTS = [Prompt("p1", "the cat sat .", "own", ""), Prompt("p2", "my dog ran !", "own", "")]


@pytest.fixture
def make_run(tmp_path):
    """A run folder without weights: config, results and checkpoints by name only."""

    def make(name="ppo-1", algo="ppo", steps=(0, 2, 4), results=True, **options):
        folder = tmp_path / name
        known = {
            "student": "start", "critic": "embedded", "critic_arg": [], "reward": "humor=1",
            "select_critic": "embedded-select", "select_size": 48,
            "prompts": "", "select_prompts": "", "report_prompts": "",
        }  # fmt: skip
        own = {"updates": 4, "max_tokens": 40}
        config = {"algo": algo, "options": {"run": known | options, algo.replace("-", "_"): own}}
        for step in steps:
            adapter = folder / "checkpoints" / f"step-{step:06d}" / "adapter"
            adapter.mkdir(parents=True)
            (adapter.parent / "state.json").write_text("{}")
            (adapter / "adapter_config.json").write_text("{}")
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        if results:
            (folder / "results.json").write_text(json.dumps({"best_step": 2}))
        return folder

    return make


def run_of(folder, suffix=""):
    return read_run(parse_system(f"{folder}{suffix}"))


def test_names_of_the_ladder():
    for name in ("start", "start-tuned", "copy", "light", "teacher", "best-of-16"):
        assert parse_system(name).kind == "reference"
    assert [parse_system(n).best_of for n in ("start", "best-of-4", "best-of-64")] == [0, 4, 64]


def test_a_run_its_checkpoints_and_a_name_of_ones_own(make_run):
    folder = make_run()
    for suffix, step, name in (
        ("", 2, "ppo-1"),
        ("@last", 4, "ppo-1@last"),
        ("@step-000000", 0, "ppo-1@step-000000"),
    ):
        run = run_of(folder, suffix)
        assert run.adapter == folder / "checkpoints" / f"step-{step:06d}" / "adapter"
        assert run.system.name == name
        assert (run.max_tokens, run.train_critic) == (40, ("embedded", ()))
    assert parse_system(f"mine={folder}@last").name == "mine"


def test_students_and_files_of_jokes(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "jokes.jsonl").write_text("{}")
    assert parse_system(str(model)).kind == "student"
    assert parse_system(str(tmp_path / "jokes.jsonl")).kind == "jokes"
    assert parse_system(f"other={tmp_path / 'jokes.jsonl'}").name == "other"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nobody", "is neither a run folder"),
        ("nobody@last", "is not a run folder, so it has no checkpoints"),
        ("best-of-1", r"N must lie in 2\.\.256"),
        ("mine=start", "cannot be renamed"),
        ("start=nobody", "is a name of the ladder"),
    ],
)
def test_what_is_no_system_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_system(text)


def test_two_systems_of_one_name_are_refused(make_run):
    folder = make_run()
    with pytest.raises(ValueError, match="two systems are called 'ppo-1'"):
        parse_systems([str(folder), str(folder)])
    assert len(parse_systems([str(folder), f"again={folder}"])) == 2


def test_a_half_finished_run_is_named(make_run):
    folder = make_run(results=False)
    with pytest.raises(ValueError, match=r"half-finished \(update 4 of 4\).*train.py --resume"):
        run_of(folder)
    assert run_of(folder, "@last").adapter.parent.name == "step-000004"


def test_missing_and_damaged_checkpoints_are_refused(make_run):
    folder = make_run(steps=(0, 4))
    with pytest.raises(ValueError, match="no checkpoint 'step-000002'; it has step-000000, step-"):
        run_of(folder)
    (folder / "results.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        run_of(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        run_of(folder)


def test_imitation_has_no_critic(make_run):
    assert run_of(make_run("more", algo="sft-more")).train_critic is None


@pytest.mark.parametrize(
    ("options", "critic", "message"),
    [
        ({"critic": "fake:honest"}, "fake:honest", "no run has seen: ppo-1: it trained with"),
        ({"select_critic": "fake:honest"}, "fake:honest", "its checkpoints were picked by"),
        ({"reward": "humor=1,fake:honest=1"}, "fake:honest", "its reward has the term"),
        ({}, "embedded", "it trained with embedded"),
    ],
)
def test_a_critic_that_a_run_saw_must_not_report(make_run, options, critic, message):
    run = run_of(make_run(**options))
    with pytest.raises(ValueError, match=message):
        check_meeting([run], critic)
    check_meeting([run], "embedded-report")


def test_a_critic_within_a_file_was_seen_too(make_run, tmp_path):
    file = tmp_path / "mean.yaml"
    file.write_text("mean:\n  - critic: likelihood-recall\n  - min: [{critic: embedded-report}]\n")
    run = run_of(make_run(critic=f"file:{file}"))
    with pytest.raises(ValueError, match="must be one that no run has seen"):
        check_meeting([run], "embedded-report")
    check_meeting([run], "fake:honest")
    file.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        check_meeting([run], "embedded-report")


def test_runs_of_different_students_do_not_meet(make_run):
    runs = [run_of(make_run()), run_of(make_run("other", student="smollm2-135m"))]
    with pytest.raises(ValueError, match="ppo-1 began as 'start', other as 'smollm2-135m'"):
        check_meeting(runs, "embedded-report")


def test_modules_and_servers_of_a_run_need_trust(make_run):
    run = run_of(make_run(critic="planted:make"))
    with pytest.raises(ValueError, match="names the critic 'planted:make'.*--trust-critic"):
        refuse_modules([run], [], False)
    refuse_modules([run], [], True)
    refuse_modules([run], ["planted:make"], False)
    refuse_modules([run_of(make_run("fakes", critic="fake:honest"))], [], False)


def test_prompts_are_the_runs_own_or_a_split(make_run, tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("the drum ate my bread .\nmy cat lost a sock .\n")
    mine = run_of(make_run("mine", report_prompts=str(file)))
    assert [p.id for p in evaluation_prompts([mine], "report", None)] == ["mine-1", "mine-2"]
    assert evaluation_prompts([], "report", None) == corpus_prompts("report")
    assert evaluation_prompts([mine], "headline", None) == corpus_prompts("test-headline")
    assert len(select_prompts([mine], 5)) == 5
    with pytest.raises(ValueError, match="runs differ in their report prompts"):
        evaluation_prompts([mine, run_of(make_run())], "report", None)
    with pytest.raises(ValueError, match="allowed are report, test, headline, summary"):
        evaluation_prompts([], "poems", None)
    with pytest.raises(ValueError, match="exclude each other"):
        evaluation_prompts([], "test", file)


def test_prompts_a_run_learned_from_are_refused_with_their_ids(make_run, tmp_path):
    file, learned = tmp_path / "mine.txt", tmp_path / "learned.txt"
    file.write_text("the drum ate my bread .\n")
    learned.write_text("The drum ate my bread!\n")
    run = run_of(make_run(prompts=str(learned)))
    with pytest.raises(ValueError, match="rl and evaluated share 'learned-1' = 'mine-1'"):
        evaluation_prompts([run], "report", file)


def test_a_file_of_jokes(tmp_path):
    file = tmp_path / "jokes.jsonl"
    rows = [
        {"prompt": "The cat sat", "joke": "one", "source": "student2-greedy"},
        {"prompt": "p2", "jokes": ["two", "three"], "source": "student2-greedy"},
        {"prompt": "p1", "joke": "cut", "finished": False, "source": "student2-greedy"},
        {"prompt": "another prompt", "joke": "x"},
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    jokes, source = read_jokes(file, PROMPTS)
    assert jokes == [["one", "cut"], ["two", "three"]]
    assert [isinstance(j, Unfinished) for j in jokes[0]] == [False, True]
    assert source == "student2-greedy"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":1: not JSON"),
        ("[]", ":1: a list, need an object"),
        ('{"joke": "x"}', ":1: no field 'prompt'"),
        ('{"prompt": "p1", "joke": 3}', "'joke', a string"),
        ('{"prompt": "p1", "jokes": []}', "'jokes', a list"),
        ('{"prompt": "p1", "joke": "x", "finished": 1}', "finished is 1"),
        ('{"prompt": "p1", "joke": "x"}', "no joke for 1 of 2 prompts: p2"),
        ("", "no joke for 2 of 2 prompts"),
    ],
)
def test_a_bad_file_of_jokes_is_refused(tmp_path, line, message):
    file = tmp_path / "jokes.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_jokes(file, PROMPTS)


def test_a_distilled_critic_rates_its_own_sources_only():
    manifest = manifest_of("embedded-report")
    for source in ("student2-t0.7", DESCENDANT):
        assert why_not_ratable(Lines("x", [], source=source), manifest) == ""
    for source, told in (("teacher", "source 'teacher'"), ("", "unknown source")):
        assert told in why_not_ratable(Lines("x", [], source=source), manifest)
        assert why_not_ratable(Lines("x", [], source=source), None) == ""
    assert why_not_ratable(Lines("copy", [], labels=[]), manifest) == "rated by definition"


def test_looks_are_recorded_with_reason(tmp_path, capsys):
    looks = tmp_path / "docs" / "looks.md"
    for reason in ("a first look", "a | second"):
        test_looks.record_look("evaluation of ppo", reason, looks=looks)
    rows = looks.read_text().splitlines()
    assert rows[0] == "# Looks at the test split"
    assert len([r for r in rows if "evaluation of ppo" in r]) == 2
    assert "a \\| second" in rows[-1]
    assert "commit it" in capsys.readouterr().err
    for held_out, reason in ((True, " "), (False, "why")):
        with pytest.raises(ValueError, match="go together"):
            test_looks.check_reason(held_out, "test", reason)
    test_looks.check_reason(True, "test", "why")
