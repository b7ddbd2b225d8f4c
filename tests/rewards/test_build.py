import subprocess
import sys
import textwrap
from importlib.util import find_spec

import pytest

from rewards.build import build_critic, build_reward, critic_kinds
from rewards.control import ControlConfig, LabelledJoke
from rewards.fakes import FAKES, AlwaysFirst, CountsWord
from rewards.options import parse_critic_args, parse_terms
from rewards.prior import PriorRemoved
from rewards.types import Rating


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module into the working directory and forget it afterwards."""
    monkeypatch.chdir(tmp_path)
    written = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


def refused(spec, args=None, **context):
    with pytest.raises(ValueError, match=".") as caught:
        build_critic(spec, args, **context)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("--critic ")
    return message


GOOD = """
    class Mine:
        def __init__(self, gain): self.gain = gain
        def score(self, prompts, jokes): return [self.gain * len(j) for j in jokes]
    def make(gain="1"): return Mine(float(gain))
    def broken(): raise ValueError("no such mood")
    def nothing(): return object()
    number = 3
"""


@pytest.mark.parametrize("name", FAKES)
def test_fakes_come_by_name(name):
    assert isinstance(build_critic(f"fake:{name}"), type(FAKES[name]()))


def test_a_fakes_arguments_are_strings():
    assert build_critic("fake:counts-word", {"word": "moose"}) == CountsWord("moose")
    critic = build_critic("fake:random-failures", {"of": "longer-wins", "share": "1"})
    assert critic.compare(["p"], ["a b"], ["a"]) == [None]


def test_a_module_of_the_working_directory_is_found(module):
    module("my_critic", GOOD)
    before = list(sys.path)
    critic = build_critic("my_critic:make", {"gain": "2"})
    assert critic.score(["p"], ["abc"]) == [6.0]
    assert sys.path == before


def test_errors_name_option_value_and_what_is_allowed(module):
    module("other_critic", GOOD)
    module("bad_import", "import no_such_thing_at_all\n")
    module("bad_syntax", "def make(:\n")
    assert "the fakes are always-first" in refused("fake:always-last")
    assert "allowed are embedded" in refused("sevenfold")
    assert "allowed are embedded" in refused(":make")
    assert "No module named 'no_such'" in refused("no_such:make")
    assert "has no 'build'" in refused("other_critic:build")
    assert "its arguments are: gain" in refused("other_critic:make", {"size": "2"})
    assert "no such mood" in refused("other_critic:broken")
    assert "score, compare and rank" in refused("other_critic:nothing")
    assert "number is a int" in refused("other_critic:number")
    assert "no_such_thing_at_all" in refused("bad_import:make")
    assert "SyntaxError" in refused("bad_syntax:make")
    assert "share" in refused("fake:random-failures", {"share": "7"})


def test_a_later_kind_says_so():
    assert "arrives with the next release" in refused("self")


@pytest.mark.parametrize("spec", ["local:smollm2-135m", "openai:gpt"])
@pytest.mark.parametrize("name", ["base", "ledger"])
def test_what_the_program_hands_over_is_no_argument(spec, name):
    assert "base and ledger are not arguments" in refused(spec, {name: "x"})


@pytest.mark.parametrize(
    ("spec", "args"),
    [
        ("openai:https://user:hunter2@host/v1", {}),
        ("openai:https://hunter2@host/v1", {}),
        ("openai:https://host/v1?api_key=hunter2", {}),
        ("fake:honest", {"key": "hunter2"}),
        ("fake:honest", {"api_key": "hunter2"}),
        ("fake:honest", {"token": "hunter2"}),
        ("fake:honest", {"base_url": "http://a:hunter2@host"}),
    ],
)
def test_secrets_are_refused_and_never_repeated(spec, args):
    message = refused(spec, args)
    assert "key_env=" in message
    assert "hunter2" not in message


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with a critic, installed by pip into a folder of its own."""
    missing = [name for name in ("pip", "setuptools") if find_spec(name) is None]
    if missing:  # not imported: setuptools refuses where distutils was imported before it
        pytest.skip(f"installing needs {' and '.join(missing)}")
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "plugged_critic.py").write_text(textwrap.dedent(GOOD))
    (source / "pyproject.toml").write_text(
        textwrap.dedent("""
            [build-system]
            requires = ["setuptools"]
            build-backend = "setuptools.build_meta"
            [project]
            name = "plugged"
            version = "1"
            [project.entry-points."punchline.critics"]
            moody = "plugged_critic:make"
            lost = "gone_away:make"
            [tool.setuptools]
            py-modules = ["plugged_critic"]
        """)
    )
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", target, source],
        check=True,
    )
    monkeypatch.syspath_prepend(str(target))
    yield target
    sys.modules.pop("plugged_critic", None)


