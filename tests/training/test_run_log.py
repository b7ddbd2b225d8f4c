import io
import json
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.run_log import METRICS, SAMPLES, Progress, RunLog, cut_after, plain


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def steps(file):
    return [record["step"] for record in lines(file)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": s, "x": 1}) + "\n" for s in (0, 1, 2, 2, 3)))
    return path


@pytest.mark.parametrize(("step", "kept"), [(2, [0, 1, 2, 2]), (9, [0, 1, 2, 2, 3]), (-1, [])])
def test_lines_after_the_checkpoint_are_cut(file, step, kept):
    cut_after(file, step)
    assert steps(file) == kept


def test_half_a_line_is_cut_with_all_that_follows(file):
    file.write_text(file.read_text() + '{"step": 4, "x"')
    cut_after(file, 9)
    assert steps(file) == [0, 1, 2, 2, 3]


def test_nothing_to_cut_is_no_error(tmp_path):
    cut_after(tmp_path / "none.jsonl", 3)
    assert list(tmp_path.iterdir()) == []


def test_numbers_json_does_not_have_become_null(tmp_path):
    with RunLog(tmp_path, talk=0) as log:
        log.scalars(1, {"a": 0.5, "b": math.nan, "c": math.inf})
    text = (tmp_path / METRICS).read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "step": 1,
        "a": 0.5,
        "b": None,
        "c": None,
    }


def test_resumed_log_goes_on_where_the_checkpoint_was(tmp_path):
    def write(log, *some):
        for step in some:
            log.scalars(step, {"reward/mean": step / 10})
            log.texts(step, ["p"], ["before"], [f"now {step}"], [None])

    with RunLog(tmp_path, talk=0) as log:
        write(log, 0, 1, 2, 3)
    with RunLog(tmp_path, from_step=1, talk=0) as log:
        write(log, 2, 3, 4)
    assert steps(tmp_path / METRICS) == [0, 1, 2, 3, 4]
    assert steps(tmp_path / SAMPLES) == [0, 1, 2, 3, 4]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [e.step for e in board.Scalars("reward/mean")] == [0, 1, 2, 3, 4]


def test_new_log_in_a_folder_begins_anew(tmp_path):
    for _ in range(2):
        with RunLog(tmp_path, talk=0) as log:
            log.scalars(1, {"a": 1.0})
    assert steps(tmp_path / METRICS) == [1]


def test_texts_stand_side_by_side_and_cannot_break_the_table(tmp_path):
    with RunLog(tmp_path, talk=0) as log:
        log.texts(5, ["a | b"], ["start\njoke"], ["<b>now</b>\x1b[31m"], [1.234])
    assert lines(tmp_path / SAMPLES) == [
        {
            "step": 5,
            "prompt": "a | b",
            "start": "start\njoke",
            "now": "<b>now</b>\x1b[31m",
            "score": 1.234,
        }
    ]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    shown = board.Tensors("jokes/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| a \\| b | start joke | <b>now</b> [31m | 1.23 |" in shown


def test_terminal_text_has_no_control_characters():
    assert plain("a\x1b[31mb\nc\u202ed\x00é 🐈") == "a [31mb c d é 🐈"


def test_progress_reckons_with_the_steps_of_this_process():
    stream = io.StringIO()
    progress = Progress(stream=stream)
    progress._began -= 10.0
    progress.step(8, 12, 6, {"reward": "+0.10"}, jokes=64)
    assert stream.getvalue() == "update 8/12  reward +0.10  12.8 jokes/s  ETA 0:20\n"


def test_quiet_progress_says_nothing():
    stream = io.StringIO()
    progress = Progress(quiet=True, stream=stream)
    progress.say("hello")
    progress.step(1, 2, 0, {}, jokes=1)
    assert stream.getvalue() == ""
