from types import SimpleNamespace

import torch

from envs.prompts import Prompt
from training import system_lines


def test_the_search_for_a_decoding_is_kept_by_adapter_and_only_for_shipped_critics(
    tiny_student, tmp_path, monkeypatch
):
    monkeypatch.setenv("PUNCHLINE_CACHE", str(tmp_path / "cache"))
    searched = []

    def search(student, *_, **__):
        searched.append(student)
        return 0.4, {"0.4": float(len(searched))}

    monkeypatch.setattr(system_lines, "tune_decoding", search)
    writing = SimpleNamespace(
        select=object(), select_kept="embedded-select", select_prompts=["x"], max_tokens=8, seed=1
    )

    def best(adapter):
        return system_lines._best_decoding(tiny_student, writing, adapter)

    tiny_student.save(tmp_path / "a")
    with torch.no_grad():
        next(iter(tiny_student.trainable().values())).add_(0.1)
    tiny_student.save(tmp_path / "b")
    assert best(tmp_path / "a") == best(tmp_path / "a") == (0.4, {"0.4": 1.0})
    assert best(tmp_path / "b") == (0.4, {"0.4": 2.0})
    writing.select_kept = ""
    assert best(tmp_path / "a") == (0.4, {"0.4": 3.0})
    assert best(None) == (0.4, {"0.4": 4.0})


def test_runs_with_the_same_adapter_write_their_tuned_lines_once(
    tiny_student, tmp_path, monkeypatch
):
    monkeypatch.setattr(system_lines, "_best_decoding", lambda *_: (0.0, {}))
    wrote, generate = [], tiny_student.generate

    def counted(prompts, *args, **options):
        wrote.append(options["temperature"])
        return generate(prompts, *args, **options)

    monkeypatch.setattr(tiny_student, "generate", counted)
    writing = system_lines.Writing(
        tiny_student, [Prompt("p", "The lamp broke.", "everyday", "")], [], None, "", 2, 8, 1,
        "tuned", False, "cpu", lambda: None, lambda _: None,
    )  # fmt: skip
    for name in ("a", "b", "c"):  # the best checkpoint of a and b is the start
        if name == "c":
            with torch.no_grad():
                next(iter(tiny_student.trainable().values())).add_(0.1)
        tiny_student.save(tmp_path / name)

    def lines(name):
        (tuned,) = system_lines._student_lines(
            name, tiny_student, writing, heir=True, adapter=tmp_path / name
        )
        return tuned

    assert lines("a").jokes == lines("b").jokes
    assert len(wrote) == 1
    assert (lines("b").name, lines("c").name) == ("b-tuned", "c-tuned")
    assert len(wrote) == 2
