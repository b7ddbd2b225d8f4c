"""What a reward and a rating are made of. Plain values: text in, numbers or None out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Unfinished(str):
    """A joke that reached the token limit before the student ended it.

    It is a `str` everywhere; only the gate ``unfinished`` looks at the type, so that environments
    need not know about tokens.
    """

    __slots__ = ()


class Rating(NamedTuple):
    """An absolute rating of one joke by a critic that knows the 0-10 scale of the corpus."""

    score: float  # expected rating, 0-10
    amusing: float  # P(rating >= 4), calibrated, 0-1
    fact: float  # P(the prompt's fact is kept), calibrated, 0-1
    out_of_domain: bool  # the joke lies too far from what the critic was fitted on


@runtime_checkable
class Rater(Protocol):
    """A critic with an absolute scale; tables of amusing share and fact kept need one."""

    def rate(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[Rating | None]:
        """Rate each joke; None where there is no verdict."""
        ...


class JokeReward(NamedTuple):
    """One joke's training reward and what it is made of."""

    reward: float | None  # what the agent learns from; None: unscored, never trains
    raw: float | None  # the critic's lifted score, before length and overlap control
    debiased: float | None  # the same after it
    terms: Mapping[str, float | None]  # every term of the weighted sum, unweighted
    gate: str  # "" = passed, else the name of the gate that answered instead of the critic
    length: int  # words
    recall: float  # share of the prompt's content words kept, 0-1

    @property
    def scored(self) -> bool:
        """Whether there is a reward at all."""
        return self.reward is not None


class Reward(Protocol):
    """What an environment calls: all jokes of a step at once."""

    def __call__(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[JokeReward]:
        """Reward `jokes[i]` for `prompts[i]`; equal prompts form a group."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes with use, JSON-serialisable; part of the checkpoint."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`."""
        ...
