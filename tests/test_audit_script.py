"""The command line of audit.py, with fakes, on a small made-up set of labelled pairs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import audit

ROOT = Path(__file__).parents[1]
FAST = ["--probe-repeats", "0", "--counterfactuals", "0", "--threads", "1"]


@pytest.fixture
def pairs(tmp_path):
    """Lines of the same length and overlap, the better one with more "the"."""
    rows = []
    for i in range(120):
        good, bad = f"the {i} the the word", f"a {i} a a word"
        rows.append({"prompt": f"the cat sat {i}", "a": good, "b": bad, "label": "a"})
        rows.append({"prompt": f"the cat sat {i}", "a": bad, "b": good, "preferred": "b"})
    rows.append({"prompt": "the cat", "a": "x", "b": "y", "label": "tie"})
    path = tmp_path / "made.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def run(tmp_path, *arguments):
    status = audit.main([*arguments, "--out", str(tmp_path / "out")])
    found = tmp_path / "out" / "audit.json"
    return status, json.loads(found.read_text()) if found.exists() else None


def failed(found, use="train"):
    return {c["figure"] for c in found["light"]["checks"][use] if not c["passed"]}


def test_help_comes_without_torch_in_a_second():
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "audit.py"), "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "--critic SPEC" in done.stdout
    assert time.perf_counter() - start < 5  # a busy machine; 0.1 s alone
    code = "import sys, audit, training.audit_data; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_critic_that_agrees_is_fit_but_for_what_was_not_measured(tmp_path, pairs):
    status, found = run(tmp_path, "--critic", "fake:counts-word", "--pairs", str(pairs), *FAST)
    assert status == 0
    assert found["groups"]["made"]["agreement"]["accuracy"]["value"] == 1
    assert found["groups"]["made"]["agreement"]["pairs"] == 240
    assert failed(found) == {"probe_excess", "filler_gain", "shortening_loss"}
    assert found["noise"]["changed"]["value"] == 0
    text = (tmp_path / "out" / "audit.md").read_text()
    assert text.startswith("# Audit of fake:counts-word\n")
    assert "| made | 240 | 0 | 1.00" in text


def test_always_first_is_flagged(tmp_path, pairs):
    _, found = run(tmp_path, "--critic", "fake:always-first", "--pairs", str(pairs), *FAST)
    order = found["groups"]["made"]["order"]
    assert order["flip_rate"]["value"] == order["first_slot"]["value"] == 1
    assert order["averaged"]["value"] == 0.5
    assert found["light"]["colour"] == "red"
    assert {"flip_rate", "accuracy"} <= failed(found)


def test_longer_wins_is_flagged_on_judged_lines(tmp_path):
    arguments = ("--critic", "fake:longer-wins", "--limit", "300", "--threads", "1")
    status, found = run(tmp_path, *arguments)
    assert status == 0
    assert {"length_bias", "filler_gain"} <= failed(found)
    assert found["domain"] == "start lines, one temperature"
    assert len(found["groups"]) >= 5
    assert found["probes"]["all"]["recipes"] >= 50
    filled, short = found["changes"]["filler added"], found["changes"]["shortened"]
    assert filled["pairs"] + short["pairs"] >= 200
    assert filled["win"]["value"] > 0.9


def test_failures_are_counted_and_never_a_number(tmp_path, pairs):
    arguments = ("--critic", "fake:random-failures", "--critic-arg", "share=0.5", *FAST)
    _, found = run(tmp_path, *arguments, "--pairs", str(pairs))
    assert "unscored" in failed(found)
    made = found["groups"]["made"]["agreement"]
    assert made["pairs"] + made["unscored"] == 240
    assert found["cost"]["failures"]["no verdict"] > 0


def test_a_ledger_is_asked_first_but_not_for_noise(tmp_path, pairs):
    arguments = ("--critic", "fake:longer-wins", "--pairs", str(pairs), *FAST)
    kept = ("--ledger", str(tmp_path / "verdicts.sqlite"), "--max-requests", "480")
    assert run(tmp_path, *arguments, *kept)[0] == 0
    assert run(tmp_path, *arguments, *kept)[0] == 0  # all known: the budget is not touched
    assert (tmp_path / "verdicts-again.sqlite").exists()
    low = ("--ledger", str(tmp_path / "other.sqlite"), "--max-requests", "10")
    assert run(tmp_path, *arguments, *low)[0] == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--critic", "fake:nobody"], "the fakes are"),
        (["--critic", "fake:honest", "--split", "test"], "every look is recorded"),
        (["--critic", "fake:honest", "--limit", "-1"], "--limit is -1"),
        (["--critic", "fake:honest", "--repeats", "0"], "--repeats is 0, must be >= 1"),
        (["--critic", "fake:honest", "--batch", "0"], "--batch is 0"),
        (["--critic", "fake:honest", "--domain", "mine"], "--domain is 'mine', allowed are"),
        (["--critic", "fake:honest", "--max-tokens", "5"], "need --ledger FILE"),
        (["--critic", "fake:honest", "--pairs", "nowhere.jsonl"], "cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, capsys, arguments, said):
    assert run(tmp_path, *arguments) == (2, None)
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "1: not JSON"),
        ("[]", "1: a list, need an object"),
        ('{"prompt": "p", "a": "x", "label": "a"}', "1: b is missing, need a string"),
        ('{"prompt": "p", "a": "x", "b": 3, "label": "a"}', "1: b is int, need a string"),
        ('{"prompt": "p", "a": "x", "b": "y", "label": 1}', "1: label is 1, allowed are a, b, tie"),
        ('{"prompt": "p", "a": "x", "b": "y", "label": "tie"}', "no pair with a preferred side"),
    ],
)
def test_a_pair_file_is_refused_with_its_line(tmp_path, capsys, line, said):
    path = tmp_path / "bad.jsonl"
    path.write_text(line + "\n")
    assert run(tmp_path, "--critic", "fake:honest", "--pairs", str(path))[0] == 2
    assert said in capsys.readouterr().err


def test_a_look_at_the_test_split_is_recorded(tmp_path, monkeypatch, capsys):
    looks = tmp_path / "docs" / "test-looks.md"
    monkeypatch.setattr("training.test_looks.LOOKS", looks)
    arguments = [
        "--critic",
        "fake:honest",
        "--split",
        "test",
        "--limit",
        "20",
        "--repeats",
        "1",
        *FAST,
    ]
    for reason in ("a first look", "a | second"):
        assert run(tmp_path, *arguments, "--reason", reason)[0] == 0
    rows = looks.read_text().splitlines()
    assert rows[0] == "# Looks at the test split"
    assert len([r for r in rows if "audit of fake:honest" in r]) == 2
    assert "a \\| second" in rows[-1]
    assert "commit it" in capsys.readouterr().err
