"""TRL's reward functions (TRL 1.16, GRPO and RLOO): a critic as one, and one as a critic."""

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rewards.calls import as_numbers, ask_numbers, critic_name
from rewards.foreign import (
    ForeignCounts,
    Numbers,
    Text,
    declared,
    gathered,
    message,
    refuse_unsupplied,
    text_of,
)
from rewards.lift import Lifted
from rewards.prior import PriorRemoved
from rewards.protocols import Critic, Judge, Ranker, Scorer
from rewards.types import Reward
from rewards.wrappers import BothOrders


class TRLReward:
    """A critic as a TRL reward function; made by `to_trl_reward`."""

    def __init__(self, critic: Critic | Reward, name: str, column: str) -> None:
        """See `to_trl_reward`."""
        if isinstance(critic, Judge) and not isinstance(critic, Scorer | BothOrders | PriorRemoved):
            critic = BothOrders(critic)
        if isinstance(critic, Judge | Ranker) and not isinstance(critic, Scorer):
            critic = Lifted(critic)
        if isinstance(critic, type) or not (isinstance(critic, Scorer) or callable(critic)):
            raise ValueError(
                f"to_trl_reward got a {type(critic).__name__}, need a critic or reward"
            )
        self.critic: Scorer | Reward = critic
        self.__name__ = name or critic_name(critic)
        self.counts = ForeignCounts()
        self._column = column

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **kwargs: Any
    ) -> Numbers:
        """Return one reward a completion; None without a verdict.

        Raises:
            ValueError: lengths differ, the column is missing, or the critic's answers are wrong.
        """
        if len(prompts) != len(completions):
            raise ValueError(f"got {len(prompts)} prompts and {len(completions)} completions")
        if self._column and self._column not in kwargs:
            raise ValueError(f"{self.__name__} reads column {self._column!r}, the data has none")
        sentences = kwargs[self._column] if self._column else [text_of(p, "user") for p in prompts]
        jokes = [text_of(c, "assistant") for c in completions]
        rewards = self._rewards(sentences, jokes)
        if "log_metric" in kwargs and rewards:
            missing = sum(x is None for x in rewards)
            kwargs["log_metric"]("critic/unscored_rate", missing / len(rewards))
        return rewards

    def _rewards(self, prompts: Sequence[str], jokes: Sequence[str]) -> Numbers:
        if isinstance(self.critic, Scorer):
            call: Callable[[], Sequence[object]] = partial(self.critic.score, prompts, jokes)
            return ask_numbers(call, len(jokes), self.__name__, self.counts.causes)
        return [joke.reward for joke in self.critic(prompts, jokes)]


class AsyncTRLReward(TRLReward):
    """The same as a coroutine function: the critic works in a thread, beside other functions."""

    async def __call__(  # type: ignore[override]
        self, prompts: Sequence[Text], completions: Sequence[Text], **kwargs: Any
    ) -> Numbers:
        """Return one reward a completion; None without a verdict."""
        return await asyncio.to_thread(super().__call__, prompts, completions, **kwargs)


def to_trl_reward(
    critic: Critic | Reward, *, name: str = "", column: str = "", run_async: bool = False
) -> TRLReward:
    """A critic, or a whole reward with gates and terms, as `reward_funcs` of a TRL trainer.

    A Scorer answers as it is. A Judge (in both orders) and a Ranker are lifted over the completions
    of equal prompts; for anchors pass a `Lifted`. Strings and chat messages are read, the share
    without a verdict is logged where TRL offers `log_metric`.

    None stays None. Beware of several reward functions at once: TRL (1.16, GRPO) leaves a
    completion out only if *all* of them say None, else the missing one counts 0. Join terms in one
    `CompositeReward` instead.

    Args:
        critic: the critic or reward.
        name: in TRL's logs; by default the critic's.
        column: dataset column with the literal sentence, where the prompt holds more than that; by
            default the prompt itself, or its last user message.
        run_async: return a coroutine function (GRPO and RLOO run it beside others; online DPO
            knows none).

    Raises:
        ValueError: neither a critic nor a reward.
    """
    return (AsyncTRLReward if run_async else TRLReward)(critic, name, column)


class FromTRL:
    """A `Scorer` made of a TRL reward function; made by `from_trl_reward`."""

    def __init__(
        self,
        func: Callable[..., Any],
        name: str,
        chat: bool,
        columns: Callable[[str], Mapping[str, object]] | None,
        encode: Callable[[str], list[int]] | None,
    ) -> None:
        """See `from_trl_reward`."""
        if not callable(func) or hasattr(func, "forward"):
            raise ValueError(f"from_trl_reward needs a function, got a {type(func).__name__}")
        self.name = name or critic_name(func)
        self.counts = ForeignCounts()
        self.metrics: dict[str, float] = {}
        self._func, self._chat, self._columns, self._encode = func, chat, columns, encode
        ids = inspect.signature(func).parameters.get("completion_ids")
        if encode is None and ids is not None and ids.default is ids.empty:
            raise ValueError(f"{self.name} reads completion_ids: give encode=, text -> token ids")
        supplied = {"prompts", "completions", "completion_ids", "log_extra", "log_metric"}
        refuse_unsupplied(func, supplied, self.name, known=columns is not None)

    def score(self, prompts: Sequence[str], jokes: Sequence[str]) -> Numbers:
        """Return the function's rewards; None and NaN are no verdict.

        Raises:
            ValueError: lengths differ, or the function gave another number of answers.
        """
        if len(prompts) != len(jokes):
            raise ValueError(f"score got {len(prompts)} prompts and {len(jokes)} jokes")
        if not jokes:
            return []
        given: dict[str, Any] = {
            "prompts": [message("user", p, self._chat) for p in prompts],
            "completions": [message("assistant", j, self._chat) for j in jokes],
            "log_extra": lambda column, values: None,
            "log_metric": self.metrics.__setitem__,
        }
        if self._encode is not None:
            given["completion_ids"] = [self._encode(joke) for joke in jokes]
        if self._columns is not None:
            rows = [self._columns(p) for p in prompts]
            given |= {column: [row[column] for row in rows] for column in rows[0]}
        answers = self._func(**declared(self._func, given))
        if inspect.isawaitable(answers):
            (answers,) = gathered([answers])
            if isinstance(answers, BaseException):
                raise answers
        return as_numbers(answers, len(jokes), self.name, self.counts.causes)


def from_trl_reward(
    func: Callable[..., Any],
    *,
    name: str = "",
    chat: bool = False,
    columns: Callable[[str], Mapping[str, object]] | None = None,
    encode: Callable[[str], list[int]] | None = None,
) -> Scorer:
    """A TRL reward function, plain or async, as a `Scorer`.

    It is called with keywords, as TRL does, and gets those it declares (all with ``**kwargs``).
    Failures follow `rewards.calls`: CriticError and OSError are no verdict, others are bugs.

    Args:
        func: ``f(prompts, completions, **kwargs) -> list[float | None]``.
        name: for logs; by default the function's.
        chat: hand over chat messages instead of strings.
        columns: prompt -> its dataset row, for functions that read other columns.
        encode: joke -> token ids, for functions that read ``completion_ids``.

    Raises:
        ValueError: no function, or it needs an argument that nobody supplies; fix such a one
            (``trainer_state``) with `functools.partial`.
    """
    return FromTRL(func, name, chat, columns, encode)
