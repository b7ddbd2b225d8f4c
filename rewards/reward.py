"""The training reward: gates, critic, lift, length and overlap control, weighted terms."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from rewards.calls import CriticError, ask, ask_numbers, critic_metrics, critic_name
from rewards.control import Control, ControlConfig, LabelledJoke
from rewards.gates import GATES, TeacherIndex, gate
from rewards.lift import Lifted
from rewards.protocols import Critic, Scorer
from rewards.terms import SharedRatings, Stateful
from rewards.text import recall, words
from rewards.types import JokeReward, Rater

HUMOR = "humor"
FLOOR_BELOW = 1.0
"""Gated jokes lie this many standard deviations below the lowest scored calibration joke."""


class CompositeReward:
    """What an environment calls once a step; implements `rewards.types.Reward`.

        reward = w_humor * (debiased - mean) / std + sum over terms of w_t * term_t

    mean and std are those of the debiased scores of the calibration jokes, measured once and frozen
    in the state. A joke with a missing term is unscored (reward None). A gated joke reaches neither
    critic nor terms and gets the floor: the least a calibration joke and the terms could give,
    minus one standard deviation.

    Args:
        critic: a Scorer, Judge or Ranker, or one already lifted.
        humor: weight of the critic, finite and not 0.
        terms: name -> (weight, Scorer); each is logged on its own.
        control: length and overlap control; every mode but ``none`` needs calibration jokes.
        calibration: frozen jokes, labelled for ``calibrated``. Without any, scores keep their scale
            and `floor` is -1 unless given. The critic is asked about them at the first call, not
            when a checkpoint brings their scores.
        teacher_index: teacher jokes that must not be copied.
        rater: who says which jokes are out of domain; the critic itself where it is a `Rater`.
        floor: reward of gated jokes, where the rule above is not wanted.
    """

    def __init__(
        self,
        critic: Critic | Lifted,
        *,
        humor: float = 1.0,
        terms: Mapping[str, tuple[float, Scorer]] | None = None,
        control: ControlConfig | None = None,
        calibration: Sequence[LabelledJoke] = (),
        teacher_index: TeacherIndex | None = None,
        rater: Rater | None = None,
        floor: float | None = None,
    ) -> None:
        """See the class."""
        self.lifted = critic if isinstance(critic, Lifted) else Lifted(critic)
        self.terms = dict(terms or {})
        self.humor = humor
        _check_weights({HUMOR: humor, **{name: w for name, (w, _) in self.terms.items()}})
        if HUMOR in self.terms:
            raise ValueError(f"the term {HUMOR!r} is the critic's; give its weight as humor=")
        self.control = Control(control or ControlConfig(mode="none"))
        if self.control.config.mode != "none" and not calibration:
            raise ValueError(f"control {self.control.config.mode!r} needs calibration jokes")
        inner = self.lifted.critic
        rater = inner if rater is None and isinstance(inner, Rater) else rater
        self._rater = SharedRatings(rater) if isinstance(rater, Rater) else None
        if isinstance(rater, SharedRatings):
            self._rater = rater
        self._teacher_index = teacher_index
        self._calibration = list(calibration)
        self._given_floor = floor
        self._gain, self._bias = 1.0, 0.0
        self._range = (0.0, 0.0)  # of the scaled scores of the calibration jokes
        self._calibrated = not self._calibration
        self._causes: Counter[str] = Counter()
        self._metrics: dict[str, float] = {}

    @property
    def floor(self) -> float:
        """Reward of a gated joke."""
        if self._given_floor is not None:
            return self._given_floor
        least = min(self.humor * z for z in self._range) - abs(self.humor) * FLOOR_BELOW
        return least + math.fsum(
            min(weight * float(getattr(term, "lowest", 0.0)), 0.0)
            for weight, term in self.terms.values()
        )

    @property
    def metrics(self) -> dict[str, float]:
        """Figures of the last call: shares of gates, of unscored and of out-of-domain jokes, means.

        Causes of missing verdicts are counts since the start (``critic/cause/...``).
        """
        return dict(self._metrics)

    def calibrate(self) -> None:
        """Ask the critic about the calibration jokes; fix scale, floor and control. Once only.

        Raises:
            CriticError: fewer than two calibration jokes got a score.
        """
        if self._calibrated:
            return
        kept = [j for j in self._calibration if not gate(j.prompt, j.joke, self._teacher_index)]
        prompts, jokes = [printable(j.prompt) for j in kept], [printable(j.joke) for j in kept]
        raw = self.lifted.score(prompts, jokes)
        if sum(x is not None for x in raw) < 2:
            raise CriticError(
                f"critic {self.lifted.name} scored fewer than 2 of {len(kept)} calibration jokes "
                f"({dict(self.lifted.causes)})"
            )
        self.control.calibrate(kept, raw)
        debiased = np.array(
            [x for x in self.control.apply(prompts, jokes, raw) if x is not None], dtype=float
        )
        std = float(debiased.std())
        self._gain = 1 / std if std > 1e-9 else 1.0  # a constant critic keeps its scale
        self._bias = -float(debiased.mean())
        scaled = (debiased + self._bias) * self._gain
        self._range = (float(scaled.min()), float(scaled.max()))
        self._calibrated = True

    def __call__(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[JokeReward]:
        """Reward `jokes[i]` for `prompts[i]`; equal prompts form a group.

        Raises:
            ValueError: lengths differ, a critic that compares jokes has a lone one and no anchors,
                or a critic's answer has the wrong length.
        """
        if len(prompts) != len(jokes):
            raise ValueError(f"the reward got {len(prompts)} prompts and {len(jokes)} jokes")
        if self.lifted.needs_anchor_for_gae and 1 in Counter(prompts).values():
            self.lifted.refuse_lone_jokes()
        self.calibrate()
        gates = [gate(p, j, self._teacher_index) for p, j in zip(prompts, jokes, strict=True)]
        passed = [i for i, cause in enumerate(gates) if not cause]
        ps, js = [printable(prompts[i]) for i in passed], [printable(jokes[i]) for i in passed]
        raw = self.lifted.score(ps, js)
        debiased = self.control.apply(ps, js, raw)
        humor = [None if x is None else (x + self._bias) * self._gain for x in debiased]
        values = {HUMOR: humor, **self._term_values(ps, js)}
        weights = {HUMOR: self.humor, **{name: w for name, (w, _) in self.terms.items()}}
        rewards = [self._gated(prompts[i], jokes[i], gates[i]) for i in range(len(jokes))]
        for place, i in enumerate(passed):
            terms = {name: column[place] for name, column in values.items()}
            rewards[i] = rewards[i]._replace(
                reward=weighted_sum(terms, weights),
                raw=raw[place],
                debiased=debiased[place],
                terms=terms,
            )
        self.control.observe(ps, js, raw)  # after it was applied: never its own batch
        self._metrics = self._summary(rewards, self._out_of_domain(ps, js))
        return rewards

    def forget(self) -> None:
        """Drop ratings kept for speed; what is kept must not decide how a resumed run adds up."""
        if self._rater is not None:
            self._rater.forget()

    def state_dict(self) -> dict[str, Any]:
        """Scale, control, state of critic and terms, and counts, JSON-serialisable."""
        critic = self.lifted.critic
        return {
            "calibrated": self._calibrated,
            "scale": [self._gain, self._bias, *self._range],
            "control": self.control.state_dict(),
            "terms": {
                name: term.state_dict()
                for name, (_, term) in self.terms.items()
                if isinstance(term, Stateful)
            },
            "critic": critic.state_dict() if isinstance(critic, Stateful) else None,
            "causes": [dict(self._causes), dict(self.lifted.causes)],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`.

        Raises:
            ValueError: the state has other stateful terms than this reward.
        """
        stateful = {n: t for n, (_, t) in self.terms.items() if isinstance(t, Stateful)}
        if set(stateful) != set(state["terms"]):
            raise ValueError(
                f"the state has the terms {sorted(state['terms'])}, need {sorted(stateful)}"
            )
        self._calibrated = bool(state["calibrated"])
        self._gain, self._bias, *edges = state["scale"]
        self._range = (edges[0], edges[1])
        self.control.load_state_dict(state["control"])
        for name, term in stateful.items():
            term.load_state_dict(state["terms"][name])
        if isinstance(self.lifted.critic, Stateful) and state.get("critic") is not None:
            self.lifted.critic.load_state_dict(state["critic"])
        for counter, counts in zip(
            (self._causes, self.lifted.causes), state["causes"], strict=True
        ):
            counter.clear()
            counter.update(counts)

    def _gated(self, prompt: str, joke: str, cause: str) -> JokeReward:
        terms: dict[str, float | None] = dict.fromkeys((HUMOR, *self.terms))
        kept = recall(prompt, joke)
        return JokeReward(self.floor, None, None, terms, cause, len(words(joke)), kept)

    def _term_values(self, prompts: list[str], jokes: list[str]) -> dict[str, list[float | None]]:
        values = {}
        for name, (_, term) in self.terms.items():
            label = f"term {name} ({critic_name(term)})"
            call = partial(term.score, prompts, jokes)
            values[name] = ask_numbers(call, len(jokes), label, self._causes)
        return values

    def _out_of_domain(self, prompts: list[str], jokes: list[str]) -> float | None:
        rater = self._rater
        if rater is None or not jokes:
            return None
        answers = ask(lambda: rater.rate(prompts, jokes), len(jokes), rater.name, self._causes)
        known = [rating.out_of_domain for rating in answers or () if rating is not None]
        return sum(known) / len(known) if known else None

    def _summary(self, rewards: list[JokeReward], out_of_domain: float | None) -> dict[str, float]:
        n = max(len(rewards), 1)
        causes = Counter(r.gate for r in rewards if r.gate)
        summary = {
            "critic/unscored_rate": sum(not r.scored for r in rewards) / n,
            "gate/share": causes.total() / n,
            **{f"gate/{cause}": causes[cause] / n for cause in GATES},
        }
        if out_of_domain is not None:
            summary["critic/out_of_domain_share"] = out_of_domain
        columns = {"raw": [r.raw for r in rewards], "debiased": [r.debiased for r in rewards]}
        columns |= {f"term/{t}": [r.terms[t] for r in rewards] for t in (HUMOR, *self.terms)}
        columns["total"] = [r.reward for r in rewards]
        for name, column in columns.items():
            known = [x for x in column if x is not None]
            if known:
                summary[f"reward/{name}"] = math.fsum(known) / len(known)
        for cause, count in (self._causes + self.lifted.causes).items():
            summary[f"critic/cause/{cause}"] = float(count)
        return summary | critic_metrics(self.lifted.critic) | self.control.metrics


def weighted_sum(terms: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """Sum of weight times term; None as soon as one term is None."""
    products = [None if x is None else weights[name] * x for name, x in terms.items()]
    return None if None in products else math.fsum(x for x in products if x is not None)


def printable(text: str) -> str:
    """`text` without lone surrogates, which critics that write UTF-8 would choke on."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _check_weights(weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight == 0:
            raise ValueError(f"the weight of term {name} is {weight}, need a finite number, not 0")
