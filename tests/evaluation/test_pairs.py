import json

import pytest

from evaluation.pairs import blind_pairs, to_jsonl, unblind
from rewards.types import Unfinished

PROMPTS = [f"prompt {i}" for i in range(200)]
END = [f"end joke {i}" for i in range(200)]
START = [f"start joke {i}" for i in range(200)]
NAMES = ("end", "start-tuned")


def test_order_hides_the_system_but_is_fixed_by_content():
    blinded = blind_pairs(PROMPTS, END, START, NAMES)
    first = sum(sides["a"] == "end" for sides in blinded.key.values())
    assert 70 < first < 130
    swapped = blind_pairs(PROMPTS, START, END, NAMES[::-1])
    assert swapped.pairs == blinded.pairs
    assert swapped.key == blinded.key


def test_key_tells_the_truth():
    blinded = blind_pairs(PROMPTS, END, START, NAMES)
    for pair in blinded.pairs:
        for side in "ab":
            assert getattr(pair, side).startswith(blinded.key[pair.id][side].split("-")[0])


def test_the_file_is_blind_and_sorted():
    blinded = blind_pairs(PROMPTS, ["x " + p for p in PROMPTS], ["y " + p for p in PROMPTS], NAMES)
    text = to_jsonl([blinded, blinded])
    records = [json.loads(line) for line in text.splitlines()]
    assert len(records) == 200
    assert [r["id"] for r in records] == sorted(r["id"] for r in records)
    assert all(set(r) == {"id", "prompt", "a", "b"} for r in records)
    assert "start-tuned" not in text


def test_equal_lost_and_repeated_pairs_are_not_asked():
    blinded = blind_pairs(
        ["p", "q", "r", "s", "s"],
        ["same", "", Unfinished("cut"), "x", "x"],
        ["same", "a", "", "y", "y"],
        NAMES,
    )
    assert len(blinded.pairs) == 1
    assert blinded.equal == 1
    assert blinded.lost == {"end": 2, "start-tuned": 1}


def test_odd_text_survives_the_file():
    pair = blind_pairs(['say "a"\n'], ["\N{GRINNING FACE} \ud800"], ["\u202e{a}"], NAMES)
    (record,) = [json.loads(line) for line in to_jsonl([pair]).splitlines()]
    assert {record["a"], record["b"]} == {"\N{GRINNING FACE} \ud800", "\u202e{a}"}
    assert record["prompt"] == 'say "a"\n'


def test_votes_are_counted_with_ties_half():
    blinded = blind_pairs(PROMPTS[:3], END[:3], START[:3], NAMES)
    for_end = {i: next(s for s in "ab" if sides[s] == "end") for i, sides in blinded.key.items()}
    assert unblind(for_end, blinded.key) == {"end": 3.0, "start-tuned": 0.0}
    assert unblind(dict.fromkeys(blinded.key, "tie"), blinded.key)["end"] == 1.5
    with pytest.raises(ValueError, match="not in the key"):
        unblind({"0": "a"}, blinded.key)
    with pytest.raises(ValueError, match="allowed are a, b, tie"):
        unblind(dict.fromkeys(blinded.key, "c"), blinded.key)


def test_bad_input_names_the_value():
    with pytest.raises(ValueError, match="1 prompts, 2 and 1 lines"):
        blind_pairs(["p"], ["a", "b"], ["c"], NAMES)
    with pytest.raises(ValueError, match="both systems are called 'end'"):
        blind_pairs(["p"], ["a"], ["c"], ("end", "end"))
