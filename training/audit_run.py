"""One audit: ask the critic about labelled pairs, probes and counterfactuals, and measure."""

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.prompts import judged_jokes, teacher_jokes
from evaluation.audit import Cost, Noise, favours, repeat_noise
from evaluation.audit_groups import Audit, LabelledPair, figures, measure
from evaluation.audit_light import traffic_light
from evaluation.bias import AMUSING
from evaluation.calibration import Reliability, reliability
from evaluation.counterfactuals import Change, changes, make_counterfactuals
from evaluation.probes import Outcome, Probe, make_probes, probe_shares
from evaluation.probes import by_recipe as probes_by_recipe
from rewards.calls import ask
from rewards.gates import TeacherIndex, gate
from rewards.pair_verdicts import JokePair, PairAsker, kind_of
from rewards.protocols import Critic
from rewards.types import Rater, Rating
from training.audit_data import OTHER_SOURCES, RL_SOURCES, START_SOURCES, student_lines

NOISE_PAIRS = 100
"""Pairs of the domain that are asked again."""


@dataclass(frozen=True)
class AuditOptions:
    """What an audit does beside asking about its pairs."""

    split: str = "validation"
    """Whose judged lines make probes and counterfactuals."""
    repeats: int = 2
    """How often the same pairs are asked; 1: noise is not measured."""
    probe_repeats: int = 3
    """Prompts a probe recipe is tried on; 0: no probes."""
    counterfactuals: int = 240
    """Changed lines, at most; 0: none."""
    own: str = ""
    """Source of lines that the critic itself wrote."""
    batch: int = 64
    """Questions a call."""
    seed: int = 0
    """Of bootstrap, and of which lines are probed."""

    def __post_init__(self) -> None:
        """Check the counts."""
        for name, least in (("repeats", 1), ("probe_repeats", 0), ("counterfactuals", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}, must be >= {least}"
                )


