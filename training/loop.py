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
from evaluation.select import Evaluation, best_evaluation, should_stop
from rewards.types import Rater, Reward
from training.checkpoint import Checkpoint, prune, save_checkpoint
from training.run_log import RunLog
from training.selection import Look, look, text_metrics

CHECKPOINTS = "checkpoints"
RECENT = 5
"""Updates over which the share of unscored jokes is reckoned."""

ALARM_GATED = 0.30
ALARM_LENGTH = (0.8, 1.25)
ALARM_DISTINCT = 0.85
ALARM_PHRASE = 0.10


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
    history: list[Evaluation] = field(default_factory=list)
    first: dict[str, Any] = field(default_factory=dict)
    """The first look: texts and their metrics, what later ones are compared with."""
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
            self._evaluate()
            self.save()
        self.log.progress.restart_clock()
        with _interrupts() as interrupted:
            while self.agent.step < self.updates and not self.stopped:
                self.forget()
                rollout = self.agent.collect(self.env)
                metrics = self.agent.update(rollout)
                metrics |= getattr(self.reward, "metrics", {})
                self._remember(metrics)
                step = self.agent.step
                looked = step % self.eval_every == 0 or step == self.updates
                if looked:
                    self.forget()
                    metrics |= self._evaluate()
                self.log.scalars(step, metrics)
                self._show(began, metrics)
                failing = self._unscored() > self.max_unscored
                # every step that was looked at may turn out to be the best one
                if step % self.checkpoint_every == 0 or looked or failing or interrupted:
                    self.save()
                if failing:
                    raise TooManyUnscored(
                        f"{self._unscored():.1%} of the jokes of the last {len(self.recent)} "
                        f"updates have no verdict, more than --max-unscored "
                        f"{self.max_unscored:.1%} allows"
                    )
                if interrupted:
                    raise KeyboardInterrupt

    # ---- looking

    def _evaluate(self) -> dict[str, float]:
        now = self.selector.look(self.student)
        prompts = list(self.selector.prompts)
        metrics = text_metrics(prompts, now.jokes, "select")
        metrics["select/rating"] = now.mean
        known = [r for row in now.ratings for r in row if r is not None]
        if known:
            metrics["select/amusing"] = sum(r.amusing for r in known) / len(known)
            metrics["select/fact_kept"] = sum(r.fact for r in known) / len(known)
            metrics["select/out_of_domain_share"] = sum(r.out_of_domain for r in known) / len(known)
        since = [m["reward/mean"] for m in self.recent[-self.eval_every :]]
        finite = [x for x in since if x is not None and math.isfinite(x)]
        self.history.append(
            Evaluation(self.agent.step, now.scores, sum(finite) / len(finite) if finite else 0.0)
        )
        shown = [row[0] for row in now.jokes]
        if not self.first:
            self.first = {"jokes": [str(j) for j in shown], "metrics": metrics}
            self.log.progress.say(f"start: select critic {now.mean:.2f} on {len(prompts)} prompts")
        self.log.texts(self.agent.step, prompts[:10], self.first["jokes"][:10], shown[:10],
                       now.scores[:10])  # fmt: skip
        self._alarm(metrics)
        reason = should_stop(self.history)
        if reason is not None and self.stop_rule:
            self.stopped = str(reason)
            self.log.progress.say(f"stop: {reason}")
        return metrics

    def _alarm(self, metrics: Mapping[str, float]) -> None:
        before = self.first["metrics"]
        ratio = metrics["select/words"] / max(before["select/words"], 1e-9)
        told = []
        if not ALARM_LENGTH[0] <= ratio <= ALARM_LENGTH[1]:
            told.append(f"length is {ratio:.2f} of the start's")
        if metrics["select/distinct_2"] < ALARM_DISTINCT * before["select/distinct_2"]:
            told.append(f"distinct-2 fell to {metrics['select/distinct_2']:.2f}")
        if metrics["select/commonest_4gram"] > ALARM_PHRASE:
            told.append(f"one 4-gram stands in {metrics['select/commonest_4gram']:.0%} of lines")
        if self.recent and self.recent[-1].get("gate/share", 0.0) > ALARM_GATED:
            told.append(f"{self.recent[-1]['gate/share']:.0%} of jokes are gated")
        for text in told:
            self.log.progress.say(f"alarm: {text}")

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
        kept = ("reward/mean", "critic/unscored_rate", "gate/share")
        self.recent.append({k: metrics[k] for k in kept if k in metrics})
        del self.recent[: -max(RECENT, self.eval_every)]

    def _unscored(self) -> float:
        rates = [m.get("critic/unscored_rate", 0.0) for m in self.recent[-RECENT:]]
        return sum(rates) / len(rates) if rates else 0.0

    # ---- state

    @property
    def best_step(self) -> int:
        """Step of the evaluation that the select critic rates highest."""
        best = best_evaluation(self.history)
        return self.history[best].update if best is not None else self.agent.step

    def save(self) -> None:
        """Write a checkpoint; the newest two and the best stay."""
        agent = self.agent.state_dict()
        state = {
            "agent": agent["scalars"],
            "env": self.env.state_dict(),
            "reward": self.reward.state_dict(),
            "history": [[e.update, list(e.scores), e.train_reward] for e in self.history],
            "first": self.first,
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
