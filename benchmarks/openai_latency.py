"""How well a slow server is kept busy, and how much faster a replay is.

    python -m benchmarks.openai_latency [--latency 0.2] [--concurrency 8] [--questions 400]

A server on loopback answers every question after the latency. Busy: seconds of work on the server,
summed over questions, as a share of concurrency times wall clock, the probe left out.
"""

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.fault_server import FaultServer, prefers_longer, slow
from rewards.ledger import Ledger
from rewards.openai_critic import OpenAIJudge, openai_critic


def timed(judge: OpenAIJudge, n: int) -> float:
    prompts = [f"The bus number {i} was late again." for i in range(n)]
    jokes = [
        f"The bus number {i} practises being missed, and it is getting good." for i in range(n)
    ]
    begun = time.perf_counter()
    verdicts = judge.compare(prompts, jokes, prompts)
    seconds = time.perf_counter() - begun
    if None in verdicts:
        raise RuntimeError(f"{verdicts.count(None)} of {n} questions have no verdict")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency", type=float, default=0.2, help="seconds")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--questions", type=int, default=400)
    options = parser.parse_args()
    n, limit = options.questions, options.concurrency
    with (
        tempfile.TemporaryDirectory() as folder,
        FaultServer(slow(options.latency, prefers_longer)) as server,
    ):
        path = Path(folder) / "ledger.sqlite"
        with Ledger(path, run="r") as ledger:
            judge = openai_critic(
                "judge", ledger=ledger, base_url=server.url, concurrency=str(limit)
            )
            judge.probe()
            server.busy_seconds, cpu = 0.0, time.process_time()
            asking = timed(judge, n)
            cpu = time.process_time() - cpu
            busy = server.busy_seconds / (limit * asking)
            judge.close()
        with Ledger(path, run="r", replay=True) as ledger:
            again = openai_critic("judge", ledger=ledger, base_url=server.url)
            again.probe()
            replaying = timed(again, n)
    print(f"{n} questions, {limit} at once, {options.latency} s each")
    print(
        f"asking     {asking:.2f} s, {busy:.3f} of the limit busy, "
        f"{1000 * cpu / n:.1f} ms of processor time a question, server included"
    )
    print(f"replaying  {replaying:.4f} s, {asking / replaying:.0f} times faster")


if __name__ == "__main__":
    main()
