import pytest
import torch

from agents.student import Student
from envs.vector import HumorVectorEnv
from rewards.text import words
from rewards.types import JokeReward

PROMPTS = [
    "the cat sat on the mat .",
    "my keys are lost again .",
    "the bus ran late in rain .",
    "a dog ate my sock .",
    "the soup boiled over .",
    "my gym slept .",
]


class Counts:
    """Rewards a joke with how often some letters stand in it; None where `fails(i)` says so."""

    def __init__(self, letters="a", fails=lambda i: False):
        self.letters, self.fails = letters, fails

    def __call__(self, prompts, jokes):
        return [
            JokeReward(
                None if self.fails(i) else float(j.count(self.letters)),
                None, None, {}, "", len(words(j)), 0.0,
            )
            for i, j in enumerate(jokes)
        ]  # fmt: skip


@pytest.fixture
def counts():
    return Counts


@pytest.fixture
def make_env():
    def make(reward, *, prompts=2, group=4, seed=0):
        env = HumorVectorEnv(PROMPTS, reward, num_prompts=prompts, group_size=group, seed=seed)
        env.reset(seed=seed)
        return env

    return make


@pytest.fixture
def word_student(word_base):
    """Untrained, so a fresh adapter on a bare base; another one each call."""

    def make():
        return Student.load(str(word_base), dtype=torch.float32)

    return make


@pytest.fixture
def tiny_student(tiny_weights):
    """A start adapter that differs from its base."""
    base, start = tiny_weights
    return Student.load(str(base), start, dtype=torch.float32)
