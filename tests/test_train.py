"""The command line and whole runs of a tiny student: refusals, results, kills, resumption."""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import train

ROOT = Path(__file__).parents[1]
SENTENCES = {
    "prompts": "the cat sat on the mat .\nmy keys are lost again .\na dog ate my sock .\n"
    "the soup boiled over .\nmy gym slept .\nthe bus ran late in rain .\n",
    "select": "a lamp ran late .\nthe bread sang .\nmy hat slept in the rain .\n",
    "report": "the drum ate my bread .\nmy cat lost a sock .\n",
}
UPDATES = 6


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Prompt files of our own, small enough for seconds."""
    folder = tmp_path_factory.mktemp("prompts")
    for name, text in SENTENCES.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


@pytest.fixture(scope="session")
def options(word_base, files):
    """A run of some seconds: fake critics, a tiny student, tiny prompt files."""
    return [
        "--student", str(word_base), "--threads", "1", "--updates", str(UPDATES),
        "--critic", "fake:counts-word", "--critic-arg", "word=the",
        "--select-critic", "fake:honest", "--report-critic", "fake:honest",
        "--control", "none", "--reward", "humor=1", "--eval-every", "2",
        "--prompts", str(files / "prompts.txt"), "--select-prompts", str(files / "select.txt"),
        "--report-prompts", str(files / "report.txt"), "--table-jokes", "2",
        "--prompts-per-update", "2", "--group-size", "4", "--minibatches", "2",
        "--max-tokens", "12", "--learning-rate", "0.01",
    ]  # fmt: skip


def command(*arguments, **known):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        capture_output=True, text=True, env=environment, timeout=300, check=False, **known,
    )  # fmt: skip


@pytest.fixture(scope="session")
def finished(options, tmp_path_factory):
    """One whole run as a user starts it, from another working directory."""
    out = tmp_path_factory.mktemp("finished")
    done = command("--algo", "ppo", *options, "--out", str(out / "runs"), cwd=out)
    assert done.returncode == 0, done.stderr
    (folder,) = (out / "runs").iterdir()
    return folder, done


@pytest.fixture
def main(monkeypatch, capsys):
    """`train.py` in this process: exit status, standard output, standard error."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_DYNAMIC", "MKL_DYNAMIC"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")

    def run(*arguments):
        status = train.main([str(a) for a in arguments])
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


def records(file):
    """Lines of strict JSON."""
    return [json.loads(line, parse_constant=pytest.fail) for line in file.read_text().splitlines()]


# ---- the command line


def test_help_shows_every_option_without_torch():
    code = (
        "import sys, train\n"
        "try: train.main(['--algo', 'ppo', '--help'])\n"
        "except SystemExit as end: print('status', end.code)\n"
        "print(sorted({'torch', 'transformers', 'sklearn'} & set(sys.modules)))"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert time.monotonic() - began < 20  # a second where nothing else runs
    assert done.stdout.splitlines()[-2:] == ["status 0", "[]"]
    for option in ("--resume", "--dry-run", "--group-size", "--select-critic", "--max-unscored"):
        assert option in done.stdout


def test_version_and_lists(main):
    assert re.fullmatch(r"punchline \S.*\n", main("--version")[1])
    algos = ["ppo", "online-dpo", "dpo", "brio", "brio-dpo", "sd", "sft-more", "sft"]
    assert main("--list", "algos")[1].split() == algos
    assert "smollm2-135m" in main("--list", "students")[1]
    critics = main("--list", "critics")[1].splitlines()
    assert {"embedded", "embedded-select", "fake:honest"} <= set(critics)
    assert main("--list", "jokes")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algo", "dqn"], "--algo is 'dqn', allowed are ppo, online-dpo, dpo, brio"),
        (["--updates", "0"], "--updates is 0, must be >= 1"),
        (["--updates", "many"], "--updates"),
        (["--updates"], "--updates"),
        (["--updtes", "3"], "--updtes"),
        (["--advantage", "ppo"], "'rloo', 'grpo', 'gae'"),
        (["--group-size", "1"], "--group-size is 1: rloo compares"),
        (["--control", "cubic"], "--control is 'cubic', allowed are none, linear"),
        (["--max-unscored", "2"], "--max-unscored is 2.0, must lie in 0..1"),
        (["--resume", "no/such/run"], "no/such/run is not a run folder"),
        (["--config", "no-such.json"], "no-such.json"),
        (["--config"], "--config needs a value"),
        (["--student", "nobody"], "--student 'nobody' is neither"),
        (["--critic", "nobody"], "--critic 'nobody' is not known; allowed are embedded"),
        (["--critic", "fake:nobody"], "--critic fake:nobody: the fakes are"),
        (["--critic", "json:nothing"], "module json has no 'nothing'"),
        (["--critic-arg", "colour=red"], "its arguments are: word"),
        (["--critic-arg", "colour"], "--critic-arg"),
        (["--select-critic", "fake:always-first"], "must score jokes"),
        (["--reward", "humor"], "--reward"),
        (["--reward", "humor=1,fact=1"], "--reward fact needs a critic that rates"),
        (["--prompts", "no-such.txt"], "no-such.txt: No such file"),
        (["--prompts-per-update", "7", "--minibatches", "1"], "num_prompts is 7"),
        (["--device", "abacus"], "--device abacus cannot be used"),
    ],
)
def test_bad_input_is_one_line_and_status_2_and_writes_nothing(
    main, options, tmp_path, arguments, message
):
    out = tmp_path / "runs"
    status, shown, told = main(*options, "--out", out, *arguments)
    assert status == 2
    assert message in told
    assert told.startswith("train.py: ")
    assert told.count("\n") == 1
    assert shown == ""
    assert not out.exists()


