"""Figures, votes and pages of an evaluation, from made-up lines and ratings."""

import json
from dataclasses import replace

import numpy as np
import pytest

from evaluation.evaluate_figures import Judged, Setting, figures
from evaluation.evaluate_report import html, markdown
from evaluation.evaluate_tables import pair_of, tables
from evaluation.pairs import to_jsonl
from evaluation.votes import blinded, count_votes, keys, read_votes
from rewards.types import Rating, Unfinished

N = 32
PROMPTS = [f"the number {i} bus came late" for i in range(N)]


def rate(score):
    return Rating(score, min(max(score / 10, 0), 1), 0.9, False)


def system(name, mean, k=2, seed=0, **options):
    draws = np.random.default_rng([seed, len(name)])
    jokes = [[f"{name} {i} line {j} of a bus" for j in range(k)] for i in range(N)]
    scores = draws.normal(mean, 1.0, (N, k)).tolist()
    return Judged(name, jokes, ratings=[[rate(s) for s in row] for row in scores], **options)


def copies():
    return Judged("copy", [[p] for p in PROMPTS], labels=[[Rating(2.0, 0.0, 1.0, False)]] * N)


def made_up():
    return [
        copies(),
        system("start", 2.0, k=4),
        system("start-tuned", 2.5, k=1),
        system("ppo", 3.5, kl=5.0, tuning={"0": 2.0, "0.7": float("nan")}),
    ]


@pytest.fixture
def judged():
    return made_up()


def setting(**options):
    known = Setting([f"p{i}" for i in range(N)], PROMPTS, "fake:report", 0.1, 7)
    return replace(known, **options)


def scored(j):
    return [[r and r.score for r in row] for row in j.ratings]


REST = {"split": "report", "accuracy": None, "votes": None}


def test_every_pair_stands_once_and_labels_meet_nobody(judged):
    found = figures(judged, setting())
    assert [(p["a"], p["b"]) for p in found["pairs"]] == [
        ("start-tuned", "start"),
        ("ppo", "start"),
        ("ppo", "start-tuned"),
    ]
    pair = pair_of(found, "ppo", "start-tuned")
    assert pair["win"] + pair["tie"] + pair["loss"] == pytest.approx(1)
    assert pair["rate"]["value"] == pytest.approx(pair["win"] + pair["tie"] / 2)
    assert pair["wtr"]["value"] == pytest.approx(pair["win"] + pair["tie"])
    assert pair["sensitivity"]["chosen"] == pytest.approx(pair["rate"]["value"])
    turned = pair_of(found, "start-tuned", "ppo")
    assert turned["rate"]["value"] == pytest.approx(1 - pair["rate"]["value"])
    assert (turned["win"], turned["loss"]) == (pair["loss"], pair["win"])
    assert pair_of(found, "ppo", "copy") is None
    table = {r["system"]: r for r in found["table"]["rows"]}
    assert table["ppo"]["win"]["rate"]["value"] == pytest.approx(pair["rate"]["value"])


def test_lists_are_per_prompt_and_strict_json(judged):
    judged[-1].ratings[3][:] = [None, None]
    found = json.loads(json.dumps(figures(judged, setting()), allow_nan=False))
    ppo = found["systems"][-1]
    for key in ("prompts", "rating", "amusing", "fact", "words", "recall", "jokes", "scores"):
        assert len(ppo[key]) == N
    assert ppo["rating"][3] is None
    assert ppo["rating"][0] == pytest.approx(sum(scored(judged[-1])[0]) / 2)
    assert ppo["words"][0] == 7
    assert ppo["tuning"] == {"0": 2.0, "0.7": None}
    copy = found["systems"][0]
    assert (copy["rated_by"], copy["rating"][0], copy["recall"][0]) == ("labels", 2.0, 1.0)


def test_a_lost_line_counts_nothing_in_the_lists(judged):
    judged[-1].jokes[0][0] = Unfinished("cut off")
    ppo = figures(judged, setting())["systems"][-1]
    assert ppo["scores"][0][0] == 0.0
    assert ppo["lost"][0] == [True, False]


