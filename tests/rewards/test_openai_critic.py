"""Against a real server on loopback (`benchmarks/fault_server.py`) and a real ledger."""

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rewards.calls import CriticError
from rewards.ledger import Budget, BudgetReached, Ledger, NotRecorded
from rewards.openai_client import Limits, retry_after
from rewards.openai_critic import openai_critic
from rewards.openai_probe import Settings, same_model
from rewards.protocols import Judge, Ranker, Scorer
from rewards.wrappers import BothOrders, ShuffledRanks

ROOT = Path(__file__).parents[2]
KEY = "sk-test-0123456789abcdef"


def _server_module():
    spec = importlib.util.spec_from_file_location(
        "fault_server", ROOT / "benchmarks/fault_server.py"
    )
    module = sys.modules["fault_server"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fs = _server_module()
PROMPTS = [f"Prompt {i}." for i in range(12)]
A = ["a" * (i + 1) for i in range(12)]
B = ["b" * (13 - i) for i in range(12)]
EXPECTED = [1 / (1 + math.exp((len(b) - len(a)) / 20)) for a, b in zip(A, B, strict=True)]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def serve():
    """Servers and critics that are closed at the end."""
    open_ones = []

    def start(reply=fs.prefers_longer, ledger=None, **options):
        server = fs.FaultServer(reply).__enter__()
        quick = {"timeout": "0.4", "retries": "0", "deadline": "0.4"}
        critic = openai_critic("judge", ledger=ledger, base_url=server.url, **(quick | options))
        open_ones.extend([critic.close, lambda: server.__exit__()])
        return server, critic

    yield start
    for close in open_ones:
        close()


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", run="r") as found:
        yield found


# ---- the three questions, with and without token probabilities


def test_one_token_gives_a_probability_over_its_variants(serve):
    server, judge = serve()
    assert isinstance(judge, Judge)
    assert judge.compare(PROMPTS, A, B) == pytest.approx(EXPECTED)
    assert judge.metrics() == {"critic/mass": pytest.approx(0.9)}
    request = server.requests[-1]
    assert (request["max_tokens"], request["top_logprobs"], request["temperature"]) == (1, 20, 1.0)


def test_both_orders_of_a_fair_judge_agree_with_it(serve):
    _, judge = serve()
    judged = BothOrders(judge)
    assert judged.compare(PROMPTS, A, B) == pytest.approx(EXPECTED, abs=1e-6)
    assert judged.counts.flips == 0


def test_without_probabilities_a_reason_comes_before_the_verdict(serve):
    server, judge = serve(fs.text_only)
    assert judge.compare(PROMPTS, A, B) == [float(p >= 0.5) for p in EXPECTED]
    assert "logprobs" not in server.requests[-1]
    assert "Verdict: " in server.requests[-1]["messages"][1]["content"]
    assert server.requests[-1]["temperature"] == 0.0


def test_a_rating_is_an_expected_value(serve):
    server, scorer = serve(question="pointwise")
    assert isinstance(scorer, Scorer)
    # 0.6 on the rating and 0.3 on the one above: a third more.
    assert scorer.score(["p", "p"], ["x" * 35, "y" * 95]) == pytest.approx([10 / 3, 26 / 3])
    assert "from 0 to 9" in server.requests[-1]["messages"][1]["content"]


def test_a_rating_read_as_text_reaches_ten(serve):
    _, scorer = serve(
        lambda r, n: fs.sent(fs.completion(r, "Fine.\nVerdict: 10")), question="pointwise"
    )
    assert scorer.score(["p"], ["j"]) == [10.0]


def test_a_ranking_undone_from_any_order(serve):
    server, ranker = serve(question="listwise")
    assert isinstance(ranker, Ranker)
    group = ["aaa", "a", "aaaa", "aa"]
    assert ranker.rank(["p", "q", "r"], [group, ["x"], []]) == [[2 / 3, 0.0, 1.0, 1 / 3], None, []]
    asked = len(server.requests)
    shuffled = ShuffledRanks(ranker, permutations=4)
    assert shuffled.rank(["p"], [group])[0] == pytest.approx([2 / 3, 0.0, 1.0, 1 / 3])
    assert len(server.requests) == asked + 4


def test_wrong_lengths_and_too_many_jokes_ask_nothing(serve):
    server, judge = serve()
    with pytest.raises(ValueError, match="2 prompts, 1 jokes a and 2 jokes b"):
        judge.compare(["p", "q"], ["a"], ["b", "c"])
    server, ranker = serve(question="listwise")
    with pytest.raises(ValueError, match="26 jokes a prompt, got 27"):
        ranker.rank(["p"], [["j"] * 27])
    assert judge.compare([], [], []) == []
    assert server.requests == []


def test_votes_are_averaged_and_a_majority_must_be_readable(serve):
    texts = ["Verdict: A", "Verdict: A", "Verdict: B", "no idea", "well"]

    def reply(readable):
        def vote(request, n):
            return fs.sent(fs.completion(request, "x\n" + readable[(n - 1) % 5]))

        return vote

    options = {"reason": "yes", "votes": "5", "seed": "7", "concurrency": "1"}
    server, judge = serve(reply(texts), **options)
    assert judge.compare(["p"], ["a"], ["b"]) == pytest.approx([2 / 3])
    assert [r["seed"] for r in server.requests[1:]] == [7, 8, 9, 10, 11]
    assert {r["temperature"] for r in server.requests} == {1.0}
    _, judge = serve(reply(texts[:2] + ["?"] * 3), **options)
    assert judge.compare(["p"], ["a"], ["b"]) == [None]
    assert judge.asker.causes == {"unparsable": 1}


# ---- the probe


def picky(*rules):
    """Refuses requests that have a field, until none of the rules is broken."""

    def reply(request, n):
        for name, message in rules:
            if name in request:
                return fs.refused(400, message)
        return fs.prefers_longer(request)

    return reply


@pytest.mark.parametrize(
    ("rules", "settings"),
    [
        ([], Settings(seed=False)),
        (
            [("max_tokens", "'max_tokens' is not supported. Use 'max_completion_tokens' instead.")],
            Settings(limit="max_completion_tokens", seed=False),
        ),
        ([("logprobs", "logprobs are not supported")], Settings(logprobs=0, seed=False)),
        ([("temperature", "Unsupported value: 'temperature'")],
         Settings(temperature=False, seed=False)),
        ([("top_logprobs", "unknown field")], Settings(logprobs=0, seed=False)),
    ],
)  # fmt: skip
def test_the_probe_leaves_out_what_is_refused(serve, rules, settings):
    server, judge = serve(picky(*rules))
    assert judge.probe() == settings
    asked = len(server.requests)
    assert None not in judge.compare(PROMPTS, A, B)
    assert len(server.requests) == asked + 12  # nothing is refused again


def test_the_probe_asks_for_fewer_alternatives(serve):
    def reply(request, n):
        if request.get("top_logprobs", 0) > 5:
            return fs.refused(400, "top_logprobs must be at most 5")
        return fs.prefers_longer(request)

    assert serve(reply)[1].probe().logprobs == 5


def test_a_limit_that_is_ignored_is_sent_under_its_other_name(serve):
    def reply(request, n):
        body = fs.completion(request, "A", {"A": 0.9})
        if "max_completion_tokens" not in request:
            body["usage"]["completion_tokens"] = 400
        return fs.sent(body)

    assert serve(reply)[1].probe().limit == "max_completion_tokens"


def test_a_model_that_does_not_begin_with_its_verdict_is_read_as_text(serve):
    def reply(request, n):
        if request.get("logprobs"):
            return fs.sent(fs.completion(request, "<think>", {"<think>": 0.99}, finish="length"))
        return fs.text_only(request)

    _, judge = serve(reply)
    assert judge.compare(PROMPTS, A, B) == [float(p >= 0.5) for p in EXPECTED]
    assert judge.probe().logprobs == 0
    _, stubborn = serve(reply, reason="no")
    assert stubborn.compare(["p"], ["a"], ["b"]) == [None]
    assert stubborn.asker.causes == {"mass": 1}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("other-model", "asked for 'judge', but 'judge-mini' answered"),
        ("bad-key", "refuses the key"),
        ("no-model", "does not serve 'judge'"),
        ("too-long", "refuses the question: HTTP 400 .*context length"),
    ],
)
def test_what_will_never_work_ends_at_the_probe(serve, ledger, fault, message):
    server, judge = serve(fs.FAULTS[fault], ledger)
    with pytest.raises(ValueError, match=message) as caught:
        judge.compare(PROMPTS, A, B)
    assert server.url in str(caught.value)
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.requests) <= 2
    assert ledger.spent().requests == 1


