"""One evaluation: systems write, critics judge, figures are worked out; what evaluate.py does."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from agents.student import Student
from envs.prompts import Prompt, corpus_prompts, teacher_jokes
from evaluation.audit import agreement
from evaluation.evaluate_figures import START, Judged, Setting, figures, plain_values
from evaluation.ladder import BASELINE, is_lost, lost_scores
from evaluation.pairs import to_jsonl
from evaluation.votes import blinded, keys
from rewards.build import parse_critic_args
from rewards.embedded import KINDS, manifest_of
from rewards.ledger import Budget, Ledger
from rewards.pair_verdicts import JokePair, PairAsker
from rewards.protocols import Critic, Scorer
from rewards.types import Rater, Rating
from training.audit_data import corpus_pairs, subsample
from training.evaluation_plan import EvaluationOptions, Plan
from training.kept import critic_key, kept, student_key
from training.parts import as_rater, is_ours, make_critic
from training.run_folder import package_version
from training.selection import rate_jokes
from training.system_lines import (
    Lines,
    Pool,
    Writing,
    score_jokes,
    why_not_ratable,
    write_lines,
)

ACCURACY_PAIRS = 300
"""Judged pairs that show how accurate the critic is on prompts out of distribution."""
OUT_OF_DISTRIBUTION = ("headline", "summary")
RIVALS = (BASELINE, "best-of-4", "teacher")
"""Systems that blind pairs hold the others against."""
DEFAULT_TRAIN_CRITIC = "embedded"
"""Picks best-of-N where no run names a critic."""


class Evaluated(NamedTuple):
    """What an evaluation found."""

    results: dict[str, Any]  # strict JSON
    pairs: str  # blind pairs, JSONL


def evaluate(
    options: EvaluationOptions,
    planned: Plan,
    say: Callable[[str], None],
    look: Callable[[], None],
) -> Evaluated:
    """Write, judge and measure.

    Args:
        options: of the command line.
        planned: what `plan` made of them.
        say: told how far the work is, a line at a time.
        look: called when weights and critic are there, before the first line is written: a look at
            held-out prompts is recorded even if it is broken off, but not where it was refused.

    Raises:
        ValueError: weights, critics or adapters that do not fit.
        BudgetReached: the ledger's budget would be passed; what was answered is kept.
    """
    say(f"loading the student {planned.student}")
    student = Student.load(planned.student, device=options.device)
    budget = Budget(options.max_requests, options.max_tokens_asked, options.max_money)
    ledger = None
    if options.ledger is not None:
        ledger = Ledger(options.ledger, run="evaluate", budget=budget)
    try:
        evaluation = _Evaluation(options, planned, student, ledger, say)
        look()
        return evaluation.run()
    finally:
        if ledger is not None:
            ledger.close()


class _Evaluation:
    """One evaluation on its way: the parts that its steps share."""

    def __init__(
        self,
        options: EvaluationOptions,
        planned: Plan,
        student: Student,
        ledger: Ledger | None,
        say: Callable[[str], None],
    ) -> None:
        self.options, self.plan, self.student, self.say = options, planned, student, say
        self.texts = [p.text for p in planned.prompts]
        self._ledger = ledger
        self._critics: dict[tuple[str, tuple[str, ...]], Critic] = {}
        self._verdicts: dict[tuple[str, ...], Any] = {}
        self.report = self._critic(options.critic, options.critic_arg, "--critic")

    def run(self) -> Evaluated:
        options, planned = self.options, self.plan
        lines, pool = write_lines(planned.systems, planned.runs, self._writing())
        judged = [self._judge(x) for x in lines.values()]
        base_scores = self._base_scores(lines[BASELINE], judged)
        setting = Setting(
            ids=[p.id for p in planned.prompts],
            prompts=self.texts,
            critic=options.critic,
            tie=self._tie(),
            seed=options.seed,
            training_jokes=[j for _, j in teacher_jokes("train")],
            warnings=self._warnings(),
            preferences=None if self._rater() is not None else self._preferences(judged),
            train_tie={name: _tie_of(name) for name in base_scores},
            base_scores=base_scores,
        )
        self.say("working out the figures")
        results: dict[str, Any] = {"version": package_version(), "split": options.split}
        results |= {"seed": options.seed, "critic_arg": list(options.critic_arg)}
        results |= figures(judged, setting)
        rivals = [r for r in RIVALS if r in lines]
        made = blinded(judged, setting, rivals)
        results["blind"] = keys(made, judged, setting)
        results["accuracy"] = self._accuracy()
        results["pool"] = self._pool(pool)
        results["votes"] = None
        return Evaluated(results, to_jsonl(made))

    # ---- critics

    def _critic(self, spec: str, args: Sequence[str], option: str) -> Critic:
        key = (spec, tuple(args))
        if key not in self._critics:
            own = None if is_ours(spec) else self._ledger
            parsed = parse_critic_args(list(args))
            self._critics[key] = make_critic(
                spec, self.student, option=option, args=parsed, ledger=own
            )
        return self._critics[key]

    def _rater(self) -> Rater | None:
        """The reporting critic where it gives numbers; None where it only compares."""
        return as_rater(self.report) if isinstance(self.report, Rater | Scorer) else None

    def _of(self, lines: Lines) -> tuple[str, tuple[str, ...]] | None:
        """Spec and arguments of the critic that trained a system; None: there is none."""
        if self.options.train_critic:
            return self.options.train_critic, self.options.train_critic_arg
        if lines.train_critic is not None:
            return lines.train_critic
        trained = [r.train_critic for r in self.plan.runs.values() if r.train_critic]
        return trained[0] if len(set(trained)) == 1 else None

    def _picker(self) -> tuple[Critic, str]:
        """The critic that best-of-N picks by."""
        trained = {r.train_critic for r in self.plan.runs.values() if r.train_critic}
        if not self.options.train_critic and len(trained) > 1:
            shown = ", ".join(sorted(spec for spec, _ in trained))
            raise ValueError(
                f"best-of-N picks by one training critic, the runs have {shown}; "
                "name one with --train-critic"
            )
        spec, args = self._of(Lines("", [])) or (DEFAULT_TRAIN_CRITIC, ())
        if spec == self.options.critic:
            raise ValueError(f"--critic {spec} would pick best-of-N and report on it too")
        return self._critic(spec, args, "--train-critic"), spec

    def _tie(self) -> float:
        return _tie_of(self.options.critic) if self.options.tie is None else self.options.tie

    def _warnings(self) -> list[str]:
        manifest = self.plan.manifest
        told = []
        if manifest is not None:
            told.append(
                "Win rates are by a distilled critic, so every gain is provisional until an "
                "outside judge or people have voted (--export-pairs, --votes)."
            )
        trained = {r.train_critic[0] for r in self.plan.runs.values() if r.train_critic}
        for spec in sorted(trained):
            found = (manifest or {}).get("error_correlation", {}).get(spec, {}).get("partial")
            if found is not None:
                told.append(
                    f"The errors of {self.options.critic} correlate {found:.2f} with those of "
                    f"{spec}, which trained: part of a gain may be an error they share."
                )
        return told

    # ---- writing and judging

    def _writing(self) -> Writing:
        options, planned = self.options, self.plan
        select: Rater | None = None
        if any(s.kind in ("run", "student") for s in planned.systems):
            if options.decodings != "sampled":
                select = as_rater(self._critic(planned.select_critic, (), "--select-critic"))
        return Writing(
            student=self.student,
            prompts=planned.prompts,
            select_prompts=planned.select,
            select=select,
            jokes=options.jokes,
            max_tokens=planned.max_tokens,
            seed=options.seed,
            select_kept=planned.select_critic if planned.select_critic in KINDS else "",
            decodings=options.decodings,
            kl=options.kl,
            device=options.device,
            train_critic=self._picker,
            say=self.say,
        )

    def _judge(self, lines: Lines) -> Judged:
        """A system with its ratings by the reporting and its scores by the training critic."""
        found = Judged(
            lines.name, lines.jokes, lines.decoding, lines.note,
            labels=lines.labels, kl=lines.kl, tuning=lines.tuning,
            reason=why_not_ratable(lines, self.plan.manifest),
        )  # fmt: skip
        if found.labels is not None:
            return replace(found, reason="")
        rater = self._rater()
        if not found.reason and rater is not None:
            self.say(f"{self.options.critic} rates {lines.name}")
            found = replace(found, ratings=self._ratings(rater, lines))
        of = self._of(lines)
        if not self.options.gap or of is None:
            return replace(found, train_reason="not asked" if of else "no critic trained it")
        spec = of[0]
        critic = self._critic(*of, "--train-critic")
        manifest = manifest_of(spec) if spec in KINDS else None
        why = why_not_ratable(lines, manifest)
        if why or not isinstance(critic, Scorer):
            why = why or f"the training critic {spec} only compares"
            return replace(found, train_reason=why, train_critic=_name(*of))
        self.say(f"{spec}, which trains, scores {lines.name}")
        scores = self._scores(critic, *of, lines)
        return replace(found, train_scores=scores, train_critic=_name(*of))

    def _ratings(self, rater: Rater, lines: Lines) -> list[list[Rating | None]]:
        rated = self._kept(
            "ratings", self.options.critic, self.options.critic_arg, lines,
            lambda: rate_jokes(rater, self.texts, lines.jokes),
        )  # fmt: skip
        return [[None if r is None else Rating(*r) for r in row] for row in rated]

    def _scores(
        self, critic: Scorer, spec: str, args: Sequence[str], lines: Lines
    ) -> list[list[float | None]]:
        scored: list[list[float | None]] = self._kept(
            "scores", spec, args, lines, lambda: score_jokes(critic, self.texts, lines.jokes)
        )
        return scored

    def _kept(
        self, kind: str, spec: str, args: Sequence[str], lines: Lines, ask: Callable[[], Any]
    ) -> Any:
        """Verdicts of a shipped critic: on equal lines once, on the start's once for all.

        Every evaluation needs the start's, and of many runs the best checkpoint is the start.
        """
        if spec not in KINDS or args:
            return ask()
        jokes = [json.dumps([[str(j), is_lost(j)] for j in row]) for row in lines.jokes]
        if lines.name in (START, BASELINE):
            asked = [*student_key(self.student), *critic_key(spec), *self.texts, *jokes]
            return kept(kind, asked, ask)
        known = (kind, spec, *jokes)
        if known not in self._verdicts:
            self._verdicts[known] = ask()
        return self._verdicts[known]

    def _base_scores(
        self, base: Lines, judged: Sequence[Judged]
    ) -> dict[str, list[list[float | None]]]:
        """Scores of start-tuned by every training critic in play."""
        found: dict[str, list[list[float | None]]] = {}
        for (spec, args), critic in self._critics.items():
            name = _name(spec, args)
            if any(j.train_critic == name for j in judged) and isinstance(critic, Scorer):
                own = next((j for j in judged if j.name == base.name), None)
                if own is not None and own.train_critic == name and own.train_scores is not None:
                    found[name] = [list(row) for row in own.train_scores]
                else:
                    found[name] = self._scores(critic, spec, args, base)
        return found

    def _preferences(self, judged: Sequence[Judged]) -> dict[tuple[str, str], list[float | None]]:
        """A critic that only compares: first lines of every two systems, in both orders."""
        asker = PairAsker(self.report, progress=lambda what, n, of: self.say(f"{what}: {n}/{of}"))
        found: dict[tuple[str, str], list[float | None]] = {}
        able = [j for j in judged if j.labels is None and not j.reason]
        for i, b in enumerate(able):
            for a in able[i + 1 :]:
                at = [k for k, row in enumerate(a.jokes) if row and b.jokes[k]]
                pairs = [JokePair(self.texts[k], a.jokes[k][0], b.jokes[k][0]) for k in at]
                answers = asker.ask(pairs, f"{a.name} against {b.name}").mean
                row: list[float | None] = [None] * len(self.texts)
                for k, answer in zip(at, answers, strict=True):
                    row[k] = answer
                found[a.name, b.name] = row
        return found

    def _pool(self, pool: Pool | None) -> dict[str, Any] | None:
        """The best-of-N pool: the training critic's scores and, if asked, the report ratings."""
        if pool is None:
            return None
        rater = self._rater()
        ratings = None
        if self.options.rate_pool and rater is not None:
            self.say(f"{self.options.critic} rates the pool")
            rated = rate_jokes(rater, self.texts, pool.jokes)
            scores = [[None if r is None else r.score for r in row] for row in rated]
            ratings = lost_scores(pool.jokes, scores)
        usable = [  # a lost line is never picked
            [None if is_lost(j) else s for j, s in zip(x, y, strict=True)]
            for x, y in zip(pool.jokes, pool.scores, strict=True)
        ]
        jokes = [[str(j) for j in row] for row in pool.jokes]
        found: dict[str, Any] = plain_values(
            {"jokes": jokes, "train_scores": usable, "ratings": ratings}
        )
        return found

    def _accuracy(self) -> dict[str, Any] | None:
        """Share of judged pairs of these prompts' domain that the reporting critic orders right."""
        options = self.options
        limit = options.accuracy
        if limit is None:
            limit = ACCURACY_PAIRS if options.split in OUT_OF_DISTRIBUTION else 0
        if not limit:
            return None
        pairs = judged_pairs(options.split, self.plan.prompts, self.plan.manifest)
        some = subsample(pairs, limit, "")
        self.say(f"{options.critic} judges {len(some)} labelled pairs of this domain")
        if not some:
            return {"pairs": 0, "accuracy": None, "reason": "no judged pair of these prompts"}
        asker = PairAsker(self.report)
        verdicts = asker.ask([JokePair(p.prompt, p.a, p.b) for p in some]).mean
        found = agreement(
            verdicts, [p.label for p in some], [p.id for p in some],
            np.random.default_rng(options.seed),
        )  # fmt: skip
        told: dict[str, Any] = plain_values(found)
        return told | {"of": len(pairs), "reason": ""}


