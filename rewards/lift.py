"""Any critic as one number a joke: what the three questions are lifted to before they are rewards.

A Scorer stays as it is. A Judge gives the mean probability of winning and a Ranker the share of
others ranked below (ties half), against frozen anchors of the prompt and, if wished, the group's
other jokes. Both live in [0, 1].
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rewards.calls import as_number, ask, ask_numbers, checked_length, critic_name
from rewards.protocols import Critic, Judge, Ranker, Scorer
from rewards.text import is_near_copy

CLIPS = ("none", "literal")
HARD = 1e-2
"""Win probabilities are kept in [HARD, 1 - HARD]: a hard verdict is not infinite evidence."""
RIDGE = 1e-2
"""Pull of Bradley-Terry strengths towards 0: finite strengths for a joke that won every pair."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Lifted:
    """A critic of any kind as a Scorer; equal prompts in one call form a group.

    A near-copy of its prompt gets at most the plain prompt's own score. With ``clip="literal"`` a
    score is max(0, score - score of the plain prompt), so that a restatement earns nothing.
    """

    critic: Critic
    anchors: Mapping[str, Sequence[str]] | None = None
    """Frozen jokes of a prompt that every joke is compared with; a Scorer needs none."""
    use_group: bool = True
    """Whether a joke's opponents include the other jokes of its group."""
    clip: str = "none"
    group_size: int | None = None
    """Jokes a prompt, where it is known: 1 is refused for a Judge or Ranker without anchors."""
    causes: Counter[str] = field(default_factory=Counter, compare=False)
    """Why answers are missing, counted over the life of the object."""

    def __post_init__(self) -> None:
        """Refuse a critic that could not be lifted."""
        if self.clip not in CLIPS:
            raise ValueError(f"clip is {self.clip!r}, allowed are {', '.join(CLIPS)}")
        if not isinstance(self.critic, Scorer | Judge | Ranker):
            raise ValueError(f"critic {self.name} has none of the methods score, compare and rank")
        if self.is_relative and not self.anchors:
            if not self.use_group:
                raise ValueError(f"critic {self.name} compares jokes: it needs anchors or a group")
            if self.group_size == 1:
                self.refuse_lone_jokes()

    @property
    def name(self) -> str:
        """The critic's name."""
        return critic_name(self.critic)

    @property
    def is_relative(self) -> bool:
        """Whether the critic compares jokes instead of scoring each alone."""
        return not isinstance(self.critic, Scorer)

    @property
    def needs_anchor_for_gae(self) -> bool:
        """Means over the group alone sum to a constant: nothing for a value head to learn."""
        return self.is_relative and not self.anchors

    def refuse_lone_jokes(self) -> None:
        """Raise the error for a group of one joke that has nothing to be compared with.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"critic {self.name} compares jokes: one joke a prompt needs anchors (got group size 1)"
        )

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return one finite number a joke, higher is funnier; None without a verdict.

        Without anchors, a joke that is alone in its group has no opponent and stays None.

        Raises:
            ValueError: lengths differ, a prompt has no anchors though anchors were given, or the
                critic's answers have the wrong length.
        """
        if len(prompts) != len(jokes):
            raise ValueError(f"score got {len(prompts)} prompts and {len(jokes)} jokes")
        near = [is_near_copy(p, j) for p, j in zip(prompts, jokes, strict=True)]
        wanted = set(prompts) if self.clip == "literal" else set()
        wanted |= {p for p, n in zip(prompts, near, strict=True) if n}
        literals = [p for p in dict.fromkeys(prompts) if p in wanted]
        if isinstance(self.critic, Scorer):
            raw, plain = self._score_alone(self.critic, prompts, jokes, literals)
        else:
            raw, plain = self._score_against(prompts, jokes, literals)
        return [
            self._finish(score, n, plain[p]) if n or self.clip == "literal" else score
            for score, p, n in zip(raw, prompts, near, strict=True)
        ]

    def _finish(self, score: float | None, near: bool, plain: float | None) -> float | None:
        """Hold a score against the plain prompt's own; without that there is no verdict."""
        if score is None or plain is None:
            return None
        if near:
            score = min(score, plain)
        return max(0.0, score - plain) if self.clip == "literal" else score

    def _score_alone(
        self, critic: Scorer, prompts: Sequence[str], jokes: Sequence[str], literals: list[str]
    ) -> tuple[list[float | None], dict[str, float | None]]:
        asked = list(zip([*prompts, *literals], [*jokes, *literals], strict=True))
        unique = list(dict.fromkeys(asked))
        questions = [p for p, _ in unique], [j for _, j in unique]
        values = ask_numbers(lambda: critic.score(*questions), len(unique), self.name, self.causes)
        known = dict(zip(unique, values, strict=True))
        return [known[x] for x in asked[: len(jokes)]], {p: known[p, p] for p in literals}

    def _score_against(
        self, prompts: Sequence[str], jokes: Sequence[str], literals: list[str]
    ) -> tuple[list[float | None], dict[str, float | None]]:
        groups: dict[str, list[int]] = {}
        for i, prompt in enumerate(prompts):
            groups.setdefault(prompt, []).append(i)
        tables = [
            _Table(
                prompt,
                [jokes[i] for i in members],
                self._anchors_of(prompt),
                prompt in literals,
                self.use_group,
            )
            for prompt, members in groups.items()
        ]
        if isinstance(self.critic, Judge):
            self._fill_by_judge(self.critic, tables)
        elif isinstance(self.critic, Ranker):
            self._fill_by_ranker(self.critic, tables)
        scores: list[float | None] = [None] * len(jokes)
        plain: dict[str, float | None] = {}
        for table, members in zip(tables, groups.values(), strict=True):
            for place, i in enumerate(members):
                scores[i] = table.mean(place)
            if table.literal:
                plain[table.prompt] = table.mean(len(table.texts) - 1)
        return scores, plain

    def _anchors_of(self, prompt: str) -> list[str]:
        if not self.anchors:
            return []
        if not self.anchors.get(prompt):
            raise ValueError(f"critic {self.name} has no anchors for the prompt {prompt!r}")
        return list(self.anchors[prompt])

    def _fill_by_judge(self, critic: Judge, tables: list["_Table"]) -> None:
        asked = [
            (table.prompt, *pair) for table in tables for pair in table.pairs()
        ]  # one direction; the other is 1 - p
        if not asked:
            return
        columns = [[x[k] for x in asked] for k in range(3)]
        values = ask_numbers(
            lambda: critic.compare(*columns), len(asked), self.name, self.causes, low=0.0, high=1.0
        )
        known = dict(zip(asked, values, strict=True))
        for table in tables:
            table.fill(
                {(a, b): known[table.prompt, a, b] for a, b in table.pairs()},
            )

    def _fill_by_ranker(self, critic: Ranker, tables: list["_Table"]) -> None:
        asked = [table for table in tables if len(set(table.texts)) > 1]
        groups = [list(dict.fromkeys(table.texts)) for table in asked]
        if not asked:
            return
        prompts = [table.prompt for table in asked]
        answers = ask(lambda: critic.rank(prompts, groups), len(asked), self.name, self.causes)
        if answers is None:
            return
        for table, group, answer in zip(asked, groups, answers, strict=True):
            if answer is None:
                self.causes["no verdict"] += 1
                continue
            checked = checked_length(answer, len(group), self.name)
            place = {
                text: as_number(x, self.causes, name=self.name)
                for text, x in zip(group, checked, strict=True)
            }
            table.fill({(a, b): _beats(place[a], place[b]) for a, b in table.pairs()}, hard=True)


