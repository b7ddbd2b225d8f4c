"""The command line of compare.py with processes that are stood in for, and one whole small run."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import compare
import train

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(tmp_path, capsys):
    """compare.py in this process: exit status, standard output, standard error."""

    def call(*arguments):
        status = compare.main([*map(str, arguments), "--out", str(tmp_path / "out")])
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


def test_help_comes_without_torch_in_a_second():
    code = (
        "import sys, compare\n"
        "try: compare.main(['--help'])\n"
        "except SystemExit as end: print('status', end.code)\n"
        "import training.comparison_figures, evaluation.compare_report\n"
        "print('torch' in sys.modules)"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert time.monotonic() - began < 20  # a busy machine; a second alone
    assert done.stdout.splitlines()[-2:] == ["status 0", "False"]
    for option in ("--algos", "--study", "--budget", "--trials", "--dry-run", "--smoke"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--algos", "dqn"], "--algos has ['dqn'], allowed are sft-more, sd"),
        (["--study", "weather"], "--study is 'weather', allowed are feedback-frequency"),
        (["--budget", "640"], "--budget is '640', must be judged_jokes=N"),
        (["--budget", "judged_jokes=-64"], "must be judged_jokes=N"),
        (["--budget", "judged_jokes=100"], "no whole number of updates of 64 jokes"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--trials", "9"], "--trials is 9, the grid has 4 for sft-more"),
        (["--critic", "embedded"], "must be one that no run has seen"),
        (["--split", "test"], "every look is recorded"),
        (["--split", "nowhere", "--reason", "x"], "--split is 'nowhere', allowed are report, test"),
        (["--config", "no-such.json"], "no-such.json"),
        (["--grid", "no-such.json"], "no-such.json"),
        (["--critics", "embedded"], "--critics belongs to --study critic"),
    ],
)
def test_bad_input_is_one_line_and_status_2_and_writes_nothing(run, tmp_path, arguments, said):
    status, shown, told = run(*arguments)
    assert (status, shown) == (2, "")
    assert said in told
    assert told.startswith("compare.py: ")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_config_must_be_an_object_and_may_not_touch_what_is_equal_for_all(run, tmp_path):
    file = tmp_path / "options.json"
    for content, said in (("[]", "must hold one JSON object"), ('{"seed": 3}', "sets 'seed'")):
        file.write_text(content)
        status, _, told = run("--config", file)
        assert status == 2
        assert said in told


def test_dry_run_shows_cost_and_extra_seeds_and_writes_nothing(run, tmp_path):
    arguments = ["--algos", "sft-more", "dpo", "online-dpo", "best-of-n", "--seeds", "3"]
    status, shown, _ = run(*arguments, "--budget", "judged_jokes=640", "--dry-run")
    assert status == 0
    assert not (tmp_path / "out").exists()
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in shown.splitlines()}
    looked = 3 * (4 * 3 + 1) * 48  # looks at 0, 4, 8, 10; two jokes and one at tuned decoding
    assert rows["sft-more", "seed"][:4] == ["3", "0", "0", str(looked)]
    assert rows["online-dpo", "seed"][:4] == ["3", "0", "1920", str(looked)]
    assert rows["dpo", "extra"][:3] == ["2", "0", "1280"]
    assert "best-of-n" not in shown
    assert "10 updates of 64 jokes a run" in shown


def test_dry_run_of_trials_counts_them_apart(run):
    _, shown, _ = run("--algos", "dpo", "--trials", "2", "--dry-run")
    assert [line.split()[:3] for line in shown.splitlines()[1:3]] == [
        ["dpo", "trial", "2"],
        ["dpo", "seed", "3"],
    ]


def test_failures_are_rows_the_report_is_written_and_the_status_says_so(run, tmp_path, monkeypatch):
    asked = []

    def fails(_self, command, log):
        asked.append(command)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("train.py: no such algorithm\n")
        return 2

    monkeypatch.setattr("training.workers.Workers.run", fails)
    status, shown, told = run("--algos", "dpo", "online-dpo", "--seeds", "1", "--pool", "0")
    assert status == 3
    assert "dpo-s0 failed: train.py: no such algorithm" in shown.replace("\\", "")
    assert "run 1/10" in told
    out = tmp_path / "out"
    assert {"comparison.json", "figures.json", "table.md", "report.html"} <= set(os.listdir(out))
    assert json.loads((out / "figures.json").read_text())["primary"]["win"] is None
    before = len(asked)
    assert run("--report-only")[0] == 3
    assert len(asked) == before


def test_a_later_sitting_needs_no_options_and_refuses_others(run, tmp_path, monkeypatch):
    monkeypatch.setattr("training.workers.Workers.run", lambda *_, **__: 1)
    run("--algos", "dpo", "--seeds", "1", "--budget", "judged_jokes=128", "--pool", "0")
    _, shown, _ = run("--dry-run")
    assert "2 updates of 64 jokes a run" in shown
    status, _, told = run("--budget", "judged_jokes=64")
    assert status == 2
    assert "compares with budget 128, not 64" in told


def test_code_that_only_an_earlier_sitting_named_is_not_used(run, tmp_path, monkeypatch):
    monkeypatch.setattr("training.workers.Workers.run", lambda *_, **__: 1)
    file = tmp_path / "options.json"
    file.write_text('{"critic": "mine:make"}')
    run("--algos", "dpo", "--seeds", "1", "--pool", "0", "--config", file)
    status, _, told = run("--dry-run")
    assert status == 2
    assert "names 'mine:make'" in told
    assert run("--dry-run", "--trust-critic")[0] == 0


def test_two_sittings_at_once_are_refused(run, tmp_path):
    out = tmp_path / "out"
    with compare._alone(out):
        status, _, told = run("--algos", "dpo")
    assert status == 2
    assert "is in use by another sitting" in told


@pytest.mark.slow
def test_the_whole_path_with_a_tiny_student(word_base, tmp_path):
    """Real processes of train.py and evaluate.py, killed once and continued."""
    prompts = {
        "prompts": "the cat sat on the mat .\nmy keys are lost again .\na dog ate my sock .\n"
        "the soup boiled over .\nmy gym slept .\nthe bus ran late in rain .\n",
        "select_prompts": "a lamp ran late .\nthe bread sang .\nmy hat slept in the rain .\n",
        "report_prompts": "the drum ate my bread .\nmy cat lost a sock .\nmy lamp sang .\n",
    }
    options = {
        "student": str(word_base), "threads": 1, "critic": "fake:counts-word",
        "critic_arg": ["word=the"], "select_critic": "fake:honest", "control": "none",
        "reward": "humor=1", "prompts_per_update": 2, "group_size": 4, "minibatches": 2,
        "max_tokens": 12, "eval_every": 2, "learning_rate": 0.01,
    }  # fmt: skip
    for name, text in prompts.items():
        file = tmp_path / f"{name}.txt"
        file.write_text(text)
        options[name] = str(file)
    (tmp_path / "options.json").write_text(json.dumps(options))
    (tmp_path / "grid.json").write_text(
        json.dumps({n: {"best": {}, "trials": []} for n in ("ppo", "online-dpo")})
    )
    algos = [a for a in ("online-dpo", "ppo") if a in train.RUNS]
    command = [
        sys.executable, str(ROOT / "compare.py"), "--algos", *algos, "--seeds", "1",
        "--budget", "judged_jokes=32", "--pool", "8", "--critic", "fake:copies-win",
        "--config", str(tmp_path / "options.json"), "--grid", str(tmp_path / "grid.json"),
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=environment, cwd=tmp_path)
    while not list((tmp_path / "out" / "runs").glob("*/*/config.json")):
        assert first.poll() is None
        time.sleep(0.2)
    first.terminate()
    assert first.wait(60) == 128 + 15
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    figures = json.loads((out / "figures.json").read_text())
    rows = {r["system"]: r for r in figures["rows"]["report"]}
    assert {"start", "start-tuned", "best-of-4", *algos} <= set(rows)
    assert all(rows[name]["rating"]["prompts"] == 3 for name in algos)
    assert "ppo + best-of-4" in rows
    assert "<svg" in (out / "report.html").read_text()
    again = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True,
                           timeout=120, check=True)  # fmt: skip
    assert again.stdout == done.stdout
