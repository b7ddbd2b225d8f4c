"""Pairs that offline DPO is given, and whole runs of the methods that share the loop."""

import json
import os
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

import train
from agents.feedback_configs import OfflineDPOConfig
from envs.prompts import corpus_prompts
from training.offline_pairs import given_pairs, label_pairs, read_pairs
from training.parts import PromptSets

PAIR = {"prompt": "my gym slept .", "chosen": "the gym ate .", "rejected": "a dog sang ."}


def write(path, *records):
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines) + "\n")
    return path


def run(**changes):
    usual = {"student": "start", "seed": 0, "select_critic": "embedded-select",
             "report_critic": "embedded-report"}  # fmt: skip
    return SimpleNamespace(**(usual | changes))


def sets():
    return PromptSets(*(corpus_prompts(role) for role in ("rl", "select", "report")))


# ---- files of pairs


def test_a_file_of_pairs_is_read_in_order(tmp_path):
    other = PAIR | {"prompt": " The bus ran late. ", "by": "somebody"}
    (one, two) = read_pairs(write(tmp_path / "pairs.jsonl", PAIR, "", other))
    assert one[:3] == tuple(PAIR.values())
    assert two.prompt == "The bus ran late."


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("{", ":2: not JSON"),
        ("[1]", ":2: a list, need an object"),
        ({"prompt": "a", "chosen": "b"}, ":2: rejected is None, need a text"),
        (PAIR | {"chosen": 3}, ":2: chosen is 3, need a text"),
        (PAIR | {"prompt": "  "}, ":2: prompt is '  ', need a text"),
        (PAIR | {"chosen": PAIR["rejected"]}, ":2: chosen and rejected are equal"),
    ],
)
def test_a_malformed_file_names_line_and_fault(tmp_path, record, said):
    with pytest.raises(ValueError, match=r"--pairs .*mine\.jsonl") as caught:
        read_pairs(write(tmp_path / "mine.jsonl", PAIR, record))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_or_absent_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no pairs in it"):
        read_pairs(write(tmp_path / "empty.jsonl", ""))
    with pytest.raises(ValueError, match="No such file"):
        read_pairs(tmp_path / "absent.jsonl")


@pytest.mark.parametrize("role", ["select", "report"])
def test_pairs_on_prompts_that_judge_the_run_are_refused(tmp_path, role):
    held_out = corpus_prompts(role)[0]
    file = write(tmp_path / "pairs.jsonl", PAIR, PAIR | {"prompt": held_out.text.upper()})
    with pytest.raises(ValueError, match=f"pairs and {role} share .*{held_out.id}"):
        given_pairs(run(), OfflineDPOConfig(pairs=str(file)), sets())
    learned = corpus_prompts("rl")[0]
    write(file, PAIR | {"prompt": learned.text})
    assert given_pairs(run(), OfflineDPOConfig(pairs=str(file)), sets()).pairs[0].prompt


# ---- labels


def test_labels_pair_the_start_students_lines_by_their_ratings():
    found = label_pairs(OfflineDPOConfig(pairs="labels", pairing="all"), seed=0)
    best = label_pairs(OfflineDPOConfig(pairs="labels"), seed=0)
    train_prompts = {p.text for p in corpus_prompts("labels-train")}
    assert {p.prompt for p in found.pairs} <= train_prompts
    assert len({p.prompt for p in best.pairs}) == len(best.pairs) < len(found.pairs)
    assert found.labels == best.labels >= 2 * len(best.pairs)
    assert all(p.margin > 0 and p.chosen != p.rejected for p in found.pairs)
    wide = label_pairs(OfflineDPOConfig(pairs="labels", min_margin=2.0), seed=0)
    assert 0 < len(wide.pairs) < len(best.pairs)
    assert min(p.margin for p in wide.pairs) >= 2


def test_labels_are_of_the_shipped_student_and_of_no_judging_critic():
    config = OfflineDPOConfig(pairs="labels")
    assert given_pairs(run(), config, sets()).labels > 0
    with pytest.raises(ValueError, match="--pairs labels are of the start student's lines"):
        given_pairs(run(student="smollm2-135m"), config, sets())
    with pytest.raises(ValueError, match="shares the labels of"):
        given_pairs(run(report_critic="embedded"), config, sets())


def test_gathered_pairs_are_not_there_yet():
    assert given_pairs(run(), OfflineDPOConfig(), sets()) == ([], 0)


# ---- whole runs


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("CI", "1")  # TRL reports no use from there