def test_scores_without_shares_leave_the_shares_unknown(judged):
    nan = float("nan")
    judged[-1] = replace(judged[-1], ratings=[[Rating(1.0, nan, nan, False)] * 2] * N)
    judged[-1].jokes[0][:] = ["", ""]  # lost: a rating of 0, but still no share
    found = figures(judged, setting())
    assert found["systems"][-1]["rating"][:2] == [0.0, 1.0]
    assert found["systems"][-1]["amusing"] == found["systems"][-1]["fact"] == [None] * N
    row = found["table"]["rows"][-1]
    assert row["amusing"] is row["fact"] is None
    assert "does not beat copying on rating" in row["marks"]
    assert "does not beat copying on amusing share" not in row["marks"]


def test_start_against_start_is_the_control(judged):
    control = figures(judged, setting())["control"]
    assert control["even"]
    assert control["rate"]["low"] <= 0.5 <= control["rate"]["high"]
    judged[1].ratings[:] = [[rate(9.0), rate(9.0), rate(1.0), rate(1.0)]] * N
    assert not figures(judged, setting())["control"]["even"]
    judged[1] = system("start", 2.0, k=1)
    assert "one line a prompt" in figures(judged, setting())["control"]["reason"]


def test_what_may_not_be_rated_says_so(judged):
    why = "not ratable by this critic: source 'teacher'"
    judged.append(replace(system("teacher", 9.0), ratings=None, reason=why))
    found = figures(judged, setting())
    assert pair_of(found, "teacher", "start-tuned")["reason"] == why
    assert found["systems"][-1]["rating"] == [None] * N
    assert "teacher" not in {s["system"] for s in found["bradley_terry"]}
    row = next(line for line in markdown(found | REST).splitlines() if line.startswith("| teacher"))
    assert "not ratable by this critic" in row


def test_a_system_with_lines_for_some_prompts_is_measured_there(judged):
    teacher = system("teacher", 9.0)
    half = N // 2
    teacher.jokes[:half] = [[] for _ in range(half)]
    teacher.ratings[:half] = [[] for _ in range(half)]
    found = figures([*judged, teacher], setting())
    pair = pair_of(found, "teacher", "start-tuned")
    assert (pair["rate"]["prompts"], pair["rate"]["missing"]) == (half, half)
    assert found["table"]["rows"][-1]["lines"] == N
    assert found["systems"][-1]["rating"][:half] == [None] * half


def test_the_scale_orders_systems_and_the_gap_shows_hacking(judged):
    base = judged[2]
    hacked = [[9.0, 9.0]] * N
    judged[-1] = replace(judged[-1], train_scores=hacked, train_critic="fake:train")
    found = figures(judged, setting(base_scores={"fake:train": scored(base)}))
    assert found["bradley_terry"][0]["system"] == "ppo"
    gaps = {g["system"]: g for g in found["over_optimisation"]}
    report = pair_of(found, "ppo", "start-tuned")["rate"]["value"]
    assert gaps["ppo"]["train"] == 1.0
    assert gaps["ppo"]["gap"]["value"] == pytest.approx(1 - report)
    assert gaps["start"]["reason"] == "no training critic"


def test_a_critic_that_only_compares_gives_win_rates(judged):
    bare = [replace(j, ratings=None) for j in judged]
    names = [j.name for j in bare[1:]]
    asked = {(a, b): [0.9] * N for i, b in enumerate(names) for a in names[i + 1 :]}
    found = figures(bare, setting(preferences=asked))
    assert pair_of(found, "ppo", "start-tuned")["rate"]["value"] == 1.0
    assert found["control"]["rate"] is None
    assert found["systems"][-1]["scores"] is None
    assert "| 100.0 \\[100, 100\\] |" in markdown(found | REST)


def test_a_missing_baseline_is_refused(judged):
    with pytest.raises(ValueError, match="start-tuned"):
        figures(judged[:2], setting())


# ---- pages


def test_the_page_has_every_table_and_escapes_what_others_wrote(judged):
    judged[-1].jokes[0][0] = "<script>alert(1)</script> \x1b[31m| *red*"
    base = judged[2]
    judged[-1] = replace(judged[-1], train_scores=scored(judged[-1]), train_critic="fake:train")
    found = figures(judged, setting(base_scores={"fake:train": scored(base)}))
    found |= REST
    text, page = markdown(found), html(found)
    titles = [t.title for t in tables(found)]
    assert titles == [
        "Against the references", "Diversity and memorisation", "Control",
        "Every system against every other", "One scale", "Over-optimisation", "Decoding",
    ]  # fmt: skip
    for title in titles:
        assert f"## {title}" in text
        assert f"<h2>{title}</h2>" in page
    assert "<script>" not in page + text
    assert "\x1b" not in page + text
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 3  # one system alone has no curve over KL
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "") \
        .replace("http://creativecommons.org", "")  # fmt: skip
    assert html(found) == page


