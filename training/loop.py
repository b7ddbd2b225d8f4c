"""The training loop every online agent shares: collect, update, look, log, checkpoint, stop."""

import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from agents.student import Student
from evaluation.bounds import broken_bounds
from evaluation.select import Evaluation, best_evaluation, should_stop
from rewards.types import Rater, Reward
from training.checkpoint import Checkpoint, prune, save_checkpoint
from training.run_log import RunLog
from training.selection import Look, look, rate_jokes, text_metrics

CHECKPOINTS = "checkpoints"
SHOWN = 10
"""Prompts whose jokes are logged as text."""
RECENT = 5
"""Updates over which the share of unscored jokes is reckoned."""

ALARM_GATED = 0.30
UNSCORED = "critic/unscored_rate"


class Agent(Protocol):
    """What the loop needs of an algorithm."""

    step: int

    def collect(self, env: Any) -> Any:
        """Jokes for one step of the environment, rewarded."""
        ...

    def update(self, rollout: Any) -> dict[str, float]:
        """Learn from them; returns metrics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """`tensors` and JSON-serialisable `scalars`."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`."""
        ...


class TooManyUnscored(RuntimeError):
    """The critic failed too often; the run is saved and can be resumed."""


@dataclass(frozen=True)
class Selector:
    """Who looks at the run, on what, and how."""

    critic: Rater
    prompts: Sequence[str]
    jokes: int
    temperature: float
    max_tokens: int
    seed: int

    def look(self, student: Student) -> Look:
        """The student's jokes on the select prompts, rated."""
        return look(
            student, self.critic, self.prompts, self.jokes,
            temperature=self.temperature, max_tokens=self.max_tokens, seed=self.seed,
        )  # fmt: skip

    def look_tuned(self, student: Student, *, start: bool = False) -> Look:
        """One joke a prompt at the start's best decoding; of the untrained student if `start`."""
        return look(
            student, self.critic, self.prompts, 1, start=start,
            temperature=student.tuned_temperature, max_tokens=self.max_tokens, seed=self.seed,
        )  # fmt: skip