def test_an_entry_point_of_an_installed_package_is_used_by_its_name(installed):
    assert "moody" in critic_kinds()
    critic = build_critic("moody", {"gain": "3"})
    assert critic.score(["p"], ["ab"]) == [6.0]
    assert sys.modules["plugged_critic"].__file__ == str(installed / "plugged_critic.py")
    assert "its arguments are: gain" in refused("moody", {"size": "2"})
    assert "No module named 'gone_away'" in refused("lost")


def test_an_embedded_critic_without_its_context_says_what_is_missing():
    assert "reader" in refused("embedded")
    assert "reader" in refused("embedded", base=None, ledger=None)
    context = dict.fromkeys(("reader", "format", "start_sha256", "base_sha256"))
    assert "'colour'" in refused("embedded-report", {"colour": "red"}, **context)


def test_critic_args_are_read_and_checked():
    assert parse_critic_args(["word=moose", "url=a=b"]) == {"word": "moose", "url": "a=b"}
    assert parse_critic_args(["key_env=MY_KEY"]) == {"key_env": "MY_KEY"}
    for bad, says in [("word", "not NAME=VALUE"), ("=x", "not NAME=VALUE"), ("key=x", "key_env")]:
        with pytest.raises(ValueError, match=says):
            parse_critic_args([bad])
    with pytest.raises(ValueError, match="given twice"):
        parse_critic_args(["a=1", "a=2"])


def test_terms_are_read_and_checked():
    assert parse_terms("humor=1, fact=0.5,novelty=0.5") == {"humor": 1, "fact": 0.5, "novelty": 0.5}
    assert parse_terms("humor=1,mine:make=-0.2")["mine:make"] == -0.2
    for bad in ["humor", "humor=x", "humor=0", "humor=nan", "fact=1", "humor=1,humor=2", ""]:
        with pytest.raises(ValueError, match="--reward"):
            parse_terms(bad)


class Rates:
    def score(self, prompts, jokes):
        return [float(len(j)) for j in jokes]

    def rate(self, prompts, jokes):
        return [Rating(1.0, 0.1, 0.5, False) for _ in jokes]


def test_a_reward_is_joined_from_named_terms():
    reward = build_reward(
        Rates(),
        {"humor": 1.0, "fact": 0.5, "novelty": 0.25, "fake:counts-word": 2.0},
        start_lines=[("p", "a start line")],
    )
    (verdict,) = reward(["p"], ["the"])
    terms = {"humor": 3.0, "fact": 0.5, "novelty": 0.0, "fake:counts-word": 1.0}
    assert verdict.terms == terms
    assert verdict.reward == 3.0 + 0.25 + 2.0


def test_a_plain_judge_is_asked_in_both_orders():
    reward = build_reward(build_critic("fake:always-first"), {"humor": 1.0})
    assert [v.reward for v in reward(["p", "p"], ["a", "b"])] == [0.5, 0.5]
    assert reward.metrics["critic/flip_rate"] == 1.0


def test_a_judge_without_its_prior_is_not_asked_twice():
    reward = build_reward(PriorRemoved(AlwaysFirst(), estimate=1), {"humor": 1.0})
    assert [v.reward for v in reward(["p", "p"], ["a", "b"])] == [0.5, 0.5]
    assert reward.metrics["critic/prior_first"] > 0.99


def test_a_raters_scores_are_on_the_labels_scale():
    jokes = [LabelledJoke("p", "x" * n, float(n)) for n in range(1, 20)]
    reward = build_reward(Rates(), {"humor": 1.0}, control=ControlConfig(), calibration=jokes)
    assert reward.control.config.same_scale


def test_terms_that_lack_what_they_need_are_refused():
    with pytest.raises(ValueError, match="fact needs a critic that rates"):
        build_reward(CountsWord(), {"humor": 1.0, "fact": 1.0})
    with pytest.raises(ValueError, match="start lines"):
        build_reward(CountsWord(), {"humor": 1.0, "novelty": 1.0})
    with pytest.raises(ValueError, match="a term is a scorer"):
        build_reward(CountsWord(), {"humor": 1.0, "fake:longer-wins": 1.0})
    with pytest.raises(ValueError, match="--reward 'charm' is not known"):
        build_reward(CountsWord(), {"humor": 1.0, "charm": 1.0})