def judged_pairs(
    split: str, prompts: Sequence[Prompt], manifest: Mapping[str, Any] | None
) -> list[Any]:
    """Labelled pairs of the corpus on these prompts' domain, of lines that the critic may rate.

    Args:
        split: of the evaluation; all but report take the test split's labels, whose prompts are
            held out.
        prompts: of the evaluation; their domain counts, not they themselves.
        manifest: of a distilled critic; None: all sources count.
    """
    domains = {p.domain for p in prompts}
    label_split = "validation" if split == "report" else "test"
    known = {p.id for p in _corpus(label_split) if p.domain in domains}
    found = [p for p in corpus_pairs(label_split) if p.id in known]
    if manifest is None:
        return found

    def allowed(source: str) -> bool:
        return not why_not_ratable(Lines("", [], source=source), manifest)

    return [p for p in found if allowed(p.source_a) and allowed(p.source_b)]


def _corpus(split: str) -> list[Prompt]:
    roles = (
        ("select", "report")
        if split == "validation"
        else ("test-everyday", "test-headline", "test-summary")
    )
    return [p for role in roles for p in corpus_prompts(role)]


def _name(spec: str, args: Sequence[str]) -> str:
    """A training critic in one word or more: the same kind with other arguments is another."""
    return " ".join((spec, *args))


def _tie_of(spec: str) -> float:
    """The tie threshold of a distilled critic; other critics tie where they are equal."""
    return float(manifest_of(spec).get("tie_threshold") or 0.0) if spec in KINDS else 0.0