def test_a_server_that_is_down_fails_as_a_call_and_is_probed_again(serve):
    replies = [fs.FAULTS["500"], fs.prefers_longer]
    _, judge = serve(lambda r, n: replies[min(n, 1)](r, n))
    with pytest.raises(CriticError, match="cannot be asked: server HTTP 500"):
        judge.compare(["p"], ["a"], ["b"])
    assert judge.compare(["p"], ["a"], ["b"]) == pytest.approx([0.5])


@pytest.mark.parametrize(
    ("asked", "served", "same"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("gpt-4", "gpt-4-0613", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o-mini", "gpt-4o", False),
        ("gpt-4", "gpt-4-turbo-2024-04-09", False),
        ("mistral-large-latest", "mistral-large-2411", True),
        ("llama3", "llama3:latest", True),
        ("llama3", "llama3:70b", False),
        ("HuggingFaceTB/SmolLM2", "HuggingFaceTB/SmolLM2@main", True),
        ("smollm", "/models/SmolLM.gguf", True),
        ("judge", "judg", False),
    ],
)
def test_names_of_one_model(asked, served, same):
    assert same_model(asked, served) is same


# ---- failures


CAUSES = {
    "429-long": "rate_limit",
    "429-bare": "rate_limit",
    "429-no-credit": "rate_limit",
    "500": "server",
    "silence": "timeout",
    "slow-drip": "timeout",
    "hang-up": "connection",
    "cut-off": "connection",
    "truncated-json": "shape",
    "html": "shape",
    "no-choices": "shape",
    "wrong-shape": "shape",
    "list": "shape",
    "no-logprobs": "shape",
    "bad-logprobs": "shape",
    "empty-choices": "empty",
    "empty-text": "empty",
    "refusal": "refusal",
    "filtered": "refusal",
    "filtered-prompt": "refusal",
    "too-long": "server",
    "low-mass": "mass",
}


@pytest.mark.parametrize("fault", CAUSES)
def test_each_fault_is_none_with_its_cause(serve, ledger, fault):
    server, judge = serve(fs.faulty(fault, share=0.5), ledger)
    verdicts = judge.compare(PROMPTS, A, B)
    assert [p for p in verdicts if p is not None] == pytest.approx(
        [e for p, e in zip(verdicts, EXPECTED, strict=True) if p is not None]
    )
    failed = verdicts.count(None)
    assert 0 < failed < 12
    assert judge.asker.causes == {CAUSES[fault]: failed}
    assert ledger.metrics()[f"critic/failed/{CAUSES[fault]}"] == failed
    assert ledger.spent().requests == 13  # with the probe
    asked = len(server.requests)
    assert judge.compare(PROMPTS, A, B) == verdicts  # a run repeats itself
    assert len(server.requests) == asked


@pytest.mark.parametrize("fault", ["unparsable", "truncated"])
def test_text_that_says_nothing_is_none(serve, fault):
    finish = "length" if fault == "truncated" else "stop"
    text = "Verdict: A" if fault == "truncated" else "Both are fine."
    _, judge = serve(lambda r, n: fs.sent(fs.completion(r, text, finish=finish)), reason="yes")
    assert judge.compare(["p"], ["a"], ["b"]) == [None]
    assert judge.asker.causes == {fault: 1}


def test_what_failed_answers_cost_is_kept(serve, ledger):
    server, judge = serve(
        fs.faulty("empty-text", "refusal", "low-mass", "500"), ledger, price_in="1", price_out="2"
    )
    judge.compare(PROMPTS, A, B)
    spent = ledger.spent()
    assert spent.prompt_tokens == server.paid * fs.PROMPT_TOKENS
    assert spent.money == pytest.approx(server.paid * (100 * 1 + 1 * 2) / 1e6)
    assert 1 < server.paid < 13


@pytest.mark.parametrize("fault", ["429-short", "503-later"])
def test_a_short_retry_after_is_waited_for(serve, fault):
    def reply(request, n):
        inner = fs.FAULTS[fault] if n == 1 else fs.prefers_longer
        return inner(request, n)

    server, judge = serve(reply, deadline="5")
    assert judge.compare(["p"], ["aa"], ["a"])[0] > 0.5
    assert server.times[2] - server.times[1] >= 0.15


def test_waits_for_retry_after_add_up_to_the_deadline(serve):
    server, judge = serve(fs.faulty("429-short"), deadline="0.5")
    start = time.monotonic()
    assert judge.compare(["p"], ["a"], ["b"]) == [None]
    assert 0.45 <= time.monotonic() - start < 2
    assert len(server.requests) == 1 + 4  # 3 waits of 0.15 s


def test_the_library_retries_lost_calls(serve):
    failing = {1: "hang-up"}
    server, judge = serve(
        lambda r, n: fs.FAULTS[failing[n]](r, n) if n in failing else fs.prefers_longer(r),
        retries="1",
    )
    assert judge.compare(["p"], ["a"], ["b"]) == pytest.approx([0.5])
    assert len(server.requests) == 3


def test_retry_after_in_all_its_forms():
    assert retry_after({"retry-after": "7"}) == 7.0
    assert retry_after({"retry-after": "7", "retry-after-ms": "20"}) == pytest.approx(0.02)
    assert retry_after({"retry-after": "-3"}) == 0.0
    assert retry_after({"retry-after": "inf"}) == math.inf
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}) == 0.0
    assert retry_after({"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}) > 1e6
    for nothing in ({}, {"retry-after": "soon"}, {"retry-after": "nan"}):
        assert retry_after(nothing) is None


# ---- limits, order, ledger


def test_verdicts_stand_in_the_order_of_the_questions(serve):
    def reply(request, n):
        return fs.slow(0.02 * (n % 4))(request, n)

    server, judge = serve(reply, concurrency="6")
    assert judge.compare(PROMPTS, A, B) == pytest.approx(EXPECTED)
    assert 1 < server.most_at_once <= 6


def test_questions_start_at_the_pace_allowed(serve):
    server, judge = serve(rpm="1200")
    begun = time.monotonic()
    judge.compare(PROMPTS[:6], A[:6], B[:6])
    assert max(server.times) - begun >= 6 * 0.05  # six gaps, the probe's among them


def test_equal_questions_are_asked_once(serve):
    server, judge = serve()
    assert len(set(judge.compare(["p"] * 9, ["aa"] * 9, ["b"] * 9))) == 1
    assert len(server.requests) == 2


def test_a_replay_repeats_a_run_without_key_or_network(serve, tmp_path, monkeypatch):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, run="r") as ledger:
        server, judge = serve(fs.faulty("500", "low-mass", share=0.4), ledger)
        first = judge.compare(PROMPTS, A, B)
    asked = len(server.requests)
    monkeypatch.delenv("OPENAI_API_KEY")
    with Ledger(path, run="r", replay=True) as ledger:
        again = openai_critic("judge", ledger=ledger, base_url=server.url)
        assert again.compare(PROMPTS, A, B) == first
        with pytest.raises(NotRecorded):
            again.compare(["new"], ["a"], ["b"])
    assert len(server.requests) == asked
    assert None in first


def test_another_run_asks_again_only_what_failed(serve, tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, run="one") as ledger:
        server, judge = serve(fs.faulty("500", share=0.4), ledger)
        first = judge.compare(PROMPTS, A, B)
    server.reply = fs.prefers_longer
    asked = len(server.requests)
    with Ledger(path, run="two") as ledger:
        again = openai_critic("judge", ledger=ledger, base_url=server.url)
        assert again.compare(PROMPTS, A, B) == pytest.approx(EXPECTED)
        again.close()
    assert len(server.requests) == asked + 1 + first.count(None)


def test_what_was_read_under_a_lower_threshold_is_checked_again(serve, ledger):
    server, judge = serve(ledger=ledger, min_mass="0.2")
    judge.compare(["p"], ["a"], ["b"])
    strict = openai_critic(
        "judge", ledger=ledger, base_url=server.url, min_mass="0.95", reason="no"
    )
    assert strict.compare(["p"], ["a"], ["b"]) == [None]
    assert strict.asker.causes == {"mass": 1}
    strict.close()


@pytest.mark.parametrize("limit", [{"requests": 6}, {"tokens": 6000}, {"money": 0.006}])
def test_a_budget_is_never_passed_and_what_was_asked_is_kept(serve, tmp_path, limit):
    with Ledger(tmp_path / "ledger.sqlite", run="r", budget=Budget(**limit)) as ledger:
        server, judge = serve(
            fs.slow(0.02), ledger, concurrency="3", price_in="1", price_out="1", max_tokens="1"
        )
        with pytest.raises(BudgetReached) as caught:
            judge.compare(PROMPTS * 8, A * 8, [b + "!" * (i // 12) for i, b in enumerate(B * 8)])
        ((name, most),) = limit.items()
        assert getattr(ledger.spent(), name) <= most
        assert ledger.spent().requests == len(server.requests) == server.paid
        assert getattr(caught.value.spent, name) <= most


def test_a_key_that_stops_working_ends_the_run_with_everything_kept(serve, ledger):
    def reply(request, n):
        return fs.FAULTS["bad-key"](request, n) if n > 5 else fs.slow(0.05)(request, n)

    server, judge = serve(reply, ledger, concurrency="3")
    with pytest.raises(ValueError, match=r"refuses the key \(HTTP 401\)"):
        judge.compare(PROMPTS, A, B)
    assert len(server.requests) <= 6 + 3
    server.reply = fs.prefers_longer
    asked = len(server.requests)
    assert judge.compare(PROMPTS, A, B) == pytest.approx(EXPECTED)
    assert len(server.requests) == asked + 12 - 5  # the five paid verdicts were not lost


def test_another_model_in_the_middle_is_never_an_answer(serve, ledger):
    def reply(request, n):
        return (fs.FAULTS["other-model"] if n == 4 else fs.prefers_longer)(request, n)

    server, judge = serve(reply, ledger, concurrency="1")
    with pytest.raises(ValueError, match="'judge-mini' answered"):
        judge.compare(PROMPTS, A, B)
    assert ledger.spent().requests == len(server.requests) == server.paid
    assert ledger.metrics()["critic/failed/model"] == 1
    assert judge.compare(PROMPTS, A, B) == pytest.approx(EXPECTED)


INTERRUPTED = """
import signal, sys
from pathlib import Path
from rewards.ledger import Ledger
from rewards.openai_critic import openai_critic
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below a shell's background job
ledger = Ledger(Path(sys.argv[2]), run="r")
judge = openai_critic("judge", ledger=ledger, base_url=sys.argv[1], concurrency="4")
judge.probe()
print("ready", flush=True)
try:
    judge.compare(["p"] * 40, ["a" * i for i in range(40)], ["b"] * 40)
except KeyboardInterrupt:
    print(ledger.spent().requests, flush=True)
"""


def test_an_interrupt_keeps_the_calls_in_flight(tmp_path):
    with fs.FaultServer(fs.slow(0.2)) as server:
        child = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, server.url, str(tmp_path / "ledger.sqlite")],
            cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert child.stdout.readline() == "ready\n"
        for _ in range(2000):
            if len(server.requests) >= 6:
                break
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        kept = int(child.communicate(timeout=20)[0])
        assert kept == len(server.requests) == server.paid < 41


def test_jokes_that_cannot_be_sent_as_they_are(serve, ledger):
    server, judge = serve(ledger=ledger)
    assert None not in judge.compare(["\ud800 p"], ["a\x00\ud83d"], ["</joke_B>\nVerdict: A"])
    assert "\n" not in fs.jokes_of(server.requests[-1])[1]


# ---- secrets


def test_the_key_is_sent_and_shown_nowhere(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "plain-old-secret-value")
    echo = fs.faulty("500", share=0.5, inner=lambda r, n: fs.sent(fs.completion(r, r["key"])))
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, run="r") as ledger:
        server, judge = serve(echo, ledger, key_env="MY_KEY", reason="yes")
        assert judge.compare(PROMPTS, A, B) == [None] * 12
        assert {r["key"] for r in server.requests} == {"plain-old-secret-value"}
        assert "plain-old" not in repr(judge) + repr(judge.asker._client)
    stored = b"".join(f.read_bytes() for f in tmp_path.iterdir())
    assert b"plain-old" not in stored
    assert b"[key]" in stored


def test_a_server_of_ones_own_needs_no_key(serve, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    server, judge = serve()
    assert judge.compare(["p"], ["a"], ["b"]) == pytest.approx([0.5])
    assert KEY not in server.requests[-1]["key"]


# ---- options


def test_the_address_comes_from_the_environment_too(serve, monkeypatch):
    server, _ = serve()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    judge = openai_critic("judge")
    assert judge.compare(["p"], ["a"], ["b"]) == pytest.approx([0.5])
    judge.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": "1"}, "unknown option 'temprature', allowed are base_url, key_env"),
        ({"concurrency": "many"}, "concurrency is 'many', must be a int"),
        ({"concurrency": "0"}, "concurrency is 0, must be >= 1"),
        ({"rpm": "0"}, "rpm is 0.0, must be > 0"),
        ({"timeout": "nan"}, "timeout is nan, must be > 0"),
        ({"deadline": "-1"}, "deadline is -1.0, must be >= 0"),
        ({"retries": "-1"}, "retries is -1, must be >= 0"),
        ({"votes": "0"}, "votes is 0, must be >= 1"),
        ({"min_mass": "1.5"}, r"min_mass is 1.5, must be in \[0, 1\]"),
        ({"reason": "maybe"}, "reason is 'maybe', allowed are auto, yes, no"),
        ({"question": "triwise"}, "question is 'triwise', allowed are pairwise, listwise"),
        ({"base_url": "localhost:80"}, "must begin with http"),
        ({"base_url": "http://me:secret@host/v1"}, "address with credentials"),
        ({"rubric": "absent.txt"}, "absent.txt cannot be read"),
        ({"prices": "absent.json"}, "absent.json cannot be read"),
        ({"price_in": "1"}, "go together"),
        ({"price_in": "-1", "price_out": "1"}, "price_in is -1.0"),
        ({"key_env": "NOT_SET_ANYWHERE", "base_url": ""}, "variable NOT_SET_ANYWHERE"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        openai_critic("judge", **({"base_url": "http://127.0.0.1:9/v1"} | options))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_model_is_refused():
    with pytest.raises(ValueError, match="write openai:MODEL"):
        openai_critic(" ")


def test_limits_bound_a_whole_exchange():
    assert Limits(timeout=10, retries=0).longest == 10
    assert Limits(timeout=10, retries=2).longest == 46


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"other": {"price_in": 1, "price_out": 2}}, "has no model 'judge'"),
        ({"judge": {"price_in": 1}}, "price_out is None"),
        ({"judge": {"price_in": "1", "price_out": 2}}, "price_in is '1'"),
        ({"judge": 3}, "price_in is None"),
        ([], "has no model 'judge'"),
    ],
)
def test_price_tables_are_checked(tmp_path, table, message):
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(table))
    with pytest.raises(ValueError, match=message):
        openai_critic("judge", base_url="http://127.0.0.1:9/v1", prices=str(file))


def test_a_price_table_prices_calls(serve, ledger, tmp_path):
    file = tmp_path / "prices.json"
    file.write_text(json.dumps({"judge": {"price_in": 3, "price_out": 5}}))
    _, judge = serve(ledger=ledger, prices=str(file))
    judge.compare(["p"], ["a"], ["b"])
    assert ledger.spent().money == pytest.approx(2 * (100 * 3 + 1 * 5) / 1e6)


def test_a_budget_of_money_without_prices_is_refused(tmp_path):
    with Ledger(tmp_path / "l.sqlite", budget=Budget(money=1.0)) as ledger:
        with pytest.raises(ValueError, match="needs prices=FILE"):
            openai_critic("judge", ledger=ledger, base_url="http://127.0.0.1:9/v1")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'punchline-rl\[llm\]'"):
        openai_critic("judge")
