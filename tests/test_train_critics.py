"""Whole runs of a tiny student on a critic behind a real server that fails, costs and ends."""

import hashlib
import json
import os
import sqlite3
import sys

import pytest

import train
from benchmarks.fault_server import FaultServer, faulty

SENTENCES = {
    "prompts": "the cat sat on the mat .\nmy keys are lost again .\na dog ate my sock .\n"
    "the soup boiled over .\nmy gym slept .\nthe bus ran late in rain .\n",
    "select": "a lamp ran late .\n",
    "report": "the drum ate my bread .\n",
}
FAILING = ("500", "truncated-json", "empty-choices", "refusal", "low-mass", "hang-up", "html")
SHARE = 0.3

PLUGIN = '''
import hashlib

from rewards.openai_critic import openai_critic
from rewards.rubric import load_rubric, render


def masked(base_url):
    """The judge of a server that never fails, without the verdicts that another would not give."""
    inner = openai_critic("judge", base_url=base_url, question="pointwise", retries="0")
    rubric = load_rubric("pointwise")

    def fails(prompt, joke):
        content = render(rubric, prompt, [joke], digits=True)[-1]["content"]
        digest = hashlib.sha256(content.encode()).digest()
        return int.from_bytes(digest[:8], "big") < {share} * 2**64

    class Masked:
        name = "openai:judge"

        def score(self, prompts, jokes):
            scores = inner.score(prompts, jokes)
            return [
                None if fails(p, j) else s for p, j, s in zip(prompts, jokes, scores, strict=True)
            ]

    return Masked()
'''.replace("{share}", str(SHARE))


