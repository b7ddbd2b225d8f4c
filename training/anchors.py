"""Frozen jokes of the start student: what a critic that only compares holds new jokes against."""

import hashlib
from collections.abc import Iterator, Mapping

import torch

from agents.student import Student

ANCHORS = 2
"""Jokes a prompt."""


class StartAnchors(Mapping[str, tuple[str, ...]]):
    """Anchors of any prompt, written when they are first asked for.

    Never the teacher's: a small student wins almost no such pair, so that reward is flat. The
    random numbers depend on the prompt alone, so a resumed run has the same anchors.

    Args:
        student: whose frozen start writes.
        temperature: of sampling.
        max_tokens: of a joke.
    """

    def __init__(self, student: Student, *, temperature: float, max_tokens: int) -> None:
        self._student, self._temperature, self._max_tokens = student, temperature, max_tokens
        self._jokes: dict[str, tuple[str, ...]] = {}

    def __getitem__(self, prompt: str) -> tuple[str, ...]:
        if prompt not in self._jokes:
            digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()
            done = self._student.generate(
                [prompt],
                ANCHORS,
                temperature=self._temperature,
                max_tokens=self._max_tokens,
                generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")),
                start=True,
            )
            self._jokes[prompt] = tuple(done.jokes)
        return self._jokes[prompt]

    def __contains__(self, prompt: object) -> bool:
        return isinstance(prompt, str)

    def __iter__(self) -> Iterator[str]:
        return iter(self._jokes)

    def __len__(self) -> int:
        """Prompts so far, and one: a Mapping without anchors counts as none given."""
        return len(self._jokes) + 1
