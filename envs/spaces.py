"""A space of any text. Gymnasium's own `Text` knows neither spaces nor emoji and hates async."""

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

_SAMPLE = " etaoinshrdlucmfwypvbgkqjxz,.'\"!?\n\u00e9\u00fc\u4e16\U0001f600"
"""What samples are made of: letters, marks, a newline, accents, one ideograph, one emoji."""


class FreeText(gym.Space[str]):
    """Every `str` of at most `max_length` code points; emoji, newlines and "" are members.

    Lone surrogates are members too: they are what broken decoders give.
    """

    def __init__(
        self, max_length: int = 4096, seed: int | np.random.Generator | None = None
    ) -> None:
        """Make the space.

        Args:
            max_length: longest member, in code points, >= 1.
            seed: of `sample`.

        Raises:
            ValueError: max_length < 1.
        """
        if max_length < 1:
            raise ValueError(f"FreeText needs max_length >= 1, got {max_length}")
        self.max_length = max_length
        super().__init__(None, None, seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no array of fixed shape."""
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Return a random text of at most 60 characters; there is nothing to mask.

        Raises:
            ValueError: a mask or probabilities are given.
        """
        if mask is not None or probability is not None:
            raise ValueError("FreeText.sample takes neither mask nor probability")
        length = int(self.np_random.integers(min(self.max_length, 60) + 1))
        return "".join(_SAMPLE[i] for i in self.np_random.integers(len(_SAMPLE), size=length))

    def contains(self, x: Any) -> bool:
        """Whether `x` is a text of at most `max_length` code points."""
        return isinstance(x, str) and len(x) <= self.max_length

    def to_jsonable(self, sample_n: Iterable[str]) -> list[str]:
        """Texts are JSON already."""
        return list(sample_n)

    def from_jsonable(self, sample_n: Sequence[Any]) -> list[str]:
        """Undo of `to_jsonable`."""
        return [str(x) for x in sample_n]

    def __eq__(self, other: object) -> bool:
        """Two spaces are equal if they have the same members."""
        return isinstance(other, FreeText) and self.max_length == other.max_length

    def __hash__(self) -> int:
        """Of the longest length."""
        return hash((FreeText, self.max_length))

    def __repr__(self) -> str:
        """As it is made."""
        return f"FreeText(max_length={self.max_length})"
