"""A critic of your own: counts funny words. Use it with

python train.py --critic examples.word_critic:make --critic-arg words=moose,cheese
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class WordCritic:
    """Implements `punchline.Scorer`: how many of the funny words a joke has."""

    funny: frozenset[str]
    name: str = "word-critic"

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return the number of distinct funny words; None, no verdict, for an empty joke."""
        spoken = [set(joke.lower().split()) for _, joke in zip(prompts, jokes, strict=True)]
        return [float(len(self.funny & words)) if words else None for words in spoken]


def make(words: str = "moose,cheese,trousers") -> WordCritic:
    """Build the critic; every argument comes from `--critic-arg` as a string.

    Args:
        words: funny words, joined by commas.

    Raises:
        ValueError: no words.
    """
    funny = frozenset(word.strip().lower() for word in words.split(",") if word.strip())
    if not funny:
        raise ValueError(f"words is {words!r}, need at least one word")
    return WordCritic(funny)