@pytest.fixture
def run(word_base, tmp_path, monkeypatch, capsys):
    """`train.py` in this process on the tiny student: exit status, output, errors, its folder."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_DYNAMIC", "MKL_DYNAMIC"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-never-written-anywhere")
    for name, text in SENTENCES.items():
        (tmp_path / f"{name}.txt").write_text(text)
    known = [
        "--student", word_base, "--threads", "1", "--updates", "4", "--control", "none",
        "--select-critic", "fake:honest", "--report-critic", "fake:honest",
        "--reward", "humor=1", "--eval-every", "50", "--checkpoint-every", "1",
        "--prompts", tmp_path / "prompts.txt", "--select-prompts", tmp_path / "select.txt",
        "--report-prompts", tmp_path / "report.txt", "--table-jokes", "1", "--select-jokes", "1",
        "--prompts-per-update", "2", "--group-size", "4", "--minibatches", "2",
        "--max-tokens", "48", "--learning-rate", "0.003", "--quiet",
    ]  # fmt: skip

    def run(out, *arguments, resume=None):
        start = ["--resume", resume] if resume else [*known, "--out", tmp_path / out]
        status = train.main([str(a) for a in (*start, *arguments)])
        told = capsys.readouterr()
        folders = sorted(f for f in (tmp_path / out).glob("*") if f.is_dir())
        return status, told.out, told.err, folders[-1] if folders else None

    return run


def judge(server, **options):
    """The options of a critic on `server`."""
    options = {"base_url": server.url, "question": "pointwise", "retries": "0"} | options
    asked = [x for name, value in options.items() for x in ("--critic-arg", f"{name}={value}")]
    return ["--critic", "openai:judge", *asked]


def adapter(folder):
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    return last.name, (last / "adapter" / "adapter_model.safetensors").read_bytes()


def metrics(folder, key):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record[key] for record in map(json.loads, lines) if key in record]


def calls(out):
    with sqlite3.connect(f"file:{out / 'ledger.sqlite'}?mode=ro", uri=True) as file:
        found = file.execute("select value from calls").fetchall()
    return [None if v is None else json.loads(v) for (v,) in found]


def fails(request):
    """Whether `faulty` answers this request with a fault."""
    digest = hashlib.sha256(request["messages"][-1]["content"].encode()).digest()
    return int.from_bytes(digest[:8], "big") < SHARE * 2**64


@pytest.mark.slow
def test_faulty_critic_loses_no_verdict_and_trains_on_no_failed_one(run, tmp_path, monkeypatch):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    more = ("--updates", "50", "--max-unscored", "1")
    with FaultServer(faulty(*FAILING, share=SHARE)) as server:
        status, _, told, failing = run("failing", *judge(server), *more)
        assert status == 0, told
        kept = calls(tmp_path / "failing")
        assert len(kept) == len(server.requests) > 128 + 150  # calibration and jokes
    shares, gated = (metrics(failing, k) for k in ("critic/unscored_rate", "gate/share"))
    assert len(shares) == 50
    rate = sum(shares) / (50 - sum(gated))  # of the jokes that were asked about, some 200
    assert rate == pytest.approx(SHARE, abs=0.12)
    assert sum(v is None for v in kept) == sum(map(fails, server.requests[1:]))
    with FaultServer() as server:
        critic = ("--critic", "plugin:masked", "--critic-arg", f"base_url={server.url}")
        status, _, told, masked = run("masked", *critic, *more)
        assert status == 0, told
    assert adapter(failing) == adapter(masked)
    assert metrics(failing, "reward/mean") == metrics(masked, "reward/mean")


def test_budget_stops_the_run_which_resumes_with_a_larger_one(run, tmp_path):
    with FaultServer() as server:
        status, told, _, whole = run("whole", *judge(server))
        assert status == 0
        asked = len(server.requests)
        status, told, _, folder = run("short", *judge(server), "--budget-requests", "140")
        assert status == 3
        assert "larger --budget-" in told
        assert "openai:judge" in told  # the table of what was spent
        assert len(calls(tmp_path / "short")) == 140
        status, _, told, _ = run("short", "--budget-requests", "100000", resume=folder)
        assert status == 0, told
        assert len(server.requests) == 2 * asked + 1  # nothing is paid twice; one more probe
    assert adapter(whole) == adapter(folder)


def test_replay_needs_no_server_and_repeats_the_run(run, tmp_path):
    with FaultServer(faulty(*FAILING, share=0.1)) as server:
        recorded = judge(server)
        status, _, told, folder = run("first", *recorded, "--max-unscored", "1")
        assert status == 0, told
    ledger = tmp_path / "first" / "ledger.sqlite"
    replay = ("--ledger", ledger, "--replay", folder.name, "--max-unscored", "1")
    status, _, told, again = run("again", *recorded, *replay)
    assert status == 0, told
    assert adapter(folder) == adapter(again)
    status, told, _, _ = run("other", *recorded, *replay, "--seed", "1")
    assert status == 3
    assert "ledger" in told


def test_too_many_failures_stop_the_run_and_a_mended_server_lets_it_go_on(run):
    with FaultServer() as server:
        paid = 0

        def breaks_down(request, n):
            return (faulty("500") if n > paid else faulty("500", share=0.0))(request, n)

        status, _, told, _ = run("whole", *judge(server), "--updates", "1")
        assert status == 0, told
        paid = len(server.requests) * 2 + 4
        server.reply = breaks_down
        status, told, _, folder = run("broken", *judge(server))
        assert status == 3
        assert "have no verdict, more than --max-unscored 5.0% allows; saved" in told
        server.reply = faulty("500", share=0.0)
        status, _, told, _ = run("broken", resume=folder)
        assert status == 0, told
        assert adapter(folder)[0] == "step-000004"


@pytest.mark.parametrize("question", [pytest.param("pairwise", marks=pytest.mark.slow), "listwise"])
def test_critic_that_compares_is_held_against_jokes_of_the_start(run, question):
    with FaultServer() as server:
        options = judge(server, question=question)
        status, _, told, folder = run("runs", *options, "--updates", "1", "--max-unscored", "1")
        assert status == 0, told
        assert metrics(folder, "critic/unscored_rate") == [0.0]


def test_key_is_nowhere(run, tmp_path):
    with FaultServer(faulty("bad-key")) as server:
        status, told, errors, _ = run("runs", *judge(server))
    assert status == 2
    assert "never-written" not in told + errors
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"never-written" not in file.read_bytes()


def test_another_models_name_is_refused_before_anything_is_written(run):
    with FaultServer(faulty("other-model")) as server:
        server.reply = lambda r, n: faulty("other-model")(r | {"messages": [{"content": "x"}]}, n)
        status, _, told, folder = run("runs", *judge(server))
    assert status == 2
    assert "judge-mini" in told
    assert folder is None
