"""Does length control hold while a policy moves? Critics of known bias, a policy of two numbers.

    python -m benchmarks.debias --out docs/debias.md

A policy writes lines of real words: a length ~ Normal(mu, 3) around 12 words and a number of witty
words ~ Binomial(4, p). True quality is known, in standard deviations of the start's lines:

    quality = rho clip(z(length), -2, 2) + c z(witty words) + 0.5 e(line),   e ~ N(0, 1),
    c^2 = 1 - rho^2 - 0.25

so rho is the correlation of quality and length at the start, and what a word is truly worth, up to
a limit. The policy learns from the project's own reward (gates, lift, control; `rewards.reward`) by
natural policy gradient with a leave-one-out baseline and a KL penalty to the start: what it spends
on length is missing for wit. Critics add noise of their own; a biased one pays more for length
without a limit, or SLOT logits for the joke shown first. What is reported:

    quality   gain of expected true quality over the start's, of the last 20 steps' mean policy
    length    words against the start's
    price     what a standard deviation of length earns beside wit, in true quality: the ratio of
              both slopes of the score within prompts, times c; an unbiased critic has rho until
              lines are so long that more is worth nothing
"""

import argparse
import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rewards.build import build_reward
from rewards.control import MODES, ControlConfig, LabelledJoke, fit_slopes
from rewards.fakes import ScorerAsJudge
from rewards.lift import Lifted
from rewards.protocols import Critic
from rewards.reward import CompositeReward
from rewards.text import words
from rewards.types import JokeReward
from rewards.wrappers import BothOrders

Floats = NDArray[np.float64]

START_LENGTH, LENGTH_SD = 12.0, 3.0  # words
SHORTEST, LONGEST = 6, 60  # words
WITTY, START_P = 4, 0.25  # witty words a line: Binomial(4, 0.25)
IDIOSYNCRATIC = 0.5  # sd of the part of quality that the policy cannot learn
LABEL_NOISE = 0.5  # sd of a rating, in sd of quality
CRITIC_NOISE = 0.7  # sd of a critic's own errors
BIAS = 2.0  # what a critic that likes length pays for an sd of it, in sd of quality
JUDGE_BIAS = 1.0  # the same in logits: the longer line wins 73 % (GPT-4 as a judge: 68 %)
SLOT = 3.0  # logits for the first place
RHOS = (0.0, 0.4, -0.4)
PLATEAU = 2.0  # sd of length from the start beyond which length is worth no more and no less
_QUANTILES = np.array([NormalDist().inv_cdf((i + 0.5) / 500) for i in range(500)])

MARKER = "<!-- written by benchmarks/debias.py from here on -->"

_SYLLABLES = [c + v for c in "bdfgklmnprst" for v in "aeiou"]
NEUTRAL = [a + b for a, b in product(_SYLLABLES, repeat=2) if a != b]
WIT = ["z" + word for word in NEUTRAL[:200]]


class World(NamedTuple):
    """What is truly funny."""

    rho: float  # correlation of quality and length at the start, and quality an sd of length

    @property
    def wit(self) -> float:
        """Quality a standard deviation of witty words."""
        return math.sqrt(1 - self.rho**2 - IDIOSYNCRATIC**2)

    def quality(self, prompt: str, joke: str) -> float:
        """True quality, mean 0 and standard deviation 1 at the start."""
        length, wit = features(joke)
        own = IDIOSYNCRATIC * noise("quality", prompt, joke)
        return self.rho * min(max(length, -PLATEAU), PLATEAU) + self.wit * wit + own

    def expected(self, policy: "Policy") -> float:
        """Expected quality of a policy's lines; 0 at the start."""
        sd = math.sqrt(WITTY * START_P * (1 - START_P))
        wit = WITTY * (policy.p - START_P) / sd
        length = (policy.length - START_LENGTH) / LENGTH_SD + _QUANTILES
        worth = float(np.clip(length, -PLATEAU, PLATEAU).mean())
        return self.rho * worth + self.wit * wit


@lru_cache(maxsize=1 << 17)
def features(joke: str) -> tuple[float, float]:
    """Length and number of witty words, standardised by the start's moments."""
    said = words(joke)
    witty = sum(word.startswith("z") for word in said)
    sd = math.sqrt(WITTY * START_P * (1 - START_P))
    return (len(said) - START_LENGTH) / LENGTH_SD, (witty - WITTY * START_P) / sd