def _beats(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return None
    return 0.5 if a == b else float(a > b)


class _Table:
    """Who beats whom at one prompt: jokes first, then anchors, then (on demand) the prompt."""

    def __init__(
        self, prompt: str, jokes: list[str], anchors: list[str], literal: bool, use_group: bool
    ) -> None:
        """Lay out who meets whom; nothing is asked yet."""
        self.prompt = prompt
        self.literal = literal
        self.texts = [*jokes, *anchors, *([prompt] if literal else [])]
        n, k, end = len(self.texts), len(jokes), len(jokes) + len(anchors)
        self.meets = np.zeros((n, n), dtype=bool)  # whose mean takes in whom
        self.meets[:, k:end] = True
        self.meets[k:end, k:end] = False
        if use_group:
            self.meets[:k, :k] = self.meets[end:, :k] = True
        np.fill_diagonal(self.meets, False)
        self.wins: Floats = np.full((n, n), np.nan)
        for i, a in enumerate(self.texts):
            for j, b in enumerate(self.texts):
                if a == b:
                    self.wins[i, j] = 0.5  # a joke against itself needs no critic

    def pairs(self) -> list[tuple[str, str]]:
        """The distinct pairs to ask about, each in one direction."""
        found: dict[tuple[str, str], None] = {}
        for i, j in zip(*np.nonzero(self.meets | self.meets.T), strict=True):
            a, b = self.texts[i], self.texts[j]
            if a != b and (b, a) not in found:
                found[a, b] = None
        return list(found)

    def fill(self, verdicts: Mapping[tuple[str, str], float | None], *, hard: bool = False) -> None:
        """Enter P(a beats b) for each asked pair; `hard` verdicts of a rank stay 0 and 1."""
        edge = 0.0 if hard else HARD
        for i, a in enumerate(self.texts):
            for j, b in enumerate(self.texts):
                p = verdicts.get((a, b))
                if p is not None:
                    p = min(max(p, edge), 1 - edge)
                    self.wins[i, j], self.wins[j, i] = p, 1 - p
        missing = self.meets & np.isnan(self.wins)
        if missing.any():
            expected = expected_wins(self.wins)
            self.wins = np.where(missing, expected, self.wins)

    def mean(self, i: int) -> float | None:
        """Mean win probability of text `i` over its opponents; None where it has none it can meet.

        An opponent that nobody could be compared with is left out for all alike; a text that is cut
        off from an opponent that others could be compared with has no verdict.
        """
        opponents = [j for j in np.flatnonzero(self.meets[i]) if self._is_known(int(j))]
        values = self.wins[i, opponents]
        return None if not opponents or np.isnan(values).any() else float(values.mean())

    def _is_known(self, j: int) -> bool:
        column = self.wins[self.meets[:, j], j]
        others = np.array([t != self.texts[j] for t in self.texts])[self.meets[:, j]]
        return bool((~np.isnan(column[others])).any() or not others.any())


def expected_wins(wins: Floats) -> Floats:
    """Bradley-Terry win probabilities of players from a partly observed table.

    Maximises sum over observed pairs of w_ij log sigmoid(s_i - s_j), w the (soft) wins, minus
    RIDGE/2 |s|^2, by Newton steps.

    Args:
        wins: (n, n) P(i beats j), NaN where it was not observed.

    Returns:
        (n, n) sigmoid(s_i - s_j); NaN between players that no chain of observed pairs connects.

    Source: Bradley and Terry 1952; Hunter 2004, doi:10.1214/aos/1079120141.
    """
    n = len(wins)
    seen = ~np.isnan(wins)
    np.fill_diagonal(seen, False)
    w = np.where(seen, wins, 0.0)
    s: Floats = np.zeros(n)
    for _ in range(50):
        p = 1 / (1 + np.exp(s[None, :] - s[:, None]))
        gradient = np.where(seen, w - p, 0.0).sum(1) - RIDGE * s
        weight = np.where(seen, p * (1 - p), 0.0)
        hessian = np.diag(weight.sum(1) + RIDGE) - weight
        step = np.linalg.solve(hessian, gradient)
        s = s + np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-10:
            break
    connected = seen | np.eye(n, dtype=bool)
    for _ in range(n.bit_length()):  # squaring a boolean reach matrix doubles the chains' length
        connected = connected @ connected
    return np.where(connected, 1 / (1 + np.exp(s[None, :] - s[:, None])), np.nan)
