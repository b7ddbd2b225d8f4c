from types import SimpleNamespace

from rewards.types import Unfinished
from training.evaluation_run import _Evaluation
from training.kept import kept
from training.system_lines import Lines


def test_what_was_made_once_is_kept_and_anything_else_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("PUNCHLINE_CACHE", str(tmp_path))
    made = []

    def make():
        made.append(1)
        return [0.4, {"0.4": 2.5}]

    assert kept("things", ["a", 1], make) == kept("things", ["a", 1], make) == [0.4, {"0.4": 2.5}]
    assert len(made) == 1
    kept("things", ["a", 2], make)
    kept("others", ["a", 1], make)
    assert len(made) == 3


def test_verdicts_of_shipped_critics_on_the_starts_lines_are_asked_for_once(
    tmp_path, monkeypatch, word_student
):
    monkeypatch.setenv("PUNCHLINE_CACHE", str(tmp_path))
    here = SimpleNamespace(_verdicts={}, student=word_student(), texts=["I lost my keys."])
    asked = []

    def verdicts(name="start", jokes=("a",), spec="embedded", args=(), kind="scores"):
        def ask():
            asked.append((name, spec))
            return [[0.5, None]]

        return _Evaluation._kept(here, kind, spec, args, Lines(name, [list(jokes)]), ask)

    assert verdicts() == verdicts() == verdicts(name="start-tuned") == [[0.5, None]]
    assert len(asked) == 1
    others = (
        {"jokes": ("b",)}, {"jokes": (Unfinished("a"),)}, {"spec": "embedded-report"},
        {"kind": "ratings"},
    )  # fmt: skip
    for other in others:
        verdicts(**other)
    assert len(asked) == 5
    for never in ({"spec": "fake:honest"}, {"args": ("a=1",)}):
        verdicts(**never)
        verdicts(**never)
    assert len(asked) == 5 + 4
    here.texts = ["I lost my keys again."]
    verdicts()
    assert len(asked) == 10
    for name in ("ppo-s0", "dpo-s0"):  # runs whose best checkpoint is the same
        verdicts(name=name, jokes=("c",))
    assert len(asked) == 11
    here._verdicts.clear()  # another evaluation
    verdicts(name="ppo-s0", jokes=("c",))
    assert len(asked) == 12
