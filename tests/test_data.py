"""What ships in data/ is what the figures were made with: bytes, counts, roles, disjoint splits."""

import hashlib
import json
import runpy
from collections import Counter
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data"

HASHES = {
    "everyday.jsonl": "33549f41b3a356b2c0381796fbfd19f0c7b06facc9ca3dfcc21c84ddb68f8c7c",
    "headline.jsonl": "0edd6c7e981e0ffd8b576d8e178df79597809d4b7758986a5c25af3ff04f3b21",
    "judgments.jsonl": "eb3a8b432191eac218bf557214d9e7f58360759cd508a6f7712131de587929aa",
    "paraphrases.jsonl": "4bcb7081c8bcdfbc47a75281c6dde739204ac8bd1d11cb76c22a8b2e21a2524c",
    "prompts.jsonl": "415943aef6b5351ac3acb97b42821fe0d874be8ef4a8ba0cb2f4c0a7f9da7232",
    "roles.json": "855adec654410652d2a44a31f8b1e633276e62da3e260968f72cb1d5af7f5496",
    "summary.jsonl": "f5a296ba63bce78bc3f225432b2defe398c72c98f5483bd1e7357c4080eaf6cd",
    "start/adapter_model.safetensors": (
        "40fa84030e268a95411955d65f051ba9e8eb6a0317e35c2f9e38af4794874e9f"
    ),
}
PROMPT_FILES = ("everyday", "prompts", "headline", "summary")
COUNTS = {
    "everyday": {"train": 943, "validation": 78, "test": 119},
    "prompts": {"train": 392, "validation": 126, "test": 182},
    "headline": {"test": 80},
    "summary": {"test": 80},
    "paraphrases": {"validation": 204, "test": 461},
    "judgments": {"train": 1723, "validation": 471, "test": 662},
}


def records(name):
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def prompts():
    """Every prompt of the corpus by id."""
    return {r["id"]: r for name in PROMPT_FILES for r in records(name)}


@pytest.fixture(scope="module")
def roles():
    return json.loads((DATA / "roles.json").read_text())


@pytest.mark.parametrize("name", HASHES)
def test_files_are_the_ones_the_figures_come_from(name):
    digest = hashlib.sha256((DATA / name).read_bytes()).hexdigest()
    assert digest == HASHES[name]
    assert digest in (DATA / "README.md").read_text()


@pytest.mark.parametrize("name", COUNTS)
def test_splits_have_their_size(name):
    assert Counter(r["split"] for r in records(name)) == COUNTS[name]


def test_splits_are_disjoint_by_text_and_ids_are_unique(prompts):
    assert len(prompts) == sum(len(records(name)) for name in PROMPT_FILES)
    texts = Counter(" ".join(r["text"].lower().split()) for r in prompts.values())
    assert max(texts.values()) == 1


def test_corpus_is_plain_ascii_with_three_teacher_jokes(prompts):
    for name in ("everyday", "headline", "summary"):
        for r in records(name):
            assert [sorted(t) for t in r["teacher"]] == [["angle", "text"]] * 3
    for name in (*PROMPT_FILES, "paraphrases", "judgments"):
        assert (DATA / f"{name}.jsonl").read_bytes().isascii()


@pytest.mark.parametrize("name", ["judgments", "paraphrases"])
def test_judged_and_paraphrased_prompts_are_the_corpus_prompts(name, prompts):
    for r in records(name):
        assert (r["text"], r["split"]) == (prompts[r["id"]]["text"], prompts[r["id"]]["split"])


def test_ratings_are_on_the_scale():
    for r in records("judgments"):
        for candidate in r["candidates"]:
            for evaluation in candidate["evaluations"]:
                assert 0 <= evaluation["rating"] <= 10
                assert isinstance(evaluation["fact_kept"], bool)


def test_roles_are_exactly_what_their_script_makes(roles):
    assert runpy.run_path(str(DATA / "make_roles.py"))["make_roles"]() == roles


def test_roles_share_no_prompt_they_must_not_share(roles, prompts):
    labels = roles["labels"]
    assert sorted(i for ids in labels.values() for i in ids) == roles["rl"]
    assert sum(map(len, labels.values())) == len(roles["rl"]) == 1335
    assert set(roles["folds"]) == set(labels["train"])
    held_out = [*roles["select"], *roles["report"], *(i for t in roles["test"].values() for i in t)]
    assert len(held_out) == len(set(held_out))
    assert not set(held_out) & set(roles["rl"])
    assert {*held_out, *roles["rl"]} == set(prompts)
    assert {prompts[i]["split"] for i in roles["rl"]} == {"train"}
    assert {prompts[i]["split"] for i in (*roles["select"], *roles["report"])} == {"validation"}