@pytest.fixture(scope="module")
def everything():
    judged = made_up()
    found = figures(judged, setting()) | REST
    made = blinded(judged, setting(), ["start-tuned"])
    found["blind"] = json.loads(json.dumps(keys(made, judged, setting())))
    return found, made


# ---- votes


def vote_file(tmp_path, votes):
    file = tmp_path / "votes.jsonl"
    file.write_text("".join(json.dumps({"id": i, "vote": v}) + "\n" for i, v in votes))
    return file


def test_pairs_are_blind_and_the_key_has_the_critics_verdicts(everything):
    found, made = everything
    assert {tuple(one["of"]) for one in found["blind"]} == {
        ("start", "start-tuned"),
        ("ppo", "start-tuned"),
    }
    for line in to_jsonl(made).splitlines():
        assert set(json.loads(line)) == {"id", "prompt", "a", "b"}
    ppo = next(one for one in found["blind"] if one["of"][0] == "ppo")
    mine = {j.name: j for j in made_up()}
    pairs = {pair.id: pair for b in made for pair in b.pairs}
    for i, verdict in ppo["critic"].items():
        at = PROMPTS.index(pairs[i].prompt)
        gap = mine["ppo"].ratings[at][0].score - mine["start-tuned"].ratings[at][0].score
        assert verdict == (0.5 if abs(gap) <= 0.1 else float(gap > 0))


def test_votes_that_agree_with_the_critic(everything, tmp_path):
    found, _ = everything
    blind = found["blind"]
    (ppo,) = (one for one in blind if one["of"][0] == "ppo")
    votes = []
    for i, verdict in ppo["critic"].items():
        side = "tie" if verdict == 0.5 else None
        winner = "ppo" if verdict == 1.0 else "start-tuned"
        votes.append((i, side or next(s for s, n in ppo["key"][i].items() if n == winner)))
    told = count_votes(read_votes(vote_file(tmp_path, votes), blind), blind, seed=0)
    assert told["agreement"]["accuracy"]["value"] == 1.0
    (row,) = told["comparisons"]
    assert row["of"] == ["ppo", "start-tuned"]
    assert row["corrected"]["rate"] == pytest.approx(row["votes"])
    text = markdown(found | {"votes": told})
    assert "## Votes" in text
    assert "## Win rates corrected by votes" in text


def test_votes_against_the_critic_take_its_gain_away(everything, tmp_path):
    found, _ = everything
    blind = found["blind"]
    (ppo,) = (one for one in blind if one["of"][0] == "ppo")
    ids = list(ppo["key"])
    half = [
        (i, next(s for s, n in ppo["key"][i].items() if n == who))
        for k, i in enumerate(ids)
        for who in (["ppo", "start-tuned"][k % 2],)
    ]
    told = count_votes(read_votes(vote_file(tmp_path, half), blind), blind, seed=0)
    (row,) = told["comparisons"]
    assert row["votes"] == 0.5
    assert row["critic"] > 0.6
    assert row["corrected"] is None or abs(row["corrected"]["rate"] - 0.5) < 0.01


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "nobody", "vote": "a"}', ":1: pair 'nobody' is not of this evaluation"),
        ('{"id": ["x"], "vote": "a"}', "is not of this evaluation"),
        ('{"id": "KNOWN", "vote": "left"}', ":1: vote is 'left', allowed are a, b, tie"),
        ('{"id": "KNOWN"}', "need an object with 'id' and 'vote'"),
        ("{", ":1: not JSON"),
        ("\n", "has no vote"),
    ],
)
def test_a_bad_file_of_votes_is_refused(everything, tmp_path, content, message):
    blind = everything[0]["blind"]
    file = tmp_path / "votes.jsonl"
    file.write_text(content.replace("KNOWN", next(iter(blind[0]["key"]))))
    with pytest.raises(ValueError, match=message):
        read_votes(file, blind)