@lru_cache(maxsize=1 << 17)
def noise(*content: str) -> float:
    """A standard normal number that depends on the content alone."""
    digest = hashlib.blake2b(repr(content).encode(), digest_size=8).digest()
    return NormalDist().inv_cdf((int.from_bytes(digest, "big") + 0.5) / 2**64)


@dataclass(frozen=True)
class NoisyCritic:
    """A scorer that sees true quality with errors of its own, and likes length."""

    world: World
    bias: float = 0.0
    """What a standard deviation of length earns beyond its worth, in sd of quality."""
    curve: float = 0.0
    """How much more the bias pays a standard deviation, for each one beyond the start's mean."""
    scale: float = 1.0
    """Its scores' unit."""
    name: str = "fake:noisy"

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[float | None]:
        """Return quality, error and bias of each line."""
        scores: list[float | None] = []
        for prompt, joke in zip(prompts, jokes, strict=True):
            length = features(joke)[0]
            liking = self.bias * (length + self.curve * max(length, 0.0) ** 2)
            error = CRITIC_NOISE * noise("critic", prompt, joke)
            scores.append(self.scale * (self.world.quality(prompt, joke) + error + liking))
        return scores


@dataclass
class Policy:
    """Two natural parameters: mean length over its variance, and the logit of p."""

    length: float = START_LENGTH
    p: float = START_P

    def sample(
        self, prompt: str, rng: np.random.Generator, lines: int
    ) -> tuple[list[str], Floats, Floats]:
        """Return `lines` jokes, the lengths before rounding and the numbers of witty words."""
        wanted = rng.normal(self.length, LENGTH_SD, lines)
        witty = rng.binomial(WITTY, self.p, lines)
        jokes = []
        for size, n_witty in zip(np.rint(wanted), witty, strict=True):
            n = int(np.clip(size, SHORTEST, LONGEST))
            kept = rng.choice(prompt.split(), rng.integers(0, 3), replace=False)
            own = [WIT[i] for i in rng.choice(len(WIT), n_witty, replace=False)]
            rest = n - len(kept) - len(own)
            line = [*kept, *own, *(NEUTRAL[i] for i in rng.choice(len(NEUTRAL), rest, False))]
            jokes.append(" ".join(line[i] for i in rng.permutation(n)))
        return jokes, wanted, witty.astype(float)

    def step(
        self, wanted: Floats, witty: Floats, advantages: Floats, *, rate: float, kl: float
    ) -> None:
        """Natural policy gradient on reward minus kl * KL(policy || start).

        Both families are exponential: the penalty's natural gradient is the way back to the start
        in natural parameters, here mu / sd^2 and logit p.
        """
        self.length += rate * (
            float((advantages * (wanted - self.length)).mean()) - kl * (self.length - START_LENGTH)
        )
        spread = WITTY * self.p * (1 - self.p)
        gradient = float((advantages * (witty - WITTY * self.p)).mean()) / spread
        logit = _logit(self.p) + rate * (gradient - kl * (_logit(self.p) - _logit(START_P)))
        self.p = 1 / (1 + math.exp(-min(max(logit, -4.0), 4.0)))


@dataclass(frozen=True)
class Setting:
    """One training run."""

    world: World
    bias: float = 0.0
    curve: float = 0.0
    slot: float = 0.0
    judge: bool = False
    both_orders: bool = True
    control: str = "none"
    window: int = 2048
    calibration_prompts: int = 100
    steps: int = 60
    prompts: int = 8
    """Prompts a step."""
    group: int = 6
    """Jokes a prompt."""
    rate: float = 0.25
    kl: float = 0.3
    """Weight of KL to the start, in rewards (standard deviations of the score) a nat."""


class Outcome(NamedTuple):
    """What came out of a run."""

    quality: float  # true quality over the start's, sd
    length: float  # ratio to the start's
    price_raw: float  # of a standard deviation of length, in the critic's score
    price: float  # the same after control, which the policy sees


