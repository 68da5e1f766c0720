"""Wrappers that adapt environments: observations and masks of legal actions become records, and
actions of all kinds integers.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs.checks import require_numbers
from hvd_dqn.envs.interface import InterfaceError
from hvd_dqn.envs.observations import CheckedObservations, find_lost_value
from hvd_dqn.spaces.actions import ActionCodes, ActionError, CodedActions, branches_of
from hvd_dqn.spaces.records import MASK, RecordSpace, Text, mask_field, needs_record, record_space


class PackedObservations(gym.Wrapper[Any, Any, Any, Any]):
    """Turns each observation into a record of `space`, with the mask of its legal actions if the
    space has one.

    The values of the first `count` observations are compared with their space.
    """

    def __init__(
        self, env: gym.Env[Any, Any], env_id: str, space: RecordSpace, mask: MaskSource, count: int
    ) -> None:
        super().__init__(env)
        self._env_id = env_id
        self._space = self.observation_space = space
        self._mask = mask
        self._left = count

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Raises `UserError` if the observation does not fit, `InterfaceError` for a wrong mask."""
        result: Any = self.env.reset(**kwargs)
        if not (isinstance(result, tuple) and len(result) == 2):
            return result  # type: ignore[no-any-return]  # the caller reports it
        obs, info = result
        return self._record(obs, info, final=False), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Raises `UserError` if the observation does not fit, `InterfaceError` for a wrong mask."""
        result: Any = self.env.step(action)
        if not (isinstance(result, tuple) and len(result) == 5):
            return result  # type: ignore[no-any-return]
        obs, reward, terminated, truncated, info = result
        return self._record(obs, info, final=terminated), reward, terminated, truncated, info

    def _record(self, obs: Any, info: Any, *, final: bool) -> np.ndarray:
        if self._left:
            self._left -= 1
            problem = self._space.find_problem(obs, find_lost_value)
            if problem:
                raise UserError(
                    f"env.id {self._env_id!r} declares {self._space.source} and observes {problem}",
                    "correct its observation_space or its observations",
                )
        count = self._space.num_actions
        mask = None if count is None else self._mask.read(self.env, obs, info, count, final=final)
        return self._space.pack(obs, mask)


class MaskSource:
    """Where an environment says which actions are legal: in its observation, by its method
    `action_masks()` (sb3-contrib), or in the info (Gymnasium's Taxi).
    """

    def __init__(self, place: str) -> None:
        """`place` is "observation", "method" or "info"."""
        self._place = place

    def read(
        self, env: gym.Env[Any, Any], obs: Any, info: Any, num_actions: int, *, final: bool
    ) -> np.ndarray:
        """Return the mask [A] bool of an observation; all actions are legal after the last step of
        a terminated episode, where none is taken.

        Raises `InterfaceError` if there is none, or one of another length or without legal actions.
        """
        try:
            if self._place == "observation":
                found = obs[MASK]
            elif self._place == "info":
                found = info[MASK]
            else:
                found = env.get_wrapper_attr("action_masks")()
            mask = np.asarray(found).astype(np.bool_).reshape(-1)
        except (KeyError, TypeError, ValueError) as error:
            raise InterfaceError(
                f"its {self._place} contains no action mask ({error!r})"
            ) from error
        if len(mask) != num_actions:
            raise InterfaceError(
                f"its action mask has {len(mask)} entries, and there are {num_actions} actions"
            )
        if mask.any():
            return mask
        if not final:
            raise InterfaceError(
                "its action mask allows no action in a state that is not terminated: end the "
                "episode there (terminated or truncated)"
            )
        return np.ones(num_actions, dtype=np.bool_)


def adapted(env: gym.Env[Any, Any], config: EnvConfig, text: Text | None) -> gym.Env[Any, Any]:
    """Return the environment with integers as actions and arrays of numbers as observations: as
    they are, and checked, if they are one and no action is masked, otherwise packed.

    Raises `UserError` if its observations cannot be packed or its actions cannot be numbered.
    """
    env = _with_integers(env, config)
    place = _place_of_mask(env, config.action_mask)
    if place is None and not needs_record(env.observation_space):
        require_numbers(config.id, env.observation_space)
        if config.check_observations == 0:
            return env
        return CheckedObservations(env, config.id, config.check_observations)
    actions = env.action_space
    assert isinstance(actions, gym.spaces.Discrete)
    if place is not None and branches_of(actions):
        raise UserError(
            f"env.id {config.id!r}: masks are of whole actions, and its {actions.n:,} combinations "
            "have no value each",
            f"raise --env.joint-actions to {actions.n:,}, or pass --env.action-mask none",
        )
    num_actions = None if place is None else int(actions.n)
    space = record_space(config.id, env.observation_space, num_actions, text, config.channels)
    mask = MaskSource(place or "")
    return PackedObservations(env, config.id, space, mask, config.check_observations)


def _with_integers(env: gym.Env[Any, Any], config: EnvConfig) -> gym.Env[Any, Any]:
    if isinstance(env.action_space, gym.spaces.Discrete):
        return env
    try:
        codes = ActionCodes(env.action_space, bins=config.action_bins, joint=config.joint_actions)
    except ActionError as error:
        raise UserError(f"env.id {config.id!r}: its action space {error}") from error
    return CodedActions(env, codes)


def _place_of_mask(env: gym.Env[Any, Any], setting: str) -> str | None:
    """Return where the environment has its action mask, for `env.action_mask`."""
    if setting != "auto":
        return None if setting == "none" else setting
    if mask_field(env.observation_space) is not None:
        return "observation"
    return "method" if env.has_wrapper_attr("action_masks") else None