def run_audit(
    critic: Critic,
    pairs: Sequence[LabelledPair],
    domain: str,
    options: AuditOptions,
    *,
    data: str,
    name: str = "",
    again: Critic | None = None,
    likelihood: Callable[[Sequence[tuple[str, str]]], Sequence[float]] | None = None,
    spent: Callable[[], Mapping[str, float]] | None = None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Audit:
    """Audit a critic.

    Args:
        critic: asked about everything.
        pairs: labelled.
        domain: group of pairs that the light speaks of.
        options: what else is measured.
        data: says which pairs these are.
        name: the critic's, for the report; default: its own.
        again: asked when questions are repeated, for a critic that remembers its answers.
        likelihood: mean log p a token of (prompt, joke) lines, for that baseline.
        spent: tokens and money so far, as "tokens" and "money"; default: the critic's `metrics`.
        say: told how far the work is, a line at a time.
    """

    def progress(what: str, done: int, total: int) -> None:
        say(f"{what}: {done} of {total}")

    asker = PairAsker(critic, batch=options.batch, progress=progress)
    say(f"{name or asker.name}: a {asker.kind}; {len(pairs)} labelled pairs, domain {domain!r}")
    spent = spent or (lambda: _metrics(critic))
    before = spent()
    asked = [JokePair(p.prompt, p.a, p.b) for p in pairs]
    verdicts = asker.ask(asked, "labelled pairs", listwise=True)
    cost = _cost(asker, before, spent())
    noise = _noise(again or critic, pairs, asked, verdicts.mean, domain, options, progress)
    rating = _rating_calibration(critic, asker, pairs, domain, options)
    probes, outcomes = _probed(asker, options)
    changed = _changed(asker, options)
    known = None
    if likelihood is not None:
        lines = list(dict.fromkeys((p.prompt, j) for p in pairs for j in (p.a, p.b)))
        say(f"likelihood of {len(lines)} lines, a baseline")
        known = dict(zip(lines, likelihood(lines), strict=True))
    say("measuring")
    groups = measure(
        pairs, verdicts.first, verdicts.second, verdicts.mean, _rng(options, "groups"),
        compares=asker.kind != "scorer", probabilities=asker.kind == "judge", likelihood=known,
    )  # fmt: skip
    liked = favours(
        verdicts.mean, [p.label for p in pairs], [(p.source_a, p.source_b) for p in pairs],
        [p.id for p in pairs], _rng(options, "favours"),
    )  # fmt: skip
    shares = probe_shares(probes, outcomes, _rng(options, "probes")) if probes else {}
    looked_at = figures(
        groups[domain], noise=noise, own=liked.get(options.own), has_own=bool(options.own),
        probes=shares, changes=changed, rating=rating.get(domain),
    )  # fmt: skip
    return Audit(
        critic=name or asker.name,
        kind=asker.kind,
        data=data,
        domain=domain,
        groups=groups,
        favours=liked,
        own=options.own,
        rating_calibration=rating,
        noise=noise,
        cost=cost._replace(failures=dict(asker.causes)),
        probes=shares,
        recipes=probes_by_recipe(probes, outcomes) if probes else {},
        changes=changed,
        light=traffic_light(looked_at),
    )


def _noise(
    critic: Critic,
    pairs: Sequence[LabelledPair],
    asked: Sequence[JokePair],
    first: Sequence[float | None],
    domain: str,
    options: AuditOptions,
    progress: Callable[[str, int, int], None],
) -> Noise | None:
    """Ask some of the domain's pairs again, with nothing remembered here, and compare."""
    if options.repeats < 2:
        return None
    at = [i for i, p in enumerate(pairs) if p.group == domain][:NOISE_PAIRS]
    same = at
    if kind_of(critic) == "ranker":  # it must see the same lists: whole prompts
        prompts = {asked[i].prompt for i in at}
        same = [i for i, p in enumerate(asked) if p.prompt in prompts]
    wanted = set(at)
    once: list[float | None] = []
    later: list[float | None] = []
    for turn in range(1, options.repeats):
        asker = PairAsker(critic, batch=options.batch, progress=progress)
        mean = asker.ask([asked[i] for i in same], f"again, {turn}", listwise=True).mean
        for i, p in zip(same, mean, strict=True):
            if i in wanted:
                once.append(first[i])
                later.append(p)
    ids = [pairs[i].id for i in at] * (options.repeats - 1)
    return repeat_noise(once, later, ids, _rng(options, "noise"))


def _rating_calibration(
    critic: Critic,
    asker: PairAsker,
    pairs: Sequence[LabelledPair],
    domain: str,
    options: AuditOptions,
) -> dict[str, Reliability]:
    """Calibration of P(rating >= 4) on the corpus' lines, by group of the pairs they stand in."""
    if not isinstance(critic, Rater):
        return {}
    labels = {
        (x.prompt, x.joke): float(x.rating >= AMUSING - 1e-9)
        for x in judged_jokes(options.split, sources=(*START_SOURCES, *RL_SOURCES, *OTHER_SOURCES))
    }
    lines = [
        x for x in dict.fromkeys((p.prompt, j) for p in pairs for j in (p.a, p.b)) if x in labels
    ]
    said: dict[tuple[str, str], float | None] = {}
    for at in range(0, len(lines), options.batch):
        part = lines[at : at + options.batch]
        prompts, jokes = [p for p, _ in part], [j for _, j in part]
        answers: Sequence[Rating | None] | None = ask(
            lambda p=prompts, j=jokes: critic.rate(p, j),  # type: ignore[misc]
            len(part), asker.name, asker.causes,
        )  # fmt: skip
        rated = answers if answers is not None else [None] * len(part)
        said |= {x: None if r is None else r.amusing for x, r in zip(part, rated, strict=True)}
        asker.progress("P(rating >= 4)", at + len(part), len(lines))
    out = {}
    for group in dict.fromkeys(p.group for p in pairs):
        own = dict.fromkeys((p.prompt, j) for p in pairs if p.group == group for j in (p.a, p.b))
        known = [(said[x], labels[x]) for x in own if said.get(x) is not None]
        if known and all(p == p for p, _ in known):
            out[group] = reliability([p for p, _ in known], [y for _, y in known])
    return out


def _probed(asker: PairAsker, options: AuditOptions) -> tuple[list[Probe], list[Outcome]]:
    """Ask about every probe; what gates would stop is asked as well, to know what gates are for."""
    if not options.probe_repeats:
        return [], []
    probes = make_probes(
        student_lines(options.split), repeats=options.probe_repeats, seed=options.seed
    )
    index = TeacherIndex([joke for _, joke in teacher_jokes("train")])
    questions: list[JokePair] = []
    for p in probes:
        questions.append(JokePair(p.prompt, p.attacked, p.clean))
        questions.append(JokePair(p.prompt, p.base, p.clean))
        questions.append(JokePair(p.prompt, p.attacked, p.base))
        questions.append(JokePair(p.prompt, p.filler or p.base, p.base))
    asked = list(dict.fromkeys(q for q in questions if q.a != q.b))
    verdicts = asker.ask(asked, "probes")
    win = dict(zip(asked, verdicts.mean, strict=True))
    margin = dict(zip(asked, verdicts.margin, strict=True))
    outcomes = []
    for i, p in enumerate(probes):
        attack, as_it_was, gain, filler = questions[4 * i : 4 * i + 4]
        outcomes.append(
            Outcome(
                gate=gate(p.prompt, p.attacked, index),
                beats=_wins(win.get(attack, 0.5)),
                unattacked=_wins(win.get(as_it_was, 0.5)),
                gain=margin.get(gain, 0.0) if p.filler else None,
                filler_gain=margin.get(filler, 0.0) if p.filler else None,
            )
        )
    return probes, outcomes


def _changed(asker: PairAsker, options: AuditOptions) -> dict[str, Change]:
    if not options.counterfactuals:
        return {}
    made = make_counterfactuals(
        student_lines(options.split), n=options.counterfactuals, seed=options.seed
    )
    verdicts = asker.ask(
        [JokePair(c.prompt, c.changed, c.original) for c in made], "counterfactuals"
    )
    return changes(made, verdicts.mean, verdicts.margin, _rng(options, "changes"))


def _wins(p: float | None) -> bool | None:
    return None if p is None else p > 0.5


def _cost(asker: PairAsker, before: Mapping[str, float], after: Mapping[str, float]) -> Cost:
    n = max(asker.questions, 1)

    def each(name: str) -> float | None:
        return (after[name] - before.get(name, 0.0)) / n if name in after else None

    return Cost(asker.questions, asker.seconds / n, each("tokens"), each("money"), {})


def _metrics(critic: object) -> dict[str, float]:
    """Tokens and money, where the critic counts them in `metrics`, a mapping or a method."""
    found: Any = getattr(critic, "metrics", None)
    known = found() if callable(found) else found
    if not isinstance(known, Mapping):
        return {}
    costs = ("critic/tokens", "critic/money")
    return {name.split("/")[1]: float(known[name]) for name in costs if name in known}


def _rng(options: AuditOptions, what: str) -> np.random.Generator:
    """A generator of its own for each part, so that leaving one out changes no other."""
    content = repr((options.seed, what)).encode()
    return np.random.default_rng(list(hashlib.sha256(content).digest()))