def train(setting: Setting, seed: int) -> Outcome:
    """Train a policy and measure the mean of its last 20 steps."""
    rng = np.random.default_rng(seed)
    pool = [_prompt(rng) for _ in range(24)]
    reward = _reward(setting, pool, rng)
    policy = Policy()
    late: list[tuple[float, float, list[str], list[JokeReward], list[int]]] = []
    for step in range(setting.steps):
        asked = [pool[i] for i in rng.choice(len(pool), setting.prompts, replace=False)]
        drawn = [policy.sample(p, rng, setting.group) for p in asked]
        jokes = [j for lines, _, _ in drawn for j in lines]
        verdicts = reward([p for p in asked for _ in range(setting.group)], jokes)
        if step >= setting.steps - 20:
            groups = [step * 100 + k for k in range(len(asked)) for _ in range(setting.group)]
            late.append((policy.length, policy.p, jokes, verdicts, groups))
        advantages = leave_one_out(verdicts, setting.group)
        wanted, witty = (np.concatenate([d[k] for d in drawn]) for k in (1, 2))
        policy.step(wanted, witty, advantages, rate=setting.rate, kl=setting.kl)
    final = Policy(float(np.mean([x[0] for x in late])), float(np.mean([x[1] for x in late])))
    jokes = [j for x in late for j in x[2]]
    verdicts = [v for x in late for v in x[3]]
    groups = [g for x in late for g in x[4]]
    prices = [
        price_of_length(jokes, [getattr(v, column) for v in verdicts], groups, setting.world)
        for column in ("raw", "debiased")
    ]
    quality = setting.world.expected(final)
    return Outcome(quality, final.length / START_LENGTH, prices[0], prices[1])


def leave_one_out(verdicts: Sequence[JokeReward], group: int) -> Floats:
    """Reward minus the mean of the prompt's other scored jokes; 0 for unscored ones."""
    r = np.array([np.nan if v.reward is None else v.reward for v in verdicts]).reshape(-1, group)
    n = (~np.isnan(r)).sum(1, keepdims=True)
    others = (np.nansum(r, axis=1, keepdims=True) - r) / np.maximum(n - 1, 1)
    advantages: Floats = np.nan_to_num(np.where(n > 1, r - others, 0.0)).ravel()
    return advantages


def price_of_length(
    jokes: Sequence[str], scores: Sequence[float | None], groups: Sequence[int], world: World
) -> float:
    """What an sd of length earns in a score, in units of true quality (wit is the yardstick)."""
    known = [i for i, s in enumerate(scores) if s is not None]
    x = np.array([features(jokes[i]) for i in known])
    y = np.array([scores[i] for i in known], dtype=float)
    slope = fit_slopes(x, y, [groups[i] for i in known]).slope
    return float(slope[0] / slope[1] * world.wit)


def _reward(setting: Setting, pool: list[str], rng: np.random.Generator) -> CompositeReward:
    world, start = setting.world, Policy()
    scorer = NoisyCritic(world, setting.bias, setting.curve, 1.0 if setting.judge else 10.0)
    frozen = [_prompt(rng) for _ in range(setting.calibration_prompts)]
    lines = [(p, j) for p in frozen for j in start.sample(p, rng, setting.group)[0]]
    calibration = [
        LabelledJoke(p, j, 3 + world.quality(p, j) + LABEL_NOISE * noise("label", p, j))
        for p, j in lines
    ]
    anchors = {p: start.sample(p, rng, 2)[0] for p in [*pool, *frozen]}
    control = ControlConfig(mode=setting.control, window=setting.window)
    if not setting.judge:
        return build_reward(scorer, {"humor": 1.0}, control=control, calibration=calibration)
    judge = ScorerAsJudge(scorer, setting.slot)
    critic: Critic = BothOrders(judge) if setting.both_orders else judge
    lifted = Lifted(critic, anchors=anchors, group_size=setting.group)
    return CompositeReward(lifted, control=control, calibration=calibration)


def _prompt(rng: np.random.Generator) -> str:
    return " ".join(NEUTRAL[i] for i in rng.choice(len(NEUTRAL), 6, replace=False))


def _logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)


class Row(NamedTuple):
    """A setting with the words of its table row."""

    critic: str
    control: str
    setting: Setting


def scorer_rows(world: World) -> list[Row]:
    """An honest scorer and one that likes length, under every control."""
    return [
        Row(name, mode, Setting(world, bias, control=mode))
        for name, bias in (("honest", 0.0), ("prefers long", BIAS))
        for mode in MODES
    ]


