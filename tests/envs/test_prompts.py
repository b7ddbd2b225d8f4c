import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.prompts import (
    Prompt,
    PromptFileError,
    corpus_prompts,
    judged_jokes,
    load_prompts,
    refuse_shared,
    teacher_jokes,
)


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_jsonl_keeps_order_ids_and_leaves_other_fields_alone(tmp_path):
    path = write(
        tmp_path,
        "mine.jsonl",
        '{"id": "x", "text": " It rains. ", "domain": "sky", "split": "train", "teacher": []}\n'
        "\n"
        '{"text": "I lost my keys."}\n',
    )
    assert load_prompts(path) == [
        Prompt("x", "It rains.", "sky", "train"),
        Prompt("mine-3", "I lost my keys.", "own", ""),
    ]


def test_csv_and_plain_text(tmp_path):
    table = write(tmp_path, "a.csv", '\ufeffid,text\nx,"It rains, again."\n,I lost my keys.\n')
    assert load_prompts(table) == [
        Prompt("x", "It rains, again.", "own", ""),
        Prompt("a-3", "I lost my keys.", "own", ""),
    ]
    lines = write(tmp_path, "b.txt", "It rains.\r\n\r\nI lost my keys.\n")
    assert [p.text for p in load_prompts(lines)] == ["It rains.", "I lost my keys."]
    assert [p.id for p in load_prompts(lines)] == ["b-1", "b-3"]


@pytest.mark.parametrize(
    ("name", "text", "line", "says"),
    [
        ("a.jsonl", '{"text": "A cat."}\n{"text": \n', 2, "not JSON"),
        ("a.jsonl", '["A cat."]\n', 1, "a list, need an object"),
        ("a.jsonl", '{"sentence": "A cat."}\n', 1, "no field 'text', it has sentence"),
        ("a.jsonl", '{"text": 3}\n', 1, "text is a int, need a string"),
        ("a.jsonl", '{"text": "A cat.", "id": 7}\n', 1, "id is a int"),
        ("a.jsonl", '{"text": "A cat.", "id": " "}\n', 1, "id is empty"),
        ("a.jsonl", '{"text": "?!"}\n', 1, "need a sentence"),
        ("a.jsonl", '{"text": "A\\ncat."}\n', 1, "one line"),
        ("a.jsonl", '{"id":"x","text":"A"}\n{"id":"x","text":"B"}\n', 2, "id 'x', first on line 1"),
        ("a.txt", "It rains.\nSo what?\nit RAINS\n", 3, "duplicate sentence 'it RAINS'"),
        ("a.txt", "\n \n", None, "no prompts"),
        ("a.txt", b"It rains.\n\xff\xfe\n", 2, "not UTF-8"),
        ("a.txt", "word " * 500, 1, "at most 2000"),
        ("a.csv", "id,sentence\n1,A cat.\n", 1, "no column 'text', it has id, sentence"),
        ("a.csv", "id,text\n1,A cat.,more\n", 2, "more cells than columns"),
        ("a.csv", 'id,text\n1,"A cat.\n', 2, "not CSV"),
        ("a.csv", "", None, "no prompts"),
        ("a.csv", "id,text\n1,\n", 2, "no field 'text'"),
        ("a.xlsx", "x", None, "'.xlsx' is none of .jsonl, .csv, .txt"),
    ],
)  # fmt: skip
def test_a_bad_file_names_file_line_and_fault(tmp_path, name, text, line, says):
    path = write(tmp_path, name, text)
    with pytest.raises(PromptFileError, match=re.escape(says)) as caught:
        load_prompts(path)
    assert caught.value.line == line
    assert str(caught.value).startswith(f"{path}:{line}:" if line else f"{path}:")
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_a_folder_is_a_prompt_file_error(tmp_path):
    with pytest.raises(PromptFileError, match="No such file"):
        load_prompts(tmp_path / "nowhere.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(PromptFileError, match="directory"):
        load_prompts(tmp_path / "folder.txt")


@given(st.text())
def test_no_text_file_crashes_the_loader(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("prompts")
    for name in ("a.jsonl", "a.csv", "a.txt"):
        path = write(folder, name, text.encode("utf-8", "surrogatepass"))
        try:
            prompts = load_prompts(path)
        except PromptFileError:
            continue
        assert prompts


def prompt(i, text):
    return Prompt(i, text, "own", "")


def test_splits_that_share_a_prompt_are_refused_with_the_ids():
    train = [prompt("a", "It rains."), prompt("b", "I lost my keys.")]
    refuse_shared(train=train, test=[prompt("c", "The cat left.")])
    with pytest.raises(ValueError, match="train and test share 'a'"):
        refuse_shared(train=train, test=[prompt("a", "Something else.")])
    with pytest.raises(ValueError, match="train and test share 'b' = 'z'"):
        refuse_shared(train=train, test=[prompt("z", "I lost  my KEYS!")])


def test_roles_share_nothing_and_have_the_counts_of_the_contract():
    names = ("rl", "select", "report", "test-everyday", "test-headline", "test-summary")
    splits = {name: corpus_prompts(name) for name in names}
    assert [len(s) for s in splits.values()] == [1335, 102, 102, 301, 80, 80]
    refuse_shared(**{name.replace("-", "_"): s for name, s in splits.items()})
    assert {p.split for p in splits["rl"]} == {"train"}
    assert {p.split for p in splits["select"] + splits["report"]} == {"validation"}


def test_labels_of_the_critics_are_disjoint_parts_of_the_rl_prompts():
    parts = [set(corpus_prompts(f"labels-{r}")) for r in ("train", "select", "report")]
    assert set.union(*parts) <= set(corpus_prompts("rl"))
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_an_unknown_role_lists_the_known_ones():
    with pytest.raises(ValueError, match="role is 'train', allowed are rl, select, report"):
        corpus_prompts("train")


def test_teacher_and_simple_jokes_of_a_split():
    jokes = teacher_jokes("train")
    assert len(jokes) == 3 * 943
    assert {p.split for p, _ in jokes} == {"train"}
    assert len(jokes) + len(teacher_jokes("train", simple=True)) == 5118


def test_judged_jokes_average_their_readings_and_keep_to_the_prompts_asked_for():
    lines = judged_jokes("train")
    assert {x.source for x in lines} == {"student2-t0.7"}
    assert len(lines) == 1917
    assert all(0 <= x.rating <= 10 and 0 <= x.fact_kept <= 1 for x in lines)
    few = judged_jokes("train", ids=[lines[0].id])
    assert {x.id for x in few} == {lines[0].id}
    assert json.dumps(lines[0]) == json.dumps(few[0])
