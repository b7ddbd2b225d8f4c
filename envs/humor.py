"""`Humor-v0`: a literal sentence comes in, a joke goes out, one reward ends the episode."""

import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from gymnasium.error import ResetNeeded

from envs.prompts import Prompt
from envs.spaces import FreeText
from rewards.types import JokeReward, Reward

ON_UNSCORED = ("raise", "zero")
LONGEST_TEXT = 4096


class UnscoredJokeError(RuntimeError):
    """A joke got no reward and ``on_unscored="raise"``: no number stands for no verdict."""


def as_prompts(prompts: Sequence[str | Prompt]) -> list[Prompt]:
    """Plain sentences become prompts named by their place.

    Raises:
        ValueError: none, two alike (equal texts would form one group), or one that is too long.
    """
    known = [
        p if isinstance(p, Prompt) else Prompt(f"prompt-{i}", p, "own", "")
        for i, p in enumerate(prompts)
    ]
    if not known:
        raise ValueError("the environment needs at least one prompt, got none")
    seen: dict[str, str] = {}
    for p in known:
        if p.text in seen:
            raise ValueError(f"prompts {seen[p.text]!r} and {p.id!r} are the same: {p.text!r}")
        if len(p.text) > LONGEST_TEXT:
            raise ValueError(f"prompt {p.id!r} has {len(p.text)} characters, over {LONGEST_TEXT}")
        seen[p.text] = p.id
    return known


def info_of(verdict: JokeReward) -> dict[str, Any]:
    """A fresh info dictionary of one verdict; see `HumorEnv`."""
    return {
        "reward": verdict.reward,
        "scored": verdict.scored,
        "raw": verdict.raw,
        "debiased": verdict.debiased,
        "gate": verdict.gate,
        "length": verdict.length,
        "recall": verdict.recall,
        **{f"term/{name}": value for name, value in verdict.terms.items()},
    }


class HumorEnv(gym.Env[str, str]):
    """Write one joke for one literal sentence.

    | | |
    |---|---|
    | observation | the prompt, `FreeText(4096)`; after the step still the prompt |
    | action | the joke, `FreeText(4096)`; any text is answered, broken ones by a gate |
    | reward | one number, final; NaN never occurs |
    | ends | `terminated` after one step; never `truncated` |
    | reset | draws a prompt uniformly with `np_random`; `options={"prompt": i}` picks the i-th |

    `info` after `reset`: ``prompt_id``. After `step`: ``reward``, ``raw`` (the critic's lifted
    score), ``debiased`` (after length and overlap control), ``term/NAME`` (each of the weighted
    sum), ``length`` (words), ``recall`` (0-1), ``gate`` (why the critic was not asked, or ""),
    ``scored``, ``prompt_id``. A value that does not exist is None.

    A joke without verdict has ``scored`` False. Agents that can mask use the vector environment;
    here ``on_unscored="raise"`` raises `UnscoredJokeError`, ``"zero"`` gives reward 0.0.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium declares it so

    def __init__(
        self,
        prompts: Sequence[str | Prompt],
        reward: Reward,
        on_unscored: str = "raise",
    ) -> None:
        """Make the environment.

        Args:
            prompts: literal sentences, distinct.
            reward: asked once a step, with one joke.
            on_unscored: ``raise`` or ``zero``.

        Raises:
            ValueError: no prompts, equal prompts, or another `on_unscored`.
        """
        if on_unscored not in ON_UNSCORED:
            raise ValueError(
                f"on_unscored is {on_unscored!r}, allowed are {', '.join(ON_UNSCORED)}"
            )
        self.prompts = as_prompts(prompts)
        self.reward = reward
        self.on_unscored = on_unscored
        self.observation_space = FreeText(LONGEST_TEXT)
        self.action_space = FreeText(LONGEST_TEXT)
        self._prompt: Prompt | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Draw a prompt; `options={"prompt": i}` picks the i-th instead.

        Raises:
            ValueError: the option is no index of a prompt.
        """
        super().reset(seed=seed)
        chosen = (options or {}).get("prompt")
        if chosen is None:
            chosen = int(self.np_random.integers(len(self.prompts)))
        elif not isinstance(chosen, int) or not 0 <= chosen < len(self.prompts):
            raise ValueError(f"option prompt is {chosen!r}, need 0 to {len(self.prompts) - 1}")
        self._prompt = self.prompts[chosen]
        return self._prompt.text, {"prompt_id": self._prompt.id}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Reward the joke and end the episode.

        Raises:
            ResetNeeded: before a reset, or after the end.
            ValueError: the action is not in the space.
            UnscoredJokeError: no verdict and ``on_unscored="raise"``.
        """
        if self._prompt is None:
            raise ResetNeeded("HumorEnv.step needs a reset first: an episode is one joke")
        if not self.action_space.contains(action):
            raise ValueError(f"action is {describe(action)}, need a str in {self.action_space}")
        prompt, self._prompt = self._prompt, None
        (verdict,) = self.reward([prompt.text], [action])
        if verdict.reward is None and self.on_unscored == "raise":
            raise UnscoredJokeError(
                f"no verdict on a joke for prompt {prompt.id!r}; on_unscored='zero' goes on"
            )
        reward = 0.0 if verdict.reward is None else float(verdict.reward)
        if not math.isfinite(reward):
            raise ValueError(f"the reward of prompt {prompt.id!r} is {reward}, need a finite one")
        return prompt.text, reward, True, False, {**info_of(verdict), "prompt_id": prompt.id}


def describe(action: object) -> str:
    """What an action outside the space is, for errors."""
    return f"a text of {len(action)}" if isinstance(action, str) else f"a {type(action).__name__}"
