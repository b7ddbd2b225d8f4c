"""The command line of evaluate.py on runs of a tiny student, with fake critics."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import evaluate
from training import test_looks

ROOT = Path(__file__).parents[1]
REPORT = [
    f"the {a} {b} my {c} ."
    for a, b, c in zip(
        "drum bus cat dog soup lamp".split() * 6,
        "ate lost ran boiled sang slept".split() * 6,
        [w for w in "bread sock hat keys mat gym".split() for _ in range(6)],
        strict=True,
    )
]
SELECT = ["a lamp ran late .", "the bread sang .", "my hat slept in the rain ."]
LEARNED = ["the cat sat on the mat .", "my keys are lost again ."]


@pytest.fixture(scope="session")
def world(tmp_path_factory, word_base):
    """Prompt files and two run folders, whose students were pushed instead of trained."""
    from agents.student import Student
    from training.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("evaluate")
    for name, lines in (("report", REPORT), ("select", SELECT), ("learned", LEARNED)):
        (folder / f"{name}.txt").write_text("\n".join(dict.fromkeys(lines)) + "\n")
    student = Student.load(str(word_base), dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for name, seed in (("one", 0), ("two", 1)):
        with torch.no_grad():
            for parameter in student.trainable().values():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        student.changed()
        run = folder / name
        save_checkpoint(
            run / "checkpoints", 2, save_adapter=student.save,
            tensors={"x": torch.zeros(1)}, state={},
        )  # fmt: skip
        options = {
            "student": str(word_base), "seed": seed, "critic": "fake:counts-word",
            "critic_arg": ["word=the"], "select_critic": "fake:honest", "reward": "humor=1",
            "select_size": 3, "prompts": str(folder / "learned.txt"),
            "select_prompts": str(folder / "select.txt"),
            "report_prompts": str(folder / "report.txt"),
        }  # fmt: skip
        config = {"algo": "ppo", "options": {"run": options, "ppo": {"max_tokens": 12}}}
        (run / "config.json").write_text(json.dumps(config))
        (run / "results.json").write_text('{"best_step": 2}')
    return folder


FAST = ["--critic", "fake:copies-win", "--threads", "1", "--jokes", "2", "--tie", "0.05"]


@pytest.fixture
def main(monkeypatch, capsys, tmp_path):
    """`evaluate.py` in this process: exit status, results or None, standard error."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PUNCHLINE_CACHE", str(tmp_path / "cache"))

    def run(*arguments, out=tmp_path / "out"):
        try:
            status = evaluate.main([*map(str, arguments), "--out", str(out)])
        except SystemExit as end:
            status = end.code
        found = out / "results.json"
        told = capsys.readouterr()
        return status, json.loads(found.read_text()) if found.exists() else None, told.err

    return run


@pytest.fixture(scope="session")
def done(world, tmp_path_factory):
    """One whole evaluation as a user starts it."""
    out = tmp_path_factory.mktemp("evaluated")
    arguments = [world / "one", world / "two", "best-of-4", *FAST, "--out", out / "first",
                 "--export-pairs", out / "pairs.jsonl", "--rate-pool"]  # fmt: skip
    status = evaluate.main([str(a) for a in arguments])
    assert status == 0
    return out, json.loads((out / "first" / "results.json").read_text(), parse_constant=pytest.fail)


