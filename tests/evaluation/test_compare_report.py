import json
import math
from dataclasses import replace

import numpy as np
import pytest

from evaluation.compare_figures import equal_seconds, figures
from evaluation.compare_findings import findings, summary
from evaluation.compare_report import as_json, html, markdown, tables
from evaluation.compare_types import (
    Comparison,
    Evaluated,
    Look,
    MethodRuns,
    SeedRun,
    Trial,
    read_system,
)
from evaluation.contrasts import BestOfN
from evaluation.diversity import Phrase
from evaluation.win_rate import LOST

PROMPTS = tuple(f"p{i}" for i in range(12))


def system(rating, *, words=14.0, amusing=0.2, prompts=PROMPTS):
    n = len(prompts)
    ratings = [rating + 0.01 * i for i in range(n)]
    return Evaluated(prompts, ratings, [amusing] * n, [0.8] * n, [words] * n, [0.7] * n,
                     [[r] for r in ratings])  # fmt: skip


def seed(name, number, rating, **known):
    looks = (Look(0, 2.0), Look(5, 2.0 + rating / 10), Look(10, rating))
    settings = {"judged": 640, "selecting": 624, "seconds": 400.0, "best_step": 10}
    settings |= {"looks": looks, "systems": {"report": system(rating)}} | known
    return SeedRun(f"{name}-s{number}", number, "done", **settings)


def method(name, *ratings, **known):
    return MethodRuns(name, "", tuple(seed(name, i, r, **known) for i, r in enumerate(ratings)))


REFERENCES = {
    "start": system(2.0), "start-tuned": system(2.5), "best-of-4": system(2.6),
    "copy": system(1.9, amusing=0.0),
}  # fmt: skip


def comparison(*methods, **known):
    settings = {
        "study": "main", "question": "online against offline", "primary": ("online-dpo", "dpo"),
        "splits": ("report",), "references": {"report": REFERENCES}, "critic": "fake:honest",
        "tie": 0.05, "budget": 640,
    }  # fmt: skip
    return Comparison(methods=methods, **(settings | known))


def row(found, name):
    return next(r for r in found.rows["report"] if r.system == name)


def test_references_come_first_and_every_method_is_a_row():
    c = comparison(method("dpo", 2.7), method("online-dpo", 2.9))
    names = [r.system for r in figures(c).rows["report"]]
    assert names == ["start", "start-tuned", "best-of-4", "copy", "dpo", "online-dpo"]


def test_the_primary_contrast_stands_alone_and_the_others_are_one_family():
    found = figures(comparison(method("dpo", 2.7, 2.6), method("online-dpo", 2.9, 2.8)))
    assert found.primary.name == "online-dpo against dpo"
    assert found.primary.adjusted == found.primary.p
    assert found.primary.verdict == "better"
    assert [c.name for c in found.secondary] == [
        f"{m} against {r}" for m in ("dpo", "online-dpo") for r in ("start-tuned", "best-of-4")
    ]
    assert all(c.adjusted >= c.p for c in found.secondary)


def test_a_method_that_failed_is_a_row_with_its_reason_and_stays_in_the_family():
    lost = MethodRuns("brio", "", (SeedRun("brio-s0", 0, "failed", "no memory"),))
    c = comparison(method("dpo", 2.7), method("online-dpo", 2.9), lost)
    found = figures(c)
    assert row(found, "brio").rating is None
    assert row(found, "brio").seeds == "0 of 1"
    assert "brio-s0 failed: no memory" in row(found, "brio").note
    missing = [x for x in found.secondary if x.name.startswith("brio")]
    assert [x.verdict for x in missing] == ["no verdict"] * 2
    without = figures(comparison(*c.methods[:2]))
    name = "dpo against start-tuned"
    now, then = (next(x for x in f.secondary if x.name == name) for f in (found, without))
    assert now.adjusted == pytest.approx(now.p * 6)
    assert then.adjusted == pytest.approx(then.p * 4)
    assert "Without a result: brio-s0." in "\n".join(summary(c, found))