@pytest.fixture(scope="module")
def options(word_base, tmp_path_factory):
    """Two updates of a tiny student on fake critics."""
    folder = tmp_path_factory.mktemp("prompts")
    texts = {
        "prompts": "my keys are lost again .\na dog ate my sock .\nthe soup boiled over .\n",
        "select-prompts": "a lamp ran late .\nthe bread sang .\n",
        "report-prompts": "the drum ate my bread .\n",
    }
    given = []
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
        given += [f"--{name}", str(folder / f"{name}.txt")]
    return [
        *given, "--student", str(word_base), "--threads", "1", "--updates", "2", "--quiet",
        "--critic", "fake:counts-word", "--critic-arg", "word=lost", "--eval-every", "2",
        "--select-critic", "fake:honest", "--report-critic", "fake:honest",
        "--control", "none", "--reward", "humor=1", "--table-jokes", "1",
        "--prompts-per-update", "2", "--group-size", "8", "--minibatches", "2",
        "--max-tokens", "60", "--learning-rate", "0.01",
    ]  # fmt: skip


@pytest.fixture
def main(monkeypatch, capsys):
    """`train.py` in this process: exit status, standard output, standard error."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_DYNAMIC", "MKL_DYNAMIC"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")

    def call(*arguments):
        status = train.main([str(a) for a in arguments])
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


MORE = {"brio-dpo": ("--teacher-updates", "1"), "dpo": ("--batch-size", "2")}
JUDGED = {"dpo": 32, "brio": 32, "brio-dpo": 16, "sd": 32, "sft-more": 0}


def dry(main, algo, options):
    shown = main("--algo", algo, *options, *MORE.get(algo, ()), "--dry-run")[1]
    told = dict(line.split(maxsplit=1) for line in shown.replace("judged ", "").splitlines())
    return int(told["jokes"].split()[0])


@pytest.mark.parametrize(
    "algo", ["dpo", *(pytest.param(a, marks=pytest.mark.slow) for a in JUDGED if a != "dpo")]
)
def test_every_method_runs_to_its_table_and_says_what_it_judged(main, options, tmp_path, algo):
    arguments = ["--algo", algo, *options, *MORE.get(algo, ())]
    status, shown, told = main(*arguments, "--out", tmp_path / "runs")
    assert (status, told) == (0, "")
    assert "start-tuned" in shown
    (folder,) = (tmp_path / "runs").iterdir()
    results = json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)
    assert results["judged_jokes"] == JUDGED[algo] == dry(main, algo, options)
    assert results["last_step"] == 2
    steps = sorted((folder / "checkpoints").iterdir())
    one, other = (load_file(s / "adapter" / "adapter_model.safetensors") for s in steps[-2:])
    assert any(not one[n].equal(other[n]) for n in one)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert all({"reward/mean", "policy/kl_per_joke"} <= set(r) for r in records[1:])
    assert not {f.suffix for f in folder.rglob("*")} & {".bin", ".pt", ".pth", ".pkl"}
    assert (folder / "jokes.jsonl").read_text().count('"start-tuned"') == 1


@pytest.mark.slow
def test_given_pairs_judge_nothing(main, options, tmp_path):
    file = write(tmp_path / "pairs.jsonl", PAIR)
    out = tmp_path / "runs"
    status, _, _ = main("--algo", "dpo", *options, "--pairs", file, "--out", out)
    assert status == 0
    (folder,) = out.iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert results["judged_jokes"] == 0
    assert "labels" not in results


@pytest.mark.parametrize(
    ("algo", "arguments", "said"),
    [
        ("dpo", ["--pairs", "absent.jsonl"], "--pairs absent.jsonl: No such file"),
        ("dpo", ["--pairs", "labels"], "--pairs labels are of the start student's lines"),
        ("dpo", ["--loss", "hinge"], "--loss"),
        ("sd", ["--keep", "9"], "--keep is 9"),
        ("brio", ["--group-size", "24"], "--group-size is 24"),
        ("brio-dpo", ["--teacher-updates", "2"], "--teacher-updates is 2"),
        ("sft-more", ["--keep", "1"], "Unrecognized options: --keep"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(main, options, tmp_path, algo, arguments, said):
    out = tmp_path / "runs"
    status, shown, told = main("--algo", algo, *options, *arguments, "--out", out)
    assert (status, shown) == (2, "")
    assert said in told
    assert told.count("\n") == 1
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["dpo", "brio-dpo", "sd", "sft-more"])
def test_a_run_that_failed_midway_ends_as_one_that_did_not(
    main, options, tmp_path, monkeypatch, algo
):
    arguments = ["--algo", algo, *options, *MORE.get(algo, ())]
    assert main(*arguments, "--out", tmp_path / "whole")[0] == 0
    from training.loop import Loop

    save, killed = Loop.save, []

    def save_and_die(self):
        save(self)
        if self.agent.step == 1 and not killed:
            killed.append(self.folder)
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "save", save_and_die)
    assert main(*arguments, "--out", tmp_path / "killed")[0] == train.EXIT_INTERRUPTED
    assert main("--resume", killed[0], "--quiet")[0] == 0
    (whole,) = (tmp_path / "whole").iterdir()
    for name in ("metrics.jsonl", "jokes.jsonl", "table.md"):
        assert (whole / name).read_bytes() == (killed[0] / name).read_bytes(), name
    step = "checkpoints/step-000002/adapter/adapter_model.safetensors"
    assert (whole / step).read_bytes() == (killed[0] / step).read_bytes()