def test_help_comes_without_torch_in_a_second():
    code = (
        "import sys, evaluate\n"
        "try: evaluate.main(['--help'])\n"
        "except SystemExit as end: print('status', end.code)\n"
        "print(sorted({'torch', 'transformers', 'sklearn'} & set(sys.modules)))"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - start < 20  # a second where nothing else runs
    assert done.stdout.splitlines()[-2:] == ["status 0", "[]"]
    for option in ("--split", "--critic SPEC", "--export-pairs", "--votes", "RUN@last"):
        assert option in done.stdout


def test_every_system_has_its_lists_and_every_pair_its_rate(done):
    _, results = done
    names = [s["name"] for s in results["systems"]]
    assert names == [
        "copy", "start", "start-tuned", "best-of-4", "one", "one-tuned", "two", "two-tuned",
    ]  # fmt: skip
    n = len(results["prompts"])
    assert n == len(set(REPORT)) >= 30
    for s in results["systems"]:
        for key in ("prompts", "rating", "amusing", "fact", "words", "recall", "jokes"):
            assert len(s[key]) == n, (s["name"], key)
        assert s["ratable"]
    assert len(results["pairs"]) == 7 * 6 / 2
    for pair in results["pairs"]:
        assert pair["win"] + pair["tie"] + pair["loss"] == pytest.approx(1)
    assert results["control"]["even"]
    assert {s["system"] for s in results["bradley_terry"]} == set(names) - {"copy"}


def test_each_student_is_tuned_and_its_distance_from_the_start_known(done):
    systems = {s["name"]: s for s in done[1]["systems"]}
    assert set(systems["one-tuned"]["tuning"]) == {"0", "0.4", "0.7"}
    assert systems["start"]["kl"] == 0
    assert systems["two"]["kl"] > systems["one"]["kl"] > 0.1  # pushed twice and once
    assert systems["best-of-4"]["kl"] == pytest.approx(0.6363, abs=1e-3)


def test_the_training_critic_picks_best_of_n_and_shows_the_gap(done):
    results = done[1]
    gaps = {g["system"]: g for g in results["over_optimisation"]}
    assert gaps["one"]["critic"] == "fake:counts-word word=the"
    assert gaps["best-of-4"]["train"] > gaps["start"]["train"]
    assert gaps["best-of-4"]["gap"]["value"] == pytest.approx(
        gaps["best-of-4"]["train"] - gaps["best-of-4"]["report"]
    )
    pool = results["pool"]
    assert [len(row) for row in pool["jokes"]] == [4] * len(results["prompts"])
    picked = {s["name"]: s for s in results["systems"]}["best-of-4"]
    for row, scores, (joke,) in zip(
        pool["jokes"], pool["train_scores"], picked["jokes"], strict=True
    ):
        usable = [s for s in scores if s is not None]
        assert not usable or scores[row.index(joke)] == max(usable)
    assert [len(row) for row in pool["ratings"]] == [4] * len(results["prompts"])


def test_reports_are_written_beside_the_results(done):
    out, results = done
    text = (out / "first" / "report.md").read_text()
    page = (out / "first" / "report.html").read_text()
    for told in ("start-tuned", "best-of-4", "one-tuned", "Control holds"):
        assert told in text
        assert told in page
    assert page.count("<svg") == 4
    assert not list((out / "first").glob(".*"))


def test_what_a_system_writes_does_not_depend_on_the_others(done, world, main):
    _, results, _ = main(world / "one", *FAST, "--decoding", "sampled", "--no-gap")
    before = {s["name"]: s for s in done[1]["systems"]}
    for s in results["systems"]:
        for key in ("jokes", "scores", "rating", "kl"):
            assert s[key] == before[s["name"]][key], (s["name"], key)
    pairs = {(p["a"], p["b"]): p for p in done[1]["pairs"]}
    for p in results["pairs"]:
        assert p == pairs[p["a"], p["b"]]


def test_votes_are_read_back_without_weights(done, main, tmp_path):
    out, results = done
    pairs = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert {tuple(sorted(p)) for p in pairs} == {("a", "b", "id", "prompt")}
    file = tmp_path / "votes.jsonl"
    rows = [{"id": p["id"], "vote": "a" if len(p["a"]) > len(p["b"]) else "b"} for p in pairs]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "results.json").write_text(json.dumps(results))
    status, found, _ = main("--votes", file, out=copy)
    assert status == 0
    assert found["votes"]["pairs"] == len(pairs)
    assert found["votes"]["agreement"]["accuracy"]["prompts"] <= len(results["prompts"])
    assert "corrected" in (copy / "report.md").read_text()

    before = (copy / "results.json").read_bytes()
    file.write_text('{"id": "0123456789abcdef", "vote": "a"}\n')
    status, _, told = main("--votes", file, out=copy)
    assert status == 2
    assert told.count("\n") == 1
    assert "is not of this evaluation" in told
    assert (copy / "results.json").read_bytes() == before


def test_a_judge_that_only_compares_can_report(world, main):
    status, results, _ = main(world / "one", *FAST, "--critic", "fake:longer-wins", "--no-gap",
                              "--decoding", "sampled", "--size", "31")  # fmt: skip
    assert status == 0
    assert [s["rating"] for s in results["systems"][1:]] == [[None] * 31] * 3
    pair = next(p for p in results["pairs"] if (p["a"], p["b"]) == ("one", "start"))
    words = {s["name"]: s for s in results["systems"]}
    assert pair["rate"]["prompts"] == 31
    assert words["one"]["kl"] > 0