def test_options_of_another_algorithm_are_refused(main, tmp_path):
    for arguments, message in (
        (["--batch-size", "0"], "--batch-size and --lora-rank must be >= 1"),
        (["--group-size", "4"], "Unrecognized options: --group-size"),
    ):
        status, _, told = main("--algo", "sft", "--out", tmp_path / "runs", *arguments)
        assert status == 2
        assert message in told
        assert told.count("\n") == 1


def test_bad_input_from_a_shell():
    done = command("--updates", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "train.py: --updates is 0, must be >= 1\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"updtes": 3}', "--config has the unknown option 'updtes'"),
        ('{"updates": "3"}', "updates is '3', must be int"),
        ('{"updates": 0}', "--updates is 0, must be >= 1"),
        ('{"critic": 7}', "critic is 7, must be str"),
        ('{"advantage": "ppo"}', "allowed are rloo, grpo, gae"),
        ("[1, 2]", "must hold one JSON object"),
        ("{", "Expecting property name"),
    ],
)
def test_bad_config_file_is_refused(main, tmp_path, content, message):
    file = tmp_path / "options.json"
    file.write_text(content)
    status, _, told = main("--config", file, "--out", tmp_path / "runs")
    assert status == 2
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_command_line_wins_over_the_config_file(tmp_path):
    file = tmp_path / "options.json"
    file.write_text('{"updates": 40, "group-size": 3, "seed": 5}')
    options = train.read_options("ppo", ["--updates", "7"], train._config_file(str(file)))
    assert (options.ppo.updates, options.ppo.group_size, options.run.seed) == (7, 3, 5)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.jsonl", '{"text": "one cat ."}\n{"text": ', ":2: not JSON"),
        ("a.jsonl", '{"sentence": "one cat ."}\n', ":1: no field 'text'"),
        ("a.jsonl", '{"id": "x", "text": "a ."}\n{"id": "x", "text": "b ."}\n', ":2: duplicate id"),
        ("a.csv", "sentence\nmy cat .\n", ":1: no column 'text'"),
        ("a.txt", "\n\n", ": no prompts in it"),
        ("a.pdf", "one cat .", "none of .jsonl, .csv, .txt"),
    ],
)
def test_malformed_prompt_file_names_file_line_and_fault(
    main, options, tmp_path, name, content, fault
):
    file = tmp_path / name
    file.write_text(content)
    out = tmp_path / "runs"
    status, _, told = main(*options, "--prompts", file, "--out", out)
    assert status == 2
    assert f"{file}{fault}" in told or (str(file) in told and fault in told)
    assert told.count("\n") == 1
    assert not out.exists()