def judge_rows(world: World) -> list[Row]:
    """Judges with a liking for the first slot, for length, for both; one order and both."""
    first = Setting(world, slot=SLOT, judge=True)
    both = replace(first, bias=JUDGE_BIAS)
    one_order = [
        Row("first slot, one order", "none", replace(first, both_orders=False)),
        *(
            Row("first slot and long, one order", m, replace(both, both_orders=False, control=m))
            for m in ("none", "calibrated")
        ),
    ]
    two_orders = [
        *(
            Row("first slot, both orders", m, replace(first, control=m))
            for m in ("none", "calibrated")
        ),
        *(Row("first slot and long, both orders", m, replace(both, control=m)) for m in MODES),
    ]
    honest = Row("honest, both orders", "none", replace(first, slot=0.0))
    return [honest, *one_order, *two_orders]


def limit_rows(world: World) -> list[Row]:
    """Where control has less to go by: few labels, a curved bias, a judge that is all length."""
    few = Setting(world, BIAS, control="calibrated", calibration_prompts=22)
    curved = Setting(world, 0.5, curve=0.5)
    extreme = Setting(world, BIAS, judge=True)
    return [
        Row("honest", "none", Setting(world)),
        Row("prefers long, 132 labels", "calibrated", few),
        Row("curved liking", "none", curved),
        Row("curved liking", "calibrated, frozen", replace(curved, control="calibrated", window=0)),
        Row("curved liking", "calibrated", replace(curved, control="calibrated")),
        Row("honest judge, both orders", "none", replace(extreme, bias=0.0)),
        Row("prefers long, twice as much, both orders", "none", extreme),
        Row("prefers long, twice as much, both orders", "calibrated",
            replace(extreme, control="calibrated")),
    ]  # fmt: skip


def interval(values: Sequence[float], digits: int = 2) -> str:
    """Mean over seeds with Student's 95 % interval."""
    v = np.asarray(values, dtype=float)
    half = stats.t.ppf(0.975, v.size - 1) * v.std(ddof=1) / math.sqrt(v.size)
    value, low, high = (_shown(x, digits) for x in (v.mean(), v.mean() - half, v.mean() + half))
    return f"{value} [{low}, {high}]"


def _shown(x: float, digits: int = 2) -> str:
    return f"{round(float(x), digits) + 0.0:.{digits}f}"  # no minus before a zero


def table(rows: Sequence[Row], outcomes: Sequence[Sequence[Outcome]]) -> list[str]:
    """Markdown; "to honest" is the paired difference in quality to the nearest honest row above.

    Args:
        rows: one a table row; the first is honest and uncontrolled.
        outcomes: of each row, one a seed.
    """
    lines = [
        "| critic | control | quality | to honest | length | price before | price after |",
        "|---|---|---|---|---|---|---|",
    ]
    reference = outcomes[0]
    for row, results in zip(rows, outcomes, strict=True):
        if row.critic.startswith("honest") and row.control == "none":
            reference = results
            difference = "-"
        else:
            pairs = zip(results, reference, strict=True)
            difference = interval([r.quality - h.quality for r, h in pairs])
        quality, length, before, after = zip(*results, strict=True)
        cells = [row.critic, row.control, interval(quality), difference, interval(length)]
        prices = [_shown(np.mean(before)), interval(after)]
        lines.append("| " + " | ".join([*cells, *prices]) + " |")
    return lines


def main() -> None:
    """Run every setting and write the tables below the marker of a page, or print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="page whose text above the marker is kept")
    parser.add_argument("--seeds", type=int, default=5, help="runs a row, >= 2")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds is {options.seeds}, need 2 or more for an interval")
    lines = [MARKER, f"{options.seeds} seeds a row; intervals are 95 %, over seeds."]
    tables = [("Scorers", scorer_rows, rho) for rho in RHOS]
    tables += [("Judges", judge_rows, rho) for rho in RHOS]
    tables += [("Limits", limit_rows, 0.4)]
    for title, make, rho in tables:
        rows = make(World(rho))
        outcomes = []
        for row in rows:
            outcomes.append([train(row.setting, seed) for seed in range(options.seeds)])
            print(f"{title}, rho {rho:+.1f}: {row.critic}, {row.control}", file=sys.stderr)
        lines += ["", f"### {title}, quality and length correlate {rho:+.1f}", ""]
        lines += table(rows, outcomes)
    text = "\n".join(lines) + "\n"
    if options.out is None:
        print(text, end="")
        return
    above = options.out.read_text(encoding="utf-8") if options.out.exists() else ""
    options.out.write_text(above.split(MARKER)[0] + text, encoding="utf-8")


if __name__ == "__main__":
    main()