def test_a_file_of_jokes_and_a_student_folder(world, main, tmp_path):
    prompts = list(dict.fromkeys(REPORT))
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"prompt": p, "joke": p}) + "\n" for p in prompts))
    adapter = world / "one" / "checkpoints" / "step-000002" / "adapter"
    base = json.loads((world / "one" / "config.json").read_text())["options"]["run"]["student"]
    status, results, _ = main(
        file, f"folder={adapter}", *FAST, "--student", base, "--select-critic", "fake:honest",
        "--prompts", world / "report.txt", "--max-tokens", "12", "--decoding", "sampled",
    )  # fmt: skip
    assert status == 0
    systems = {s["name"]: s for s in results["systems"]}
    assert systems["mine"]["recall"] == [1.0] * len(prompts)
    assert systems["folder"]["kl"] > 0.1
    won = next(p for p in results["pairs"] if (p["a"], p["b"]) == ("mine", "start-tuned"))
    assert won["win"] > 0.9  # copies win


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a SYSTEM, or --votes FILE"),
        (["nobody"], "is neither a run folder"),
        (["one", "--split", "poems", "--reason", "x"], "--split is 'poems'"),
        (["one", "--split", "test"], "a held-out split and a reason go together"),
        (["one", "--reason", "x"], "go together"),
        (["one", "--critic", "fake:honest"], "no run has seen: one: its checkpoints were picked"),
        (["one", "--critic", "fake:counts-word"], "it trained with fake:counts-word"),
        (["one", "--critic", "fake:nobody"], "the fakes are"),
        (["one", "--jokes", "0"], "--jokes is 0, must be >= 1"),
        (["one", "--jokes", "many"], "invalid int value"),
        (["one", "--tie", "-1"], "--tie is -1.0, must be >= 0"),
        (["one", "--decoding", "beam"], "invalid choice"),
        (["one", "--max-money", "1"], "need --ledger FILE"),
        (["one", "--prompts", "no-such.txt"], "no-such.txt: no such file"),
        (["one", "--prompts", "learned.txt"], "rl and evaluated share"),
        (["one", "--votes", "no-such.jsonl"], "no-such.jsonl: no such file"),
        (["one", "light"], "light: the corpus has no light paraphrase"),
        (["one", "teacher"], "no teacher joke"),
        (["one", "--critic", "embedded-report"], "embedded-report"),
    ],
)
def test_bad_input_is_one_line_and_status_2_and_writes_nothing(
    main, world, monkeypatch, tmp_path, arguments, message
):
    monkeypatch.chdir(world)
    out = tmp_path / "out"
    rest = arguments if "--critic" in arguments else [*arguments, "--critic", "fake:copies-win"]
    status, found, told = main(*rest, "--threads", "1", "--jokes" if "--jokes" not in rest else
                               "--size", "2", out=out)  # fmt: skip
    assert status == 2
    assert message in told
    assert told.splitlines()[-1].startswith("evaluate.py: ")
    assert sum(line.startswith("evaluate.py: ") for line in told.splitlines()) == 1
    assert found is None
    assert not out.exists()


def test_a_held_out_split_is_a_recorded_look(world, main, monkeypatch, tmp_path):
    looks = tmp_path / "looks.md"
    monkeypatch.setattr(test_looks, "LOOKS", looks)
    refused = ["--split", "headline", "--reason", "why", "--critic", "embedded-report"]
    assert main(world / "one", *refused)[0] == 2
    assert not looks.exists()
    status, results, _ = main(
        world / "one", *FAST, "--split", "headline", "--reason", "the figures of a table",
        "--size", "8", "--decoding", "sampled", "--accuracy", "40", "--max-tokens", "8",
    )  # fmt: skip
    assert status == 0
    row = looks.read_text().splitlines()[-1]
    assert "on headline" in row
    assert "the figures of a table" in row
    assert results["split"] == "headline"
    assert len(results["prompts"]) == 8
    accuracy = results["accuracy"]
    assert accuracy["pairs"] == 40
    assert 0 < accuracy["accuracy"]["value"] < 1
    assert "How far the critic can be trusted here" in (tmp_path / "out/report.md").read_text()