def test_nothing_evaluated_is_rows_that_say_so():
    c = comparison(
        MethodRuns("dpo", "", (SeedRun("dpo-s0", 0, "failed", "x"),)),
        references={},
        primary=("", ""),
    )
    text = markdown(c, figures(c))
    assert "dpo-s0" in text
    assert "No primary contrast" in text


def test_shortcuts_are_marked():
    long = seed("ppo", 0, 2.9, systems={"report": system(2.9, words=14 * 1.3)})
    poor = seed("sd", 0, 1.0, systems={"report": system(1.0, amusing=0.0)}, best_step=0)
    found = figures(comparison(MethodRuns("ppo", "", (long,)), MethodRuns("sd", "", (poor,))))
    assert row(found, "ppo").marks == ("length 1.30 of start-tuned's",)
    marks = row(found, "sd").marks
    assert marks[:2] == ("loses to copy on rating", "loses to copy on amusing share")
    assert "seed 0: the start" in marks[2]
    assert row(found, "start").marks == ()


def test_a_phrase_that_takes_over_is_marked_with_its_seeds():
    def lines(*phrases):
        runs = [
            seed("ppo", i, 2.7, systems={"report": replace(system(2.7), phrase=p)})
            for i, p in enumerate(phrases)
        ]
        return comparison(MethodRuns("ppo", "", tuple(runs)), method("dpo", 2.6))

    often, rare = Phrase("is still waiting for", 0.31), Phrase("and now he has", 0.1)
    found = figures(lines(rare, often, None))
    assert row(found, "ppo").marks == ('"is still waiting for" in 31% of lines (1 of 3 seeds)',)
    assert row(figures(lines(rare)), "ppo").marks == ()  # 10 % is the bound
    assert row(figures(lines(often)), "ppo").marks == ('"is still waiting for" in 31% of lines',)


def test_a_method_stands_on_the_curve_where_its_rating_does():
    means = np.array([2.0, 2.5, 2.7, 2.9]) + 0.055  # what `system` adds on average
    curve = BestOfN((1, 2, 3, 4), np.tile(means, (12, 1)))
    found = figures(comparison(method("dpo", 2.5), method("ppo", 5.0), curve=curve))
    assert row(found, "dpo").n.value == pytest.approx(2)
    assert math.isinf(row(found, "ppo").n.value)
    assert "> 4" in markdown(comparison(method("ppo", 5.0), curve=curve), found)
    assert as_json(found)["rows"]["report"][-1]["n"]["value"] == "beyond the pool"


def test_best_of_4_on_top_is_a_row_and_a_contrast():
    one = seed("ppo", 0, 2.7, with_best_of_4=system(3.0))
    c = comparison(MethodRuns("ppo", "", (one,)), with_best_of=("ppo",))
    found = figures(c)
    assert row(found, "ppo + best-of-4").rating.value == pytest.approx(3.055)
    named = {x.name: x.verdict for x in found.secondary}
    assert named["ppo + best-of-4 against best-of-4"] == "better"


def test_equal_seconds_take_what_the_shortest_run_had_time_for():
    slow = method("ppo", 3.0, seconds=800.0)
    limit, gains = equal_seconds(comparison(method("dpo", 3.0), slow))
    assert limit == 400
    assert gains == {"dpo": pytest.approx(1.0), "ppo": pytest.approx(0.3)}
    assert equal_seconds(comparison(replace(slow, judges_first=True)))[1] == {"ppo": None}
    unknown = method("sd", 3.0, seconds=None)
    assert equal_seconds(comparison(unknown)) == (None, {})


def test_gains_at_equal_seconds_are_of_looks_within_the_bounds():
    kept = {
        f"{p}/{k}": v
        for p in ("select", "tuned")
        for k, v in (
            ("words", 14.0),
            ("recall", 0.7),
            ("distinct_2", 0.8),
            ("commonest_4gram", 0.0),
        )
    }
    broken = kept | {"tuned/recall": 0.9}
    looks = (Look(0, 2.0, kept), Look(5, 2.5, kept), Look(10, 3.0, broken))
    runs = (seed("ppo", 0, 3.0, looks=looks),)
    assert equal_seconds(comparison(MethodRuns("ppo", "", runs)))[1]["ppo"] == pytest.approx(0.5)
    worse = (Look(0, 2.0, kept), Look(10, 1.0, kept))
    runs = (seed("ppo", 0, 1.0, looks=worse),)  # its best checkpoint is the start
    assert equal_seconds(comparison(MethodRuns("ppo", "", runs)))[1]["ppo"] == 0


