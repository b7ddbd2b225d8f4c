import signal
import sys
import threading
import time

import pytest

from training.comparison_runs import last_line
from training.workers import Workers

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_process_is_logged_and_its_last_line_is_the_reason(tmp_path):
    log = tmp_path / "logs" / "x.log"
    code = "import sys; print('one'); print('a \\x1b[31m two', file=sys.stderr); sys.exit(3)"
    assert Workers().run([sys.executable, "-c", code], log) == 3
    assert last_line(log) in ("a [31m two", "one")
    assert last_line(tmp_path / "nothing.log") == ""


def test_so_many_tasks_at_once_and_answers_in_their_order():
    meet = threading.Barrier(2, timeout=30)  # one at a time would wait here for ever

    def task(x):
        meet.wait()
        return x

    assert Workers(2).all([lambda x=x: task(x) for x in range(4)]) == [0, 1, 2, 3]
    assert Workers(2).all([]) == []
    with pytest.raises(ValueError, match="--jobs is 0"):
        Workers(0)


def test_ctrl_c_lets_processes_save_themselves_and_starts_no_more(tmp_path):
    """The terminal sends the signal to them as well; here they just take their time."""
    saved = tmp_path / "saved"
    code = f"import time, pathlib; time.sleep(1.5); pathlib.Path({str(saved)!r}).touch()"
    workers = Workers()
    ends = []

    def task():
        ends.append(workers.run([sys.executable, "-c", code], tmp_path / "x.log"))

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            workers.all([task, task])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert saved.exists()
    assert ends == [0]
    assert workers.run(SLEEPS, tmp_path / "x.log") == 130


def test_processes_end_with_their_parent_when_that_is_told_to_end(tmp_path):
    def stop(_number, _frame):
        raise SystemExit(1)

    workers = Workers(2)
    before = signal.signal(signal.SIGALRM, stop)
    began = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(SystemExit):
            workers.all([lambda i=i: workers.run(SLEEPS, tmp_path / f"{i}.log") for i in range(3)])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 30


def test_what_a_task_raises_ends_the_others(tmp_path):
    workers = Workers(2)

    def fails():
        raise ValueError("a reason")

    began = time.monotonic()
    with pytest.raises(ValueError, match="a reason"):
        workers.all([lambda: workers.run(SLEEPS, tmp_path / "x.log"), fails])
    assert time.monotonic() - began < 30
