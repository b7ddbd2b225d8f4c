import json

import numpy as np
import pytest

from evaluation.ladder import SystemLines, build_ladder, lost_scores
from evaluation.render import (
    NOT_RATABLE,
    as_dict,
    escape_markdown,
    markdown,
    plain,
    samples_markdown,
    strip_controls,
)
from evaluation.win_rate import LOST
from rewards.types import Rating, Unfinished

ANIMALS = "cat dog cow hen fox owl bee ant eel elk".split()
PROMPTS = [f"The {a} lost its {b} today" for a, b in zip(ANIMALS, ANIMALS[::-1], strict=True)]


def rated(score, amusing=0.2, fact=0.9, far=False):
    return Rating(score, amusing, fact, far)


def lines(make, scores, **options):
    """A system whose jokes are make(prompt number, joke number), rated by scores(same)."""
    k = options.pop("k", 2)
    jokes = [[make(p, j) for j in range(k)] for p in range(len(PROMPTS))]
    ratings = [[scores(p, j) for j in range(k)] for p in range(len(PROMPTS))]
    return SystemLines(jokes, ratings, **options)


def start(p, j):
    return f"{ANIMALS[p]} number {p}{j} would {j}{p} rather not {p} say"


def ladder(systems, **options):
    base = {"start-tuned": lines(start, lambda p, j: rated(2.0 + p / 10))}
    return build_ladder(
        PROMPTS, {**base, **systems}, tie=0.05, rng=np.random.default_rng(0), **options
    )


def row(table, name):
    return next(r for r in table.rows if r.system == name)


def test_the_baseline_is_even_with_itself_and_unmarked():
    base = row(ladder({}), "start-tuned")
    assert base.win.rate[:3] == (0.5, 0.5, 0.5)
    assert base.marks == ()
    assert base.rating.value == pytest.approx(2.45)
    assert base.amusing.value == pytest.approx(0.2)


def test_a_better_system_wins_without_marks():
    better = row(ladder({"ppo": lines(start, lambda p, j: rated(3.0 + p / 10))}), "ppo")
    assert better.win.rate.value == 1.0
    assert better.marks == ()


def test_shortcuts_get_marks_with_reasons():
    def form(p, j):
        return f"{PROMPTS[p]}, and now everyone here is looking for a new one of those"

    marks = row(ladder({"ppo": lines(form, lambda p, j: rated(4.0))}), "ppo").marks
    assert any(m.startswith("length 2.0") for m in marks)
    assert any(m.startswith("recall +") for m in marks)
    assert any(m.startswith("distinct-2 0.") for m in marks)
    assert '"a new one of" in 100% of lines' in marks


def test_a_system_that_does_not_beat_copying_is_marked():
    copies = SystemLines(
        [[p] for p in PROMPTS], None, labels=[[rated(2.0, 0.0, 1.0)]] * len(PROMPTS)
    )
    table = ladder({"copy": copies, "bad": lines(start, lambda p, j: rated(1.5, amusing=0.1))})
    assert row(table, "bad").marks == ("does not beat copying on rating",)
    copy = row(table, "copy")
    assert (copy.rated_by, copy.rating.value, copy.win, copy.marks) == ("labels", 2.0, None, ())
    assert "copy (labels)" in markdown(table)


def test_sources_the_critic_may_not_rate_get_no_numbers():
    teacher = lines(start, lambda p, j: rated(1.2), ratable=False)
    table = ladder({"teacher": teacher})
    found = row(table, "teacher")
    assert (found.rating, found.win, found.amusing, found.out_of_domain) == (None,) * 4
    text = next(line for line in plain(table).splitlines() if line.startswith("teacher"))
    assert NOT_RATABLE in text
    assert "1.2" not in text


def test_empty_and_unfinished_jokes_lose_whatever_their_rating():
    def cut(p, j):
        return Unfinished("and then the") if p % 2 else "  "

    found = row(ladder({"ppo": lines(cut, lambda p, j: rated(9.0))}), "ppo")
    assert found.win.rate.value == 0.0
    assert found.lost == found.lines == 20
    assert found.rating.value == found.amusing.value == found.fact.value == 0.0


def test_lost_scores_keep_what_is_not_lost():
    assert lost_scores([["", "a", "b"]], [[9.0, None, 3.0]]) == [[0.0, None, 3.0]]
    assert lost_scores([[Unfinished("a")]], [[None]], LOST) == [[LOST]]