def test_a_side_that_is_the_start_is_named_in_the_findings():
    c = comparison(method("dpo", 2.5, 2.5, best_step=0), method("online-dpo", 2.9, 2.8))
    (said,) = findings(c, figures(c))
    assert said.endswith(
        "2 of 2 runs of dpo stand there as the start, for no look was better within the bounds."
    )


def test_what_a_reader_must_know_of_the_critic_is_told():
    right = {"value": 0.72, "low": 0.66, "high": 0.78, "error": 0.03, "prompts": 47, "missing": 0}
    c = comparison(
        method("dpo", 2.7), warnings=("by a distilled critic",), missing=("evaluate-x (why)",),
        accuracy={"report": {"pairs": 300, "accuracy": right}},
    )  # fmt: skip
    text = markdown(c, figures(c))
    assert "by a distilled critic" in text
    assert "Without a result: evaluate-x (why)." in text
    assert "Of 300 judged pairs of this domain fake:honest orders 72.0" in text


def test_findings_follow_the_contrasts():
    c = comparison(method("sft-more", 2.5), method("dpo", 2.7), method("online-dpo", 2.3))
    said = findings(c, figures(c))
    assert said[0].startswith("Feedback beats imitation: yes, it holds here")
    assert said[1].startswith("Online beats offline: no, the opposite holds here")
    assert len(said) == 2
    assert figures(c).primary.p == pytest.approx(2 / 2**12)  # all 12 prompts agree, both tails
    assert "p < 0.001)" in said[1]  # never "0.000"


def test_every_split_has_its_table_and_every_page_its_condition():
    both = {"report": system(2.7), "headline": system(2.1)}
    c = comparison(
        method("dpo", 2.7, systems=both), method("online-dpo", 2.9, systems=both),
        splits=("report", "headline"), references={"report": REFERENCES, "headline": REFERENCES},
    )  # fmt: skip
    found = figures(c)
    assert (found.primary_split, set(found.primary_elsewhere)) == ("report", {"headline"})
    titles = [t.title for t in tables(c, found)]
    assert titles[:3] == [
        "Primary contrast, stated beforehand", "Results, report prompts",
        "Results, headline prompts",
    ]  # fmt: skip
    assert "Conditional on these seeds (0)" in markdown(c, found)
    json.dumps(as_json(found), allow_nan=False)


def test_systems_with_other_prompts_do_not_meet():
    other = seed("dpo", 0, 2.7, systems={"report": system(2.7, prompts=PROMPTS[::-1])})
    with pytest.raises(ValueError, match="dpo-s0 was evaluated on 12 prompts of report"):
        figures(comparison(MethodRuns("dpo", "", (other,))))
    with pytest.raises(ValueError, match="split report has no start-tuned"):
        figures(comparison(method("dpo", 2.7), references={"report": {"start": system(2.0)}}))


def test_the_page_stands_alone_and_escapes_what_others_wrote():
    pytest.importorskip("jinja2")
    evil = "<script>alert(1)</script>"
    lost = MethodRuns("brio", evil, (SeedRun("brio-s0", 0, "failed", evil),))
    c = comparison(method("dpo", 2.7, 2.8), lost)
    found = figures(c)
    page = html(c, found)
    assert "<script" not in page
    assert "src=" not in page
    assert page.count("<svg") == 2
    assert page == html(c, found)
    assert evil not in markdown(c, found)


# ---- reading


def record(**known):
    n = 2
    return {
        "name": "dpo-s0", "decoding": "greedy", "prompts": ["p0", "p1"], "rating": [1.0, None],
        "amusing": [0.1] * n, "fact": [None] * n, "words": [9.0] * n, "recall": [0.5] * n,
    } | known  # fmt: skip


