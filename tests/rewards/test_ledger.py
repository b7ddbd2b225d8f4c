import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.ledger import Budget, BudgetReached, Ledger, NotRecorded, Record, Spent, key_of
from rewards.spend import main as spend_main
from rewards.spend import spend_tables

ROOT = Path(__file__).resolve().parent.parent.parent
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates and NUL too
NUMBER = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """One ledger of a run with a strange name, for tests that only add to it."""
    with Ledger(tmp_path_factory.mktemp("ledger") / "ledger.sqlite", run="r\ud800") as ledger:
        yield ledger


def python(code: str, *arguments: object) -> subprocess.Popen:
    """A process of its own that runs `code`, its output read line by line."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# ---- keys


@given(ANY_TEXT, ANY_TEXT)
def test_different_texts_have_different_keys(a, b):
    assert (key_of("critic", a) == key_of("critic", b)) == (a == b)


def test_a_pair_of_surrogates_is_not_the_character():
    assert key_of("\ud83d\ude00") != key_of("\U0001f600")


def test_the_order_of_names_is_no_part_of_a_key_but_the_order_of_parts_is():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of("a", "b") != key_of("b", "a")
    assert key_of("ab") != key_of("a", "b")
    assert key_of(["a", "b"]) == key_of(("a", "b"))


@pytest.mark.parametrize("part", [float("nan"), float("inf"), object(), b"bytes", np.float32(1)])
def test_a_key_takes_plain_finite_values_only(part):
    with pytest.raises(ValueError, match="plain finite values"):
        key_of("critic", part)


# ---- what is kept


@settings(deadline=None, max_examples=30)
@given(
    st.none() | NUMBER | st.lists(NUMBER),
    ANY_TEXT,
    st.integers(0, 10**9),
    st.floats(0, 1e6),
    ANY_TEXT.filter(bool),
    st.dictionaries(ANY_TEXT, NUMBER),
)
def test_a_record_comes_back_as_it_was(opened, value, text, tokens, money, cause, extra):
    record = Record(value, text, tokens, tokens + 1, money, 0.25, cause, extra)
    key = key_of(*record[:-1], extra)
    opened.record(key, cause, record)
    assert opened.find(key) == record


@pytest.mark.parametrize(
    "record",
    [
        Record(float("nan")),
        Record([1.0, float("inf")]),
        Record([1.0, None]),
        Record("a word"),
        Record(1.0, prompt_tokens=-1),
        Record(1.0, money=float("nan")),
        Record(None, seconds=-0.1),
    ],
)
def test_numbers_that_are_none_are_refused_and_nothing_is_kept(path, record):
    with Ledger(path) as ledger:
        with pytest.raises(ValueError, match="finite"):
            ledger.record_many([("a", Record(1.0)), ("b", record)], "critic")
        assert ledger.find_many(["a", "b"]) == {}


def test_keys_and_headers_do_not_get_into_the_file(path):
    secret = "abcdefghij0123456789"
    texts = [
        f"Incorrect API key provided: sk-{secret}",
        f"Authorization: {secret}",
        f"authorization: Bearer {secret}",
        f"{{'Authorization': 'Basic {secret}'}}",
        f"x-api-key={secret}",
        f"header Bearer {secret}",
        f"POST https://user:{secret}@host/v1",
        f'{{"api_key": "{secret}"}}',
    ]
    ledger = Ledger(path)
    for i, text in enumerate(texts):
        ledger.record(str(i), f"critic {text}", Record(None, text, cause=text))
    for file in path.parent.iterdir():
        assert secret.encode() not in file.read_bytes()
    joke = (
        "A bearer of bad news, bearer responsibilities, and a task-oriented dog: the API key fits."
    )
    ledger.record("joke", "critic", Record(0.0, joke))
    assert ledger.find("joke").text == joke
    ledger.close()


def test_all_files_are_private(path):
    old = os.umask(0)
    try:
        path.touch(0o666)
        with Ledger(path) as ledger:
            ledger.record("k", "critic", Record(1.0))
            modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in path.parent.iterdir()}
    finally:
        os.umask(old)
    assert {"ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"} <= set(modes)
    assert set(modes.values()) == {0o600}


# ---- who finds what


def test_a_verdict_is_everybodys_and_a_failure_its_runs_own(path):
    with Ledger(path, run="a") as a, Ledger(path, run="b") as b, Ledger(path) as nameless:
        a.record("verdict", "critic", Record(0.5))
        a.record("failure", "critic", Record(None, cause="timeout"))
        nameless.record("nobody's", "critic", Record(None, cause="timeout"))
        assert [x.find("verdict").value for x in (a, b, nameless)] == [0.5] * 3
        assert a.find("failure").cause == "timeout"
        assert [x.find("failure") for x in (b, nameless)] == [None, None]
        assert nameless.find("nobody's") is None


def test_a_run_repeats_itself_whatever_others_answered_before_or_since(path):
    with Ledger(path, run="a") as a, Ledger(path, run="b") as b, Ledger(path, run="c") as c:
        a.record("both", "critic", Record(0.1))
        b.record("both", "critic", Record(0.2))
        b.record("failed", "critic", Record(None, cause="timeout"))
        a.record("failed", "critic", Record(0.3))
        assert b.find("both").value == 0.2
        assert b.find("failed").value is None
        assert c.find("both").value == 0.1
        assert c.find("failed").value == 0.3


def test_replay_answers_from_the_file_alone_and_leaves_it_as_it_is(path):
    with Ledger(path, run="a") as ledger:
        ledger.record("verdict", "critic", Record(0.5))
        ledger.record("failure", "critic", Record(None, cause="timeout"))
    before = path.read_bytes()
    with Ledger(path, run="other", replay=True) as replay:
        assert replay.find("verdict").value == 0.5
        assert replay.find("failure").cause == "timeout"
        with pytest.raises(NotRecorded, match="no answer to 1 of 2"):
            replay.find_many(["verdict", "unknown"])
        with pytest.raises(NotRecorded):
            replay.reserve()
        with pytest.raises(ValueError, match="no new records"):
            replay.record("new", "critic", Record(1.0))
    assert path.read_bytes() == before


def test_many_keys_are_found_at_once(path):
    keys = [key_of(i) for i in range(2_000)]
    with Ledger(path) as ledger:
        ledger.record_many([(k, Record(float(i))) for i, k in enumerate(keys)], "critic")
        began = time.perf_counter()
        found = ledger.find_many(keys)
        assert time.perf_counter() - began < 1.0
        assert [found[k].value for k in keys] == [float(i) for i in range(2_000)]


# ---- budgets


@pytest.mark.parametrize("name", ["requests", "tokens", "money"])
@pytest.mark.parametrize("limit", [-1, float("nan"), float("inf")])
def test_a_budget_is_finite_and_not_negative(name, limit):
    with pytest.raises(ValueError, match=name):
        Budget(**{name: limit})


def test_a_call_that_would_pass_the_budget_is_refused_before_it_is_made(path):
    with Ledger(path, budget=Budget(tokens=100)) as ledger:
        ticket = ledger.reserve(tokens=60)
        with pytest.raises(BudgetReached, match=r"100 tokens .* 0 spent, 60 in flight.* 41"):
            ledger.reserve(tokens=41)
        ledger.record("k", "critic", Record(1.0, "", 20, 10), ticket=ticket)  # less than feared
        ledger.release(ledger.reserve(tokens=70))
        with pytest.raises(BudgetReached) as reached:
            ledger.reserve(tokens=71)
        assert reached.value.spent == Spent(1, 20, 10, 0.0)
        assert "\n" not in str(reached.value)


def test_a_failed_call_costs_what_it_cost(path):
    with Ledger(path, budget=Budget(tokens=10)) as ledger:
        ledger.record("k", "critic", Record(None, "", 9, 1, cause="truncated"))
        assert ledger.spent().tokens == 10
        with pytest.raises(BudgetReached):
            ledger.reserve()  # nothing is left, however little the call would take


def test_prices_may_fill_a_budget_to_the_end(path):
    with Ledger(path, budget=Budget(money=0.3)) as ledger:
        for i in range(3):  # 0.1 + 0.1 + 0.1 > 0.3 in floating point
            ledger.record(
                str(i), "critic", Record(1.0, money=0.1), ticket=ledger.reserve(money=0.1)
            )
        with pytest.raises(BudgetReached):
            ledger.reserve(money=0.1)


def test_nothing_to_spend_still_allows_what_is_free(path):
    with Ledger(path, budget=Budget(money=0)) as ledger:
        ledger.release(ledger.reserve())
        with pytest.raises(BudgetReached):
            ledger.reserve(money=1e-9)


def test_a_resumed_run_counts_what_it_spent_and_other_runs_do_not(path):
    with Ledger(path, run="a", budget=Budget(requests=2)) as first:
        for i in range(2):
            first.record(str(i), "critic", Record(1.0), ticket=first.reserve())
    with Ledger(path, run="a", budget=Budget(requests=2)) as again, pytest.raises(BudgetReached):
        again.reserve()
    with Ledger(path, run="b", budget=Budget(requests=2)) as other:
        assert other.spent() == Spent()
        other.release(other.reserve())
    with Ledger(path, budget=Budget(requests=2)) as nameless:
        assert nameless.spent().requests == 2
    with Ledger(path, run="a", budget=Budget(requests=3)) as larger:
        larger.release(larger.reserve())


def test_threads_cannot_overshoot(path):
    """Sixteen threads that all want in at once get exactly what the budget has."""
    gate = threading.Barrier(16)

    def worker(n):
        done = 0
        gate.wait()
        for i in range(10):
            try:
                ticket = ledger.reserve()
            except BudgetReached:
                continue
            ledger.record(f"{n}-{i}", "critic", Record(1.0), ticket=ticket)
            done += 1
        return done

    with Ledger(path, budget=Budget(requests=40)) as ledger, ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(worker, range(16))) == 40
        assert ledger.spent().requests == 40


SPENDER = """
import sys
from pathlib import Path
from rewards.ledger import Budget, BudgetReached, Ledger, Record
path, name = Path(sys.argv[1]), sys.argv[2]
ledger = Ledger(path, run="shared", budget=Budget(requests=60))
try:
    for i in range(1000):
        ticket = ledger.reserve()
        ledger.record(f"{name}-{i}", name, Record(float(i)), ticket=ticket)
        print(f"{name}-{i}", flush=True)