def test_an_empty_joke_needs_no_verdict():
    found = row(ladder({"ppo": lines(lambda p, j: "", lambda p, j: None)}), "ppo")
    assert (found.rating.value, found.win.loss) == (0.0, 1.0)


def test_unscored_jokes_are_counted_and_move_no_figure():
    def sometimes(p, j):
        return None if j else rated(3.0 + p / 10)

    table = ladder({"ppo": lines(start, sometimes)})
    full = ladder({"ppo": lines(start, lambda p, j: rated(3.0 + p / 10))})
    assert row(table, "ppo").unscored == 10
    assert row(table, "ppo").rating == row(full, "ppo").rating
    assert row(table, "ppo").win.rate == row(full, "ppo").win.rate


def test_out_of_domain_share_is_of_rated_lines():
    found = row(ladder({"ppo": lines(start, lambda p, j: rated(3, far=j == 1))}), "ppo")
    assert found.out_of_domain == 0.5


def test_copies_of_training_jokes():
    training = [start(0, 0), "something else entirely about trains"]
    found = row(ladder({}, training_jokes=training), "start-tuned")
    assert found.training_copies == pytest.approx(1 / 20)
    assert found.longest_overlap == 9
    assert row(ladder({}), "start-tuned").training_copies is None


def test_distinct_2_is_compared_at_equal_lines():
    table = ladder({"greedy": lines(start, lambda p, j: rated(2.0), k=1)})
    assert table.lines_compared == 1


def test_systems_share_resamples_so_order_does_not_matter():
    a = lines(start, lambda p, j: rated(3.0 + (p * j) % 3))
    b = lines(start, lambda p, j: rated(2.0 + (p + j) % 4))
    assert row(ladder({"a": a, "b": b}), "a") == row(ladder({"b": b, "a": a}), "a")


def test_dict_is_json_with_names_and_nulls():
    table = ladder({"teacher": lines(start, lambda p, j: rated(1.0), ratable=False)})
    loaded = json.loads(json.dumps(as_dict(table), allow_nan=False))
    assert loaded["rows"][0]["win"]["rate"]["value"] == 0.5
    assert loaded["rows"][1]["rating"] is None
    assert set(loaded["rows"][0]["phrase"]) == {"text", "share"}


def test_untrusted_text_is_neither_markup_nor_terminal_control():
    assert strip_controls("a\x1b[31mred\x07\nb\u202e\ud800") == "a[31mred b"
    assert escape_markdown("<b>|[x](y)|") == r"\<b\>\|\[x\](y)\|"
    shown = markdown(ladder({"ppo": lines(start, lambda p, j: rated(2.0), note="a|b\x1b[0m")}))
    assert "\x1b" not in shown
    assert r"a\|b" in shown
    assert "\n- end: \\<script\\>" in samples_markdown(["p"], {"end": ["<script>"]})


def test_every_table_line_has_the_same_cells():
    table = [x for x in markdown(ladder({})).splitlines() if x.startswith("|")]
    assert len({x.replace(r"\|", "").count("|") for x in table}) == 1


@pytest.mark.parametrize(
    ("system", "message"),
    [
        (SystemLines([["a"]], None), "1 of 10 prompts"),
        (SystemLines([[]] * 10, None), "a prompt without a line"),
        (SystemLines([["a"]] * 10, [[]] * 10), "another shape"),
    ],
)
def test_bad_shapes_are_refused(system, message):
    with pytest.raises(ValueError, match=message):
        ladder({"ppo": system})


def test_missing_baseline_is_refused():
    with pytest.raises(ValueError, match="baseline 'greedy' is not among"):
        ladder({}, baseline="greedy")


def test_shares_that_a_critic_does_not_know_stay_unknown_beside_a_lost_joke():
    nan = float("nan")
    told = [[Rating(3.0, nan, nan, False)], [Rating(2.0, nan, nan, False)]]
    lines = SystemLines([["a fine line"], [""]], told)  # the second is lost: rated 0
    ladder = build_ladder(
        ["one", "two"], {"start-tuned": lines}, tie=0.0, rng=np.random.default_rng(0)
    )
    (row,) = ladder.rows
    assert row.rating.value == 1.5
    assert row.amusing is None
    assert row.fact is None
