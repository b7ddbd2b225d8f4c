import json

import pytest

from rewards.build import build_critic
from rewards.ensembles import MinOfScorers, PenalisedMean
from rewards.fakes import AlwaysFirst, Honest, LongerWins, ScorerAsRanker
from rewards.prior import PriorRemoved
from rewards.wrappers import BothOrders, ShuffledRanks


def write(tmp_path, content, name="critic.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return f"file:{path}"


def refused(spec, args=None):
    with pytest.raises(ValueError, match=".") as caught:
        build_critic(spec, args)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("--critic file:")
    return message


def test_wrappers(tmp_path):
    judge = build_critic(write(tmp_path, {"critic": "fake:longer-wins", "both_orders": {}}))
    assert judge == BothOrders(LongerWins())
    ranker = {"critic": "fake:honest-ranker", "shuffled_ranks": {"permutations": 3}}
    assert build_critic(write(tmp_path, ranker)) == ShuffledRanks(ScorerAsRanker(Honest()), 3)
    prior = {"critic": "fake:always-first", "prior": {"estimate": 5, "seed": 2}}
    critic = build_critic(write(tmp_path, prior))
    assert isinstance(critic, PriorRemoved)
    assert (critic.judge, critic.estimate, critic.seed) == (AlwaysFirst(), 5, 2)
    bare = build_critic(write(tmp_path, "critic: fake:always-first\nprior:\n", "critic.yaml"))
    assert bare.estimate == 64


def test_a_weighted_mean(tmp_path):
    text = """
        mean:
          - {critic: fake:counts-word, args: {word: ha}, weight: 3}
          - {critic: fake:counts-word, args: {word: ho}}
    """
    mean = build_critic(write(tmp_path, text, "critic.yaml"))
    assert mean.score(["p", "p"], ["ha", "ha ho ho"]) == [0.75, 1.25]


def test_minimum_and_penalised_mean_of_standardised_members(tmp_path):
    text = """
        min:
          - {critic: fake:counts-word, args: {word: ha}, center: 1, scale: 0.5}
          - {critic: fake:counts-word, args: {word: ho}}
    """
    least = build_critic(write(tmp_path, text, "critic.yaml"))
    assert isinstance(least, MinOfScorers)
    assert least.score(["p", "p"], ["ho ho", "ha ha ho"]) == [-2.0, 1.0]
    text = text.replace("min:", "beta: 2\n        penalised:")
    penalised = build_critic(write(tmp_path, text, "critic.yaml"))
    assert isinstance(penalised, PenalisedMean)
    # ha: 2 (standardised), ho: 1; mean 1.5, standard deviation 0.5
    assert penalised.score(["p"], ["ha ha ho"]) == [1.5 - 2 * 0.5]


def test_ensembles_may_be_members(tmp_path):
    members = [{"critic": "fake:counts-word", "args": {"word": w}} for w in ("ha", "ho", "hi")]
    content = {"mean": [{"min": members[:2], "weight": 3}, members[2]]}
    critic = build_critic(write(tmp_path, content))
    assert critic.score(["p"], ["ha ha ho hi"]) == [(3 * 1 + 1) / 4]


COUNTS = {"critic": "fake:counts-word"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"critc": "fake:honest"}, "either 'critic' or 'mean'"),
        ([], "either 'critic' or 'mean'"),
        ({"mean": [COUNTS], "min": [COUNTS]}, "either 'critic' or 'mean'"),
        ({"critic": "fake:honest", "mood": 1}, "'mood'"),
        ({"critic": "fake:honest", "beta": 1}, "'beta' beside 'critic'"),
        ({"critic": "fake:honest", "weight": 1}, "'weight'"),
        ({"critic": "fake:honest", "both_orders": {}}, "both_orders wraps a judge"),
        ({"critic": "fake:honest", "prior": {}}, "prior wraps a judge"),
        ({"critic": "fake:honest", "shuffled_ranks": {}}, "shuffled_ranks wraps a ranker"),
        ({"critic": "fake:longer-wins", "prior": {"estimate": 0}}, "estimate >= 1 pairs, got 0"),
        ({"critic": "fake:longer-wins", "prior": {"mood": 0}}, "'mood'"),
        ({"critic": "fake:longer-wins", "prior": {}, "both_orders": {}}, "take one"),
        ({"critic": "fake:longer-wins", "prior": [3]}, r"prior is [3], need a mapping"),
        ({"critic": "fake:honest", "args": "x"}, "args is 'x', need a mapping"),
        ({"critic": "file:critic.json"}, "names another file"),
        ({"mean": [{"critic": "fake:longer-wins"}]}, "a mean is of scorers"),
        ({"mean": []}, "needs members"),
        ({"mean": "fake:honest"}, "needs members"),
        ({"mean": [{**COUNTS, "weight": "much"}]}, "weight is 'much', need a finite number"),
        ({"mean": [{**COUNTS, "scale": 0}]}, "scale is 0.0"),
        ({"min": [{**COUNTS, "weight": 2}]}, "a min has no weights"),
        ({"penalised": [COUNTS]}, "2 members or more, got 1"),
        ({"penalised": [COUNTS, COUNTS], "beta": -1}, "beta is -1.0"),
        ({"critic": "fake:honest", "args": {"key": "x"}}, "key_env="),
        ("{", "not JSON"),
    ],
)
def test_a_bad_file_says_what_is_wrong(tmp_path, content, says):
    assert says in refused(write(tmp_path, content))


def test_a_missing_file_and_bad_yaml_are_one_line(tmp_path):
    assert "cannot be read" in refused("file:nowhere.yaml")
    assert "not YAML" in refused(write(tmp_path, "a: [1\nb: }", "critic.yaml"))
    assert "from the file" in refused("file:nowhere.yaml", {"word": "x"})