@dataclass
class Loop:
    """One run from its present step to its last."""

    folder: Path
    student: Student
    agent: Agent
    env: Any
    reward: Reward
    selector: Selector
    log: RunLog
    updates: int
    jokes_per_update: int
    eval_every: int
    checkpoint_every: int
    max_unscored: float
    stop_rule: bool
    forget: Callable[[], None]
    """Drops everything that is kept only for speed, so that a resumed run repeats every bit."""
    spend: Callable[[], Mapping[str, float]] = dict
    """What outside critics have cost so far, as metrics."""
    history: list[Evaluation] = field(default_factory=list)
    first: dict[str, Any] = field(default_factory=dict)
    """The first look: texts, and the figures of start-tuned that later looks are bounded by."""
    within_bounds: list[int] = field(default_factory=list)
    """Steps of the looks that kept length, recall and diversity near start-tuned's."""
    recent: list[dict[str, float]] = field(default_factory=list)
    stopped: str = ""

    def run(self) -> None:
        """Train until the last update, the stop rule, or Ctrl-C.

        Raises:
            TooManyUnscored: after saving.
            KeyboardInterrupt: after saving, at the end of the update that was going.
        """
        began = self.agent.step
        if not self.history:
            self.log.scalars(0, self._evaluate())
            self.save()
        self._check_asked_once()
        self.log.progress.restart_clock()
        with _interrupts() as interrupted:
            while self.agent.step < self.updates and not self.stopped:
                self.forget()
                rollout = self.agent.collect(self.env)
                metrics = self.agent.update(rollout)
                metrics |= {**getattr(self.reward, "metrics", {}), **self.spend()}
                self._remember(metrics)
                step = self.agent.step
                looked = step % self.eval_every == 0 or step == self.updates
                if looked:
                    self.forget()
                    metrics |= self._evaluate()
                self.log.scalars(step, metrics)
                self._show(began, metrics)
                share, over = self._unscored(), len(self.recent)
                failing = share > self.max_unscored
                if failing and not self._asks_once:  # resumed, it is given as many updates again
                    self.recent = [
                        {k: v for k, v in m.items() if k != UNSCORED} for m in self.recent
                    ]
                # every step that was looked at may turn out to be the best one
                if step % self.checkpoint_every == 0 or looked or failing or interrupted:
                    self.save()
                if failing:
                    raise TooManyUnscored(self._too_many(share, over))
                if interrupted:
                    raise KeyboardInterrupt

    @property
    def _asks_once(self) -> bool:
        """Whether all that the agent ever learns from was judged in its first update."""
        return bool(getattr(self.agent, "asks_once", False))

    def _check_asked_once(self) -> None:
        """What was judged once and badly does not get better when the run is resumed.

        Raises:
            TooManyUnscored: too few of the jokes that everything is learnt from have a verdict.
        """
        share = self._unscored()
        if self._asks_once and share > self.max_unscored:
            raise TooManyUnscored(
                f"{self._too_many(share, 1)}; begin anew with a critic that answers"
            )

    def _too_many(self, share: float, updates: int) -> str:
        return (
            f"{share:.1%} of the jokes of the last {updates} updates have no verdict, more than "
            f"--max-unscored {self.max_unscored:.1%} allows"
        )

    # ---- looking

    def _evaluate(self) -> dict[str, float]:
        now = self.selector.look(self.student)
        prompts = list(self.selector.prompts)
        tuned = self.selector.look_tuned(self.student)
        metrics = text_metrics(prompts, now.jokes, "select")
        metrics |= text_metrics(prompts, tuned.jokes, "tuned")
        metrics["select/rating"], metrics["tuned/rating"] = now.mean, tuned.mean
        known = [r for row in now.ratings for r in row if r is not None]
        if known:
            metrics["select/amusing"] = sum(r.amusing for r in known) / len(known)
            metrics["select/fact_kept"] = sum(r.fact for r in known) / len(known)
            metrics["select/out_of_domain_share"] = sum(r.out_of_domain for r in known) / len(known)
        metrics |= self._winners_curse()
        since = [m["reward/mean"] for m in self.recent[-self.eval_every :]]
        finite = [x for x in since if x is not None and math.isfinite(x)]
        before = self.history[-1].train_reward if self.history else 0.0
        reward = sum(finite) / len(finite) if finite else before  # unknown is neither rise nor fall
        self.history.append(Evaluation(self.agent.step, now.scores, reward))
        shown = [str(row[0]) for row in now.jokes]
        if not self.first:
            start = self.selector.look_tuned(self.student, start=True)
            self.first = {"jokes": shown, "tuned": text_metrics(prompts, start.jokes, "tuned")}
            self.log.progress.say(
                f"start: select critic {now.mean:.2f} on {len(prompts)} prompts; "
                f"start-tuned {start.mean:.2f}"
            )
        self.log.texts(self.agent.step, prompts[:SHOWN], self.first["jokes"][:SHOWN],
                       shown[:SHOWN], now.scores[:SHOWN])  # fmt: skip
        broken = [
            f"{lines}: {bound}"
            for lines, prefix in (("sampled lines", "select"), ("tuned decoding", "tuned"))
            for bound in broken_bounds(metrics, self.first["tuned"], prefix)
        ]
        if not broken or self.agent.step == 0:  # the start itself may always be the best
            self.within_bounds.append(self.agent.step)
        for alarm in broken if self.agent.step else ():
            self.log.progress.say(f"alarm: {alarm}")
        if self.recent and self.recent[-1].get("gate/share", 0.0) > ALARM_GATED:
            self.log.progress.say(f"alarm: {self.recent[-1]['gate/share']:.0%} of jokes are gated")
        reason = should_stop(self.history)
        if reason is not None and self.stop_rule:
            self.stopped = str(reason)
            self.log.progress.say(f"stop: {reason}")
        return metrics

    def _winners_curse(self) -> dict[str, float]:
        """Margins of the last pairs by the training critic, which chose them, and by another."""
        pairs = getattr(self.agent, "last_pairs", [])
        if not pairs:
            return {}
        prompts = [p for p, *_ in pairs]
        jokes = [[chosen, rejected] for _, chosen, rejected, _ in pairs]
        rated = rate_jokes(self.selector.critic, prompts, jokes)
        both = [
            (margin, chosen.score - rejected.score)
            for (*_, margin), (chosen, rejected) in zip(pairs, rated, strict=True)
            if chosen is not None and rejected is not None and math.isfinite(margin)
        ]
        if not both:
            return {}
        return {
            "pairs/margin_train": sum(m for m, _ in both) / len(both),
            "pairs/margin_select": sum(m for _, m in both) / len(both),
        }

    def _show(self, began: int, metrics: Mapping[str, float]) -> None:
        rating = metrics.get("select/rating", self.history_mean())
        parts = {
            "reward": f"{metrics['reward/mean']:+.2f}",
            "critic": f"{metrics.get('reward/raw', math.nan):.2f}",
            "select": f"{rating:.2f}",
            "KL": f"{metrics['policy/kl_per_joke']:.1f}",
            "words": f"{metrics.get('joke/words', math.nan):.1f}",
            "recall": f"{metrics.get('joke/recall', math.nan):.2f}",
            "gated": f"{metrics.get('gate/share', 0.0):.0%}",
        }
        self.log.progress.step(self.agent.step, self.updates, began, parts, self.jokes_per_update)

    def history_mean(self) -> float:
        """The select critic's last mean rating."""
        known = [s for s in self.history[-1].scores if s is not None]
        return sum(known) / len(known) if known else math.nan

    def _remember(self, metrics: Mapping[str, float]) -> None:
        kept = ("reward/mean", UNSCORED, "gate/share")
        self.recent.append({k: metrics[k] for k in kept if k in metrics})
        del self.recent[: -max(RECENT, self.eval_every)]

    def _unscored(self) -> float:
        rates = [m[UNSCORED] for m in self.recent[-RECENT:] if UNSCORED in m]
        return sum(rates) / len(rates) if rates else 0.0

    # ---- state

    @property
    def best_step(self) -> int:
        """Step that the select critic rates highest among those within the bounds."""
        allowed = [e for e in self.history if e.update in self.within_bounds]
        best = best_evaluation(allowed)
        return allowed[best].update if best is not None else self.agent.step

    def save(self) -> None:
        """Write a checkpoint; the newest two and the best stay."""
        agent = self.agent.state_dict()
        state = {
            "agent": agent["scalars"],
            "env": self.env.state_dict(),
            "reward": self.reward.state_dict(),
            "history": [[e.update, list(e.scores), e.train_reward] for e in self.history],
            "first": self.first,
            "within_bounds": self.within_bounds,
            "recent": self.recent,
            "stopped": self.stopped,
            "best_step": self.best_step,
        }
        root = self.folder / CHECKPOINTS
        save_checkpoint(
            root, self.agent.step,
            save_adapter=self.student.save, tensors=agent["tensors"], state=state,
        )  # fmt: skip
        prune(root, keep={self.best_step})

    def restore(self, saved: Checkpoint) -> None:
        """Continue exactly where `saved` was written."""
        from training.checkpoint import ADAPTER

        state = saved.state
        self.student.load_adapter(saved.folder / ADAPTER)
        self.agent.load_state_dict({"tensors": saved.tensors, "scalars": state["agent"]})
        self.env.load_state_dict(state["env"])
        self.reward.load_state_dict(state["reward"])
        self.history = [Evaluation(u, s, r) for u, s, r in state["history"]]
        self.first, self.recent = state["first"], state["recent"]
        self.within_bounds = state["within_bounds"]
        self.stopped = state["stopped"]


class _Flag:
    """Set by Ctrl-C."""

    def __init__(self) -> None:
        self.up = False

    def __bool__(self) -> bool:
        return self.up


@contextmanager
def _interrupts() -> Iterator[_Flag]:
    """The first Ctrl-C lets the update end and be saved; the second acts at once."""
    flag = _Flag()

    def raise_flag(_number: int, _frame: FrameType | None) -> None:
        if flag.up:
            raise KeyboardInterrupt
        flag.up = True

    try:
        before = signal.signal(signal.SIGINT, raise_flag)
    except ValueError:  # not the main thread: signals are somebody else's
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