def test_splits_that_share_a_prompt_are_refused_with_its_ids(main, options, files, tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("A lamp ran late!\nthe rain sang .\n")
    status, _, told = main(*options, "--prompts", file, "--out", tmp_path / "runs")
    assert status == 2
    assert "rl and select share 'mine-1' = 'select-1'" in told
    assert not (tmp_path / "runs").exists()


def test_dry_run_counts_and_writes_nothing(main, options, tmp_path):
    out = tmp_path / "runs"
    status, shown, _ = main(*options, "--dry-run", "--out", out)
    assert status == 0
    assert not out.exists()
    shown = dict(line.split(maxsplit=1) for line in shown.replace("judged ", "").splitlines())
    assert shown["updates"] == "6 of 8 jokes"
    looks = 4 * 3 * (2 + 1) + 3  # at 0, 2, 4, 6; three prompts, two jokes + tuned; start-tuned
    assert shown["jokes"].startswith(f"48 in training, {looks} in 4 looks")
    assert shown["money"].startswith("0")


# ---- a whole run


def test_run_leaves_what_it_promises(finished):
    folder, done = finished
    assert re.fullmatch(r"ppo-base-s0-\d{8}-\d{6}", folder.name)
    config = json.loads((folder / "config.json").read_text())
    assert config["options"]["ppo"]["updates"] == UPDATES
    assert config["options"]["run"]["critic_arg"] == ["word=the"]
    assert {"torch", "transformers", "peft"} <= set(config["packages"])
    assert [r["step"] for r in records(folder / "metrics.jsonl")] == list(range(UPDATES + 1))
    assert any((folder / "tensorboard").iterdir())
    samples = records(folder / "samples.jsonl")
    assert [r["step"] for r in samples] == [s for s in (0, 2, 4, 6) for _ in range(3)]
    assert all(r["start"] == r["now"] for r in samples[:3])
    assert not {f.suffix for f in folder.rglob("*")} & {".bin", ".pt", ".pth", ".pkl"}


def test_progress_goes_to_standard_error_and_the_table_to_standard_output(finished):
    folder, done = finished
    for step in range(1, UPDATES + 1):
        assert f"update {step}/{UPDATES}  reward" in done.stderr
    assert "Warning" not in done.stderr
    assert "start-tuned" in done.stdout
    assert f'{folder.name} "I lost my keys again."' in done.stdout


def test_results_are_strict_json_with_every_system(finished):
    folder, _ = finished
    text = (folder / "results.json").read_text()
    results = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert results["last_step"] == UPDATES
    assert 0 <= results["best_step"] <= UPDATES
    assert results["judged_jokes"] == UPDATES * 8
    for name in ("copy", "start", "start-tuned", "best-of-4", "best", "best-tuned"):
        assert f'"{name}"' in text
        assert name in (folder / "table.md").read_text()


def test_blind_pairs_do_not_tell_who_wrote_what(finished):
    folder, _ = finished
    pairs = records(folder / "pairs.jsonl")
    results = json.loads((folder / "results.json").read_text())
    keys = {name: of for one in results["pairs"] for name, of in one["key"].items()}
    assert {pair["id"] for pair in pairs} == set(keys)
    for pair in pairs:
        assert set(pair) == {"id", "prompt", "a", "b"}
        assert keys[pair["id"]]["a"] != keys[pair["id"]]["b"]


def test_every_logged_key_has_a_number_or_null(finished):
    folder, _ = finished
    for record in records(folder / "metrics.jsonl"):
        assert all(v is None or isinstance(v, int | float) for v in record.values())
        if record.get("policy/first_ratio") is not None:
            assert record["policy/first_ratio"] == pytest.approx(1, abs=1e-3)
    last = records(folder / "metrics.jsonl")[-1]
    assert {"reward/mean", "policy/kl_per_token", "select/rating", "gate/share"} <= set(last)


# ---- killed and resumed


@pytest.fixture(scope="session")
def processes():
    """Real processes that may be killed, from a server that has imported everything once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["train", "training.run", "peft", "transformers.models.llama", "torch.utils.tensorboard"]
    )
    return context


def start(processes, *arguments):
    process = processes.Process(target=train.main, args=([str(a) for a in arguments],))
    process.start()
    return process


def wait_until(condition, process):
    """Poll; gives up where the process has ended."""
    while not condition():
        if not process.is_alive():
            return
        time.sleep(0.002)


def newest_step(folder):
    names = [f.name for f in (folder / "checkpoints").glob("step-*")]
    return max((int(n.split("-")[1]) for n in names), default=-1)


def kill_and_resume(processes, options, out, moments):
    """Start a run, kill it at each moment in turn, resume, and let it end."""
    process = start(processes, *options, "--quiet", "--out", out)
    wait_until(lambda: list(out.glob("*/config.json")), process)
    (folder,) = out.iterdir()
    for moment in moments:
        moment(folder, process)
        assert process.is_alive(), "the run ended before it could be killed"
        process.kill()
        process.join()
        process = start(processes, "--quiet", "--resume", folder)
    process.join()
    assert process.exitcode == 0
    return folder


def at_once(folder, process):
    """Before the first checkpoint."""


def in_a_checkpoint(folder, process):
    """While one is being written."""
    root = folder / "checkpoints"
    wait_until(lambda: list(root.glob(".writing-*/adapter")), process)


def at_random(rng, updates=1):
    """Somewhere in one of the next updates of this life."""
    after, pause = int(rng.integers(0, updates + 1)), float(rng.uniform(0, 0.15))

    def moment(folder, process):
        first = newest_step(folder)
        alive = folder / "metrics.jsonl"
        before = alive.stat().st_mtime_ns if alive.exists() else 0
        wait_until(lambda: alive.exists() and alive.stat().st_mtime_ns != before, process)
        wait_until(lambda: newest_step(folder) >= first + after, process)
        time.sleep(pause)

    return moment


def same_run(one, other):
    """Adapters, optimizer, state, logs, jokes and figures are equal bit for bit."""
    steps = [f.name for f in sorted((one / "checkpoints").iterdir())]
    assert steps == [f.name for f in sorted((other / "checkpoints").iterdir())]
    for step in steps:
        for file in ("adapter/adapter_model.safetensors", "trainer.safetensors", "state.json"):
            a, b = (run / "checkpoints" / step / file for run in (one, other))
            assert a.read_bytes() == b.read_bytes(), f"{step}/{file}"
    for file in ("metrics.jsonl", "samples.jsonl", "jokes.jsonl", "pairs.jsonl", "table.md"):
        assert (one / file).read_bytes() == (other / file).read_bytes(), file
    a, b = (json.loads((run / "results.json").read_text()) for run in (one, other))
    assert a | {"seconds": 0} == b | {"seconds": 0}


def test_killed_run_ends_as_the_uninterrupted_one(processes, options, finished, tmp_path):
    rng = np.random.default_rng(0)
    moments = [at_once, at_random(rng), in_a_checkpoint]
    folder = kill_and_resume(processes, options, tmp_path / "runs", moments)
    same_run(finished[0], folder)


@pytest.mark.slow
def test_twenty_kills_change_nothing(processes, options, tmp_path):
    options = [*options, "--updates", "200"]
    rng = np.random.default_rng(1)
    moments = [at_random(rng) if i % 4 else in_a_checkpoint for i in range(20)]
    killed = kill_and_resume(processes, options, tmp_path / "killed", moments)
    whole = kill_and_resume(processes, options, tmp_path / "whole", [])
    same_run(whole, killed)


def test_adapter_really_moved(finished):
    folder, _ = finished
    steps = sorted((folder / "checkpoints").iterdir())
    one, other = (load_file(s / "adapter" / "adapter_model.safetensors") for s in steps[-2:])
    assert any(not one[n].equal(other[n]) for n in one)


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "copied")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--learning-rate", "0.02"], "--learning-rate is 0.02 but the run began with 0.01"),
        (["--seed", "1"], "--seed is 1 but the run began with 0"),
        (["--critic-arg", "word=a"], "--critic-arg"),
        (["--threads", "2"], "--threads"),
    ],
)
def test_resuming_with_another_option_is_refused(main, copied, change, message):
    before = {f: f.read_bytes() for f in copied.rglob("*") if f.is_file()}
    status, _, told = main("--resume", copied, *change)
    assert status == 2
    assert message in told
    assert before == {f: f.read_bytes() for f in copied.rglob("*") if f.is_file()}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"{", "is damaged"),
        ("checkpoints/*/trainer.safetensors", b"\x10", "cannot be read"),
        ("checkpoints/*/state.json", b"{", "cannot be read"),
        ("checkpoints/*/adapter/adapter_model.safetensors", b"\x80\x04", "truncated or not safe"),
    ],
)
def test_damaged_run_is_refused_in_one_line(main, copied, file, content, message):
    sorted(copied.glob(file))[-1].write_bytes(content)
    status, _, told = main("--resume", copied, "--quiet")
    assert status == 2
    assert message in told
    assert told.count("\n") == 1


def test_failing_critic_saves_exits_3_and_resumes(main, options, tmp_path):
    out = tmp_path / "runs"
    failing = ["--critic", "fake:random-failures", "--critic-arg", "share=0.5", "--quiet"]
    mine = [o for o in options if o not in ("--critic-arg", "word=the")]
    status, shown, _ = main(*mine, *failing, "--critic-arg", "of=honest", "--out", out)
    (folder,) = out.iterdir()
    assert status == 3
    assert "have no verdict, more than --max-unscored 5.0% allows" in shown
    assert f"--resume {folder}" in shown
    stopped_at = newest_step(folder)
    assert 1 <= stopped_at < UPDATES
    status, shown, _ = main("--resume", folder, "--max-unscored", "1", "--quiet")
    assert status == 0
    assert newest_step(folder) == UPDATES
    assert [r["step"] for r in records(folder / "metrics.jsonl")] == list(range(UPDATES + 1))
    assert (folder / "results.json").exists()


def test_resume_imports_no_module_that_only_the_run_folder_names(finished, tmp_path, main):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')\n")
    config = json.loads((folder / "config.json").read_text())
    config["options"]["run"]["critic"] = "planted:make"
    config["options"]["run"]["critic_arg"] = []
    (folder / "config.json").write_text(json.dumps(config))
    status, _, told = main("--resume", folder)
    assert status == 2
    assert "planted:make" in told
    assert "--trust-critic" in told