def test_a_system_is_read_with_its_gaps():
    found = read_system(record(), "results.json")
    assert found.ratings == [1.0, None]
    assert found.scores == [[1.0], [None]]
    scored = read_system(
        record(scores=[[1.0, 2.0], [None, 3.0]], lost=[[True, False], [False, True]]), "x"
    )
    assert scored.scores == [[LOST, 2.0], [None, LOST]]


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"rating": None}, "results.json: system 'dpo-s0' has no list 'rating'"),
        ({"words": [1.0]}, "1 values of 'words' for 2 prompts"),
        ({"scores": [[1.0]]}, "1 values of 'scores' for 2 prompts"),
    ],
)
def test_damaged_systems_are_refused(known, said):
    with pytest.raises(ValueError, match=said):
        read_system(record(**known), "results.json")


def test_ratings_by_definition_are_told_from_measured_ones():
    known = {"note": "2 by definition", "rated_by": "labels"}
    assert read_system(record(**known), "x").labels == "2 by definition"
    assert read_system(record(**known | {"rated_by": "critic"}), "x").labels == ""
    copy = replace(REFERENCES["copy"], labels="2 by definition")
    c = comparison(method("dpo", 2.7), references={"report": REFERENCES | {"copy": copy}})
    assert row(figures(c), "copy").note == "2 by definition"


def test_trials_and_last_looks_have_tables():
    ends = {"tuned/words": 16.0, "tuned/commonest_4gram": 0.25}
    looks = (Look(0, 2.0, {"tuned/words": 14.0}), Look(10, 2.6, ends | {"select/rating": 2.6}))
    compared = comparison(
        method("ppo", 2.6, looks=looks),
        trials=(Trial("ppo", "rate 1", 0, 2.2, False), Trial("ppo", "rate 2", 10, 2.6, True)),
    )
    found = {t.title: t for t in tables(compared, figures(compared))}
    assert [row[-2:] for row in found["Tuning"].rows] == [("2.20", ""), ("2.60", "chosen")]
    (row,) = found["Where training ended"].rows
    cells = dict(zip(found["Where training ended"].heads, row, strict=True))
    assert cells["words"] == "16.0"
    assert cells["commonest own 4-gram"] == "0.25"
    assert cells["recall"] == "-"


def test_the_test_split_decides_the_primary_contrast_once_it_was_looked_at():
    both = {"report": system(2.7), "test": system(2.6)}
    better = {"report": system(2.5), "test": system(2.9)}
    c = comparison(
        method("dpo", 2.7, systems=both), method("online-dpo", 2.9, systems=better),
        splits=("report", "test"), references={"report": REFERENCES, "test": REFERENCES},
    )  # fmt: skip
    found = figures(c)
    assert (found.primary_split, found.primary.verdict) == ("test", "better")
    assert found.primary_elsewhere["report"].verdict == "worse"
    assert "Online beats offline: yes, it holds here (online-dpo against dpo on test prompts" in (
        " ".join(findings(c, found))
    )
    rows = next(t for t in tables(c, found) if t.title.startswith("Primary")).rows
    assert [r[0] for r in rows] == [
        "online-dpo against dpo, test",
        "online-dpo against dpo, report",
    ]


def test_last_checkpoints_are_rows_and_a_contrast_of_their_own():
    ends, same = {"report": system(2.95)}, seed("ppo", 0, 2.6)
    c = comparison(
        method("dpo", 2.7, 2.7, ended={"report": system(2.9)}),
        method("online-dpo", 2.8, 2.8, ended=ends),
        MethodRuns("ppo", "", (replace(same, ended=same.systems),)),
    )  # fmt: skip
    found = figures(c)
    names = [r.system for r in found.rows["report"]]
    assert names[-5:] == ["dpo", "dpo, last", "online-dpo", "online-dpo, last", "ppo"]
    assert row(found, "dpo, last").rating.value == pytest.approx(2.955)
    assert row(found, "dpo, last").wins["start-tuned"].value == 1.0
    assert found.primary_elsewhere["report, last"].name == "online-dpo, last against dpo, last"


def test_more_of_the_prompt_is_marked():
    more = replace(system(2.7), recall=[0.85] * len(PROMPTS))
    found = figures(comparison(method("dpo", 2.7, systems={"report": more})))
    assert row(found, "dpo").marks == ("recall + 0.15 of start-tuned's",)
