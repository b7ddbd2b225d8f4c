"""The control critic: how likely the start student finds a joke, and how much it keeps.

It knows nothing of humor, yet orders most pairs of a weak student's jokes, so a critic that does
not beat it, and a PPO run that does not beat PPO on it, has learned only to sharpen (design
section 7).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rewards.text import recall

if TYPE_CHECKING:
    from models.format import Format
    from models.reader import Reader

INTERCEPT, PER_NAT, PER_RECALL = 2.902, 0.685, 0.535
"""Points, points a nat, points for all of the recall; correlation with validation ratings .385."""


@dataclass(frozen=True)
class LikelihoodRecall:
    """Scorer: least squares on the ratings of 1,162 start lines of the train critic's labels.

    score = INTERCEPT + PER_NAT * mean log p of the joke's tokens + PER_RECALL * recall
    """

    reader: "Reader"
    format: "Format"
    name: str = "likelihood-recall"

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return the fitted rating of each joke, points."""
        readings = self.reader.read(
            [self.format.encode_prompt(p) for p in prompts],
            [self.format.encode_joke(j) for j in jokes],
        )
        at = self.reader.temperatures.index(1.0)
        return [
            INTERCEPT + PER_NAT * float(r.logps[at].mean()) + PER_RECALL * recall(p, j)
            for r, p, j in zip(readings, prompts, jokes, strict=True)
        ]
