"""The native vector form of `Humor-v0`: K jokes for each of P prompts, one reward call a step."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.humor import LONGEST_TEXT, as_prompts, describe, info_of
from envs.prompts import Prompt
from envs.spaces import FreeText
from rewards.types import JokeReward, Reward

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Step = tuple[tuple[str, ...], Floats, Bools, Bools, dict[str, Any]]
MODES = (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)


class HumorVectorEnv(VectorEnv[tuple[str, ...], Sequence[str], NDArray[Any]]):
    """`num_prompts` x `group_size` jokes a step, rewarded by one call; every episode is one step.

    | | |
    |---|---|
    | observations | tuple of `num_envs` prompts; the K of a group stand together |
    | actions | `num_envs` jokes, any text |
    | rewards | (num_envs,) float64, final on return; NaN where unscored: mask with `info["scored"]` |
    | ends | all terminate in every step |
    | autoreset | ``SAME_STEP`` (default): next prompts are returned, `final_obs` and `final_info` keep the old; ``DISABLED``: `reset` before the next step, by whole groups with `reset_mask` |

    Prompts come in shuffled epochs from `np_random`: each once before any comes again, no prompt
    twice in one step. `state_dict` holds the place in that order.

    Infos are in Gymnasium's vector style, arrays with `_key` masks: ``group`` (int, which of the
    `num_prompts`), ``prompt_id`` (of the returned observations), and after a step the keys of
    `HumorEnv` for the jokes just judged, floats as NaN with mask False where there is no value.
    Since every episode has ended, the same arrays stand in ``final_info``, with the old prompts'
    ids.
    """  # noqa: E501 - a table's row is one line

    def __init__(
        self,
        prompts: Sequence[str | Prompt],
        reward: Reward,
        num_prompts: int = 8,
        group_size: int = 8,
        autoreset: AutoresetMode | str = AutoresetMode.SAME_STEP,
        seed: int | None = None,
    ) -> None:
        """Make the environment.

        Args:
            prompts: literal sentences, distinct.
            reward: asked once a step, with all jokes.
            num_prompts: prompts a step, 1 to the number of prompts.
            group_size: jokes a prompt, >= 1.
            autoreset: ``SAME_STEP`` or ``DISABLED`` (also as text, ``SameStep``, ``Disabled``).
            seed: of the order of prompts.

        Raises:
            ValueError: impossible sizes, another mode, or prompts that `HumorEnv` refuses too.
        """
        self.prompts = as_prompts(prompts)
        if not 1 <= num_prompts <= len(self.prompts) or group_size < 1:
            raise ValueError(
                f"num_prompts is {num_prompts} and group_size {group_size}, need 1 to "
                f"{len(self.prompts)} prompts and a group of at least 1"
            )
        mode = autoreset if isinstance(autoreset, AutoresetMode) else _mode(autoreset)
        if mode not in MODES:
            allowed = ", ".join(m.name for m in MODES)
            raise ValueError(f"autoreset is {autoreset!r}, allowed are {allowed}")
        self.reward = reward
        self.num_prompts = num_prompts
        self.group_size = group_size
        self.num_envs = num_prompts * group_size
        self.autoreset = mode
        self.metadata = {"render_modes": [], "autoreset_mode": mode}
        self.single_observation_space: gym.Space[Any] = FreeText(LONGEST_TEXT)
        self.single_action_space: gym.Space[Any] = FreeText(LONGEST_TEXT)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._np_random, self._np_random_seed = seeding.np_random(seed)
        self._order: list[int] = []
        self._cursor = 0
        self._now = [-1] * num_prompts
        self._live = np.zeros(num_prompts, dtype=np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Show the next prompts; a seed starts a new order.

        Args:
            seed: a new generator and a newly shuffled order; None: go on in the order.
            options: ``reset_mask`` ((num_envs,) bool, whole groups): only these get new prompts.

        Raises:
            ValueError: a mask of another shape, or one that splits a group or is empty.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._order, self._cursor = [], 0
        mask = (options or {}).get("reset_mask")
        groups = np.ones(self.num_prompts, dtype=np.bool_) if mask is None else self._groups(mask)
        self._draw(groups)
        return self._observation(), self._reset_info()

    def step(self, actions: Sequence[str]) -> Step:
        """Reward all jokes at once; see the class for what comes back.

        Raises:
            ResetNeeded: before a reset, or (``DISABLED``) after a step.
            ValueError: another number of jokes, or one that is not in the space.
        """
        if not self._live.all():
            raise ResetNeeded("HumorVectorEnv.step needs a reset first: an episode is one joke")
        jokes = list(actions)
        if len(jokes) != self.num_envs:
            raise ValueError(f"step got {len(jokes)} jokes, need {self.num_envs}")
        for i, joke in enumerate(jokes):
            if not self.single_action_space.contains(joke):
                need = self.single_action_space
                raise ValueError(f"action {i} is {describe(joke)}, need a str in {need}")
        shown = self._observation()
        verdicts = self.reward(shown, jokes)
        if len(verdicts) != self.num_envs:
            raise ValueError(f"the reward gave {len(verdicts)} verdicts for {self.num_envs} jokes")
        old_ids = self._ids()
        self._live[:] = False
        infos = _stacked(verdicts)
        rewards = np.array([np.nan if v.reward is None else v.reward for v in verdicts])
        if np.isinf(rewards).any() or np.isnan(rewards[infos["scored"]]).any():
            raise ValueError("a scored joke has a reward that is not finite")
        if self.autoreset is AutoresetMode.SAME_STEP:
            everywhere = np.ones(self.num_envs, dtype=np.bool_)
            final = {**_stacked(verdicts), **self._group_info(), **old_ids}
            infos |= {
                "final_obs": _objects(shown),
                "_final_obs": everywhere,
                "final_info": final,
                "_final_info": everywhere.copy(),
            }
            self._draw(np.ones(self.num_prompts, dtype=np.bool_))
        infos |= self._reset_info()
        ended = np.ones(self.num_envs, dtype=np.bool_)
        return self._observation(), rewards, ended, np.zeros_like(ended), infos

    @property
    def shown(self) -> tuple[str, ...]:
        """The present observation: what the next step's jokes answer."""
        return self._observation()

    def state_dict(self) -> dict[str, Any]:
        """Generator, order, place in it and present prompts, JSON-serialisable."""
        return {
            "prompt_ids": [p.id for p in self.prompts],
            "rng": self.np_random.bit_generator.state,
            "order": list(self._order),
            "cursor": self._cursor,
            "now": list(self._now),
            "live": self._live.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`.

        Raises:
            ValueError: the state is of other prompts or another number of prompts a step.
        """
        if list(state["prompt_ids"]) != [p.id for p in self.prompts]:
            raise ValueError("the environment's state is of other prompts")
        if len(state["now"]) != self.num_prompts:
            raise ValueError(
                f"the state has {len(state['now'])} prompts a step, this has {self.num_prompts}"
            )
        self.np_random.bit_generator.state = state["rng"]
        self._order = list(state["order"])
        self._cursor = int(state["cursor"])
        self._now = list(state["now"])
        self._live = np.array(state["live"], dtype=np.bool_)

    def _draw(self, groups: Bools) -> None:
        """Give the masked groups the next prompts of the order."""
        kept = {self._now[g] for g in np.flatnonzero(~groups)}
        for g in np.flatnonzero(groups):
            self._now[g] = self._next(kept)
            kept.add(self._now[g])
        self._live[groups] = True

    def _next(self, taken: set[int]) -> int:
        if self._cursor == len(self._order):
            self._order = self.np_random.permutation(len(self.prompts)).tolist()
            self._cursor = 0
        # A prompt that this step shows already waits its turn: equal prompts would be one group.
        place = next(
            (k for k in range(self._cursor, len(self._order)) if self._order[k] not in taken), None
        )
        if place is None:  # only where groups are reset apart: the rest of the epoch is all shown
            self._order += self.np_random.permutation(len(self.prompts)).tolist()
            return self._next(taken)
        self._order.insert(self._cursor, self._order.pop(place))
        self._cursor += 1
        return self._order[self._cursor - 1]

    def _observation(self) -> tuple[str, ...]:
        return tuple(self.prompts[i].text for i in self._now for _ in range(self.group_size))

    def _ids(self) -> dict[str, Any]:
        ids = [self.prompts[i].id for i in self._now for _ in range(self.group_size)]
        return {"prompt_id": _objects(ids), "_prompt_id": np.ones(self.num_envs, dtype=np.bool_)}

    def _group_info(self) -> dict[str, Any]:
        group = np.repeat(np.arange(self.num_prompts), self.group_size)
        return {"group": group, "_group": np.ones(self.num_envs, dtype=np.bool_)}

    def _reset_info(self) -> dict[str, Any]:
        return {**self._group_info(), **self._ids()}

    def _groups(self, mask: Any) -> Bools:
        known = np.asarray(mask)
        if known.shape != (self.num_envs,) or known.dtype != np.bool_ or not known.any():
            raise ValueError(
                f"reset_mask is {known.dtype} of shape {known.shape} with {int(known.sum())} set, "
                f"need bool of shape ({self.num_envs},) with some set"
            )
        by_group = known.reshape(self.num_prompts, self.group_size)
        if (by_group.any(1) != by_group.all(1)).any():
            raise ValueError("reset_mask splits a group: the jokes of a prompt are reset together")
        return np.asarray(by_group.all(1), dtype=np.bool_)


def _mode(name: str) -> AutoresetMode | None:
    wanted = name.replace("_", "").replace("-", "").lower()
    return next((m for m in AutoresetMode if m.value.lower() == wanted), None)


def _objects(texts: Sequence[str]) -> NDArray[np.object_]:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def _stacked(verdicts: Sequence[JokeReward]) -> dict[str, Any]:
    """Infos of single environments as arrays with masks; a missing number is NaN, masked out."""
    rows = [info_of(v) for v in verdicts]
    infos: dict[str, Any] = {}
    for key in dict.fromkeys(k for row in rows for k in row):
        column = [row.get(key) for row in rows]
        if key == "gate":
            infos[key] = _objects([str(x) for x in column])
        elif key == "scored":
            infos[key] = np.array(column, dtype=np.bool_)
        elif key == "length":
            infos[key] = np.array(column, dtype=np.int64)
        else:
            infos[key] = np.array([np.nan if x is None else x for x in column], dtype=np.float64)
        infos[f"_{key}"] = np.array([x is not None for x in column], dtype=np.bool_)
    return infos