except BudgetReached:
    pass
"""


def test_two_processes_lose_no_write_and_share_one_budget(path):
    """Both make the file at once, too."""
    processes = [python(SPENDER, path, name) for name in ("x", "y")]
    said = [process.communicate(timeout=60) for process in processes]
    assert [err for _, err in said] == ["", ""]
    keys = [key for out, _ in said for key in out.split()]
    assert len(keys) == 60
    with Ledger(path, run="shared") as ledger:
        assert len(ledger.find_many(keys)) == 60
        assert ledger.spent().requests == 60


# ---- killed and damaged

WRITER = """
import sys
from pathlib import Path
from rewards.ledger import Ledger, Record
ledger = Ledger(Path(sys.argv[1]), run=sys.argv[2])
for i in range(10**6):
    key = f"{sys.argv[2]}-{i}"
    ledger.record(key, "critic", Record(float(i), "x" * 3000, 7, 1), ticket=ledger.reserve())
    print(key, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_killed_while_writing_it_has_every_finished_call(path, seed):
    rng = np.random.default_rng(seed)
    process = python(WRITER, path, "killed")
    first = process.stdout.readline()
    time.sleep(rng.uniform(0.0, 0.2))
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    rest, errors = process.stdout.read(), process.stderr.read()  # communicate loses what readline
    assert errors == ""  # has buffered
    keys = (first + rest).split("\n")[:-1]  # the last line may be cut
    with Ledger(path, run="killed") as ledger:
        found = ledger.find_many(keys)
        assert [found[k].value for k in keys] == [float(i) for i in range(len(keys))]
        # The call that was going on may be there already, or still counts as in flight.
        assert ledger.spent().requests in (len(keys), len(keys) + 1)
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_call_of_a_killed_process_stays_counted(path):
    code = (
        "import os, signal, sys; from pathlib import Path; from rewards.ledger import Ledger\n"
        "Ledger(Path(sys.argv[1]), run='r').reserve(money=0.4)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert python(code, path).wait(timeout=60) == -signal.SIGKILL
    with Ledger(path, run="r", budget=Budget(money=0.5)) as ledger:
        assert ledger.spent() == Spent()
        with pytest.raises(BudgetReached, match=r"0\.4 in flight"):
            ledger.reserve(money=0.2)


def overwrite(path, start, junk):
    content = bytearray(path.read_bytes())
    content[start : start + len(junk)] = junk
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["header", "middle", "cut"])
def test_a_damaged_file_is_set_aside_with_one_message(path, capsys, damage):
    with Ledger(path) as ledger:
        records = [(key_of(i), Record(1.0, "text " * 100)) for i in range(200)]
        ledger.record_many(records, "critic")
    if damage == "header":
        overwrite(path, 0, b"junk" * 25)
    elif damage == "middle":
        overwrite(path, 4096, b"\xff" * 4096)
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    damaged = path.read_bytes()
    with pytest.raises(ValueError, match="damaged"):
        Ledger(path, replay=True)
    for number in (1, 2):
        path.write_bytes(damaged)
        with Ledger(path) as ledger:
            assert ledger.spent() == Spent()
            ledger.record("k", "critic", Record(1.0))
        (line,) = capsys.readouterr().err.splitlines()
        assert f"set aside as ledger.sqlite.corrupt-{number}" in line
        assert path.with_name(f"ledger.sqlite.corrupt-{number}").read_bytes() == damaged
    with Ledger(path) as ledger:
        assert ledger.find("k").value == 1.0
    assert capsys.readouterr().err == ""


def test_the_log_of_a_damaged_file_goes_with_it(path):
    path.write_bytes(b"junk" * 1000)
    path.with_name("ledger.sqlite-wal").write_bytes(b"log")
    Ledger(path).close()
    assert path.with_name("ledger.sqlite.corrupt-1-wal").read_bytes() == b"log"


def test_other_files_are_refused_and_stay(path, tmp_path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = path.read_bytes()
    for replay in (False, True):
        with pytest.raises(ValueError, match="is not a ledger"):
            Ledger(path, replay=replay)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="is a folder"):
        Ledger(tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        Ledger(tmp_path / "missing", replay=True)
    assert not (tmp_path / "missing").exists()


def test_a_ledger_of_a_later_version_is_refused(path):
    Ledger(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version = 99")
    raw.close()
    with pytest.raises(ValueError, match="version 99"):
        Ledger(path)


# ---- what it shows


def filled(path):
    with Ledger(path, run="a") as ledger:
        ledger.record("1", "judge", Record(0.5, "A", 100, 1, 0.25, 0.2))
        ledger.record("2", "judge", Record(None, "", 50, 0, 0.5, 0.4, "rate_limit"))
        ledger.find_many(["1", "2"])
        metrics = ledger.metrics()
    with Ledger(path, run="b\x1b[31m") as ledger:
        ledger.find("1")
        ledger.record("3", "other", Record(None, cause="timeout"))
        ledger.reserve(tokens=9)
    return metrics


def test_metrics_are_of_the_run(path):
    assert filled(path) == {
        "critic/requests": 2.0,
        "critic/tokens": 151.0,
        "critic/money": 0.75,
        "critic/cache_hit_rate": 0.5,
        "critic/failed/rate_limit": 1.0,
    }


def test_the_view_shows_spend_hits_latency_and_failures(path):
    filled(path)
    spend, failures, in_flight = spend_tables(path).split("\n\n")
    rows = [line.split() for line in spend.splitlines()[1:]]
    assert rows[0] == ["a", "judge", *"2 1 2 50.0% 150 1 0.7500 0.300 0.390".split()]
    assert rows[1] == ["b", "[31m", "other", *"1 1 0 0.0% 0 0 0.0000 0.000 0.000".split()]
    assert rows[2] == ["b", "[31m", "judge", *"0 0 1 100.0% 0 0 0.0000 - -".split()]
    assert failures.splitlines()[1].split() == ["a", "judge", "rate_limit", "1", "50", "0.5000"]
    assert in_flight.splitlines()[1].split() == ["b", "[31m", "1", "9", "0.0000"]
    assert "\x1b" not in spend
    assert "other" not in spend_tables(path, "a")


def test_the_view_refuses_what_is_no_ledger(path, capsys):
    assert spend_main([str(path)]) == 2
    assert "no such file" in capsys.readouterr().err
    Ledger(path).close()
    assert spend_main([str(path)]) == 0
    assert capsys.readouterr().out.startswith("run")
