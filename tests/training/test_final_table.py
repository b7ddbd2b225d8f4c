from rewards.types import Unfinished
from training.final_table import BEST_OF, best_of

LINES = ["aa", "aaa", "a", "aaaa", "aaaaa"]  # the fifth is beyond the best of four


class CountsLetters:
    """Scores by length; None for lines of the prompt "silent"."""

    def score(self, prompts, jokes):
        return [
            None if p == "silent" else float(len(j)) for p, j in zip(prompts, jokes, strict=True)
        ]


def test_best_of_four_is_picked_by_the_score_and_told_where_none_is():
    cut = [*LINES[:3], Unfinished("aaaa")]
    picked, unknown = best_of(CountsLetters(), ["one", "silent", "two"], [LINES, LINES, cut])
    assert BEST_OF == 4
    assert picked == [["aaaa"], ["aa"], ["aaa"]]
    assert unknown == [1]


def test_a_critic_that_only_compares_picks_nothing():
    class Compares:
        def compare(self, prompts, a, b):
            return [0.5 for _ in a]

    assert best_of(Compares(), ["one"], [LINES]) is None
