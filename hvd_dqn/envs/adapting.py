"""Wrappers that adapt environments: observations and masks of legal actions become records, and
actions of all kinds integers.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from hvd_dqn.common.errors import UserError, one_line
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs.checks import require_numbers
from hvd_dqn.envs.interface import EnvironmentFailedError, InterfaceError
from hvd_dqn.envs.observations import CheckedObservations, find_lost_value
from hvd_dqn.spaces.actions import ActionCodes, ActionError, CodedActions, branches_of
from hvd_dqn.spaces.records import MASK, RecordSpace, Text, mask_field, needs_record, record_space

_MOST_MASKED = 10_000
"""Actions up to which a value for each is advised."""


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
        except (KeyError, TypeError, ValueError) as error:
            raise InterfaceError(
                f"its {self._place} contains no action mask ({error!r})"
            ) from error
        masks = _checked_masks([found], self._place, num_actions, np.array([final]))
        mask: np.ndarray = masks[0]
        return mask


def _checked_masks(found: Any, place: str, num_actions: int, final: np.ndarray) -> np.ndarray:
    """Return the masks [N, A] bool of N observations; `final` [N]: no action follows them. See
    `MaskSource.read`.
    """
    try:
        masks = np.asarray(found)
        if masks.dtype == object:  # as Gymnasium joins the lists of several infos
            masks = np.array([np.asarray(mask, dtype=np.bool_) for mask in masks])
        masks = masks.astype(np.bool_)
        count = len(masks)
        masks = masks.reshape(count, -1)
    except (TypeError, ValueError) as error:
        raise InterfaceError(f"its {place} contains no action mask ({error!r})") from error
    if count != len(final):
        raise InterfaceError(f"its {place} contains {count} action masks for {len(final)} copies")
    if masks.shape[1] != num_actions:
        raise InterfaceError(
            f"its action mask has {masks.shape[1]} entries, and there are {num_actions} actions"
        )
    allows_none = ~masks.any(axis=1)
    if np.count_nonzero(allows_none & ~final):
        raise InterfaceError(
            "its action mask allows no action in a state that is not terminated: end the "
            "episode there (terminated or truncated)"
        )
    masks[allows_none] = True
    return masks


class BatchAdapter:
    """Does for N copies that step together what `adapted` does for one environment.

    actions: the integers that stand for their actions; observations: the space of the arrays that
    stand for their observations.
    """

    def __init__(
        self, config: EnvConfig, observations: gym.Space[Any], actions: gym.Space[Any]
    ) -> None:
        """Raises `UserError` as `adapted` does."""
        self.actions = _integers(config, actions)
        self._mask = _place_of_mask(observations, config.action_mask)
        self.observations = _arrays(config, observations, self.actions, self._mask, config.text)

    def decode(self, action: np.ndarray) -> Any:
        """Return the actions of N copies, numbered from 0, as these take them."""
        if isinstance(self.actions, ActionCodes):
            return self.actions.actions(action)
        return (action + self.actions.start).astype(self.actions.dtype)

    def encode(self, obs: Any, infos: Any, ended: np.ndarray) -> np.ndarray:
        """Return observations as arrays [N, …] in new memory. `ended` [N]: no action follows them.

        Raises `EnvironmentFailedError` if they do not have the shapes of the space, and
        `InterfaceError` for wrong masks.
        """
        count = len(ended)
        space = self.observations
        try:
            if isinstance(space, RecordSpace):
                return space.pack_all(obs, count, self._masks(obs, infos, ended))
            arrays = np.array(obs, dtype=space.dtype)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise EnvironmentFailedError(
                f"{count} copies of {space} returned observations of another form: "
                f"{one_line(error)}"
            ) from error
        if arrays.shape != (count, *space.shape):
            raise EnvironmentFailedError(
                f"{count} copies of {space} returned observations of shape {arrays.shape}"
            )
        return arrays

    def _masks(self, obs: Any, infos: Any, ended: np.ndarray) -> np.ndarray | None:
        """Return the masks [N, A] bool of the legal actions, if the space has any."""
        if self._mask is None:
            return None
        try:
            found = (obs if self._mask == "observation" else infos)[MASK]
        except (KeyError, TypeError) as error:
            raise InterfaceError(f"its {self._mask} contains no {MASK}") from error
        return _checked_masks(found, self._mask, int(self.actions.n), ended)


def adapted(env: gym.Env[Any, Any], config: EnvConfig, text: Text | None) -> gym.Env[Any, Any]:
    """Return the environment with integers as actions and arrays of numbers as observations: as
    they are, and checked, if they are one and no action is masked, otherwise packed.

    Raises `UserError` if its observations cannot be packed or its actions cannot be numbered.
    """
    actions = _integers(config, env.action_space)
    if isinstance(actions, ActionCodes):
        env = CodedActions(env, actions)
    place = _place_of_mask(env.observation_space, config.action_mask)
    if place is None and config.action_mask == "auto" and env.has_wrapper_attr("action_masks"):
        place = "method"
    space = _arrays(config, env.observation_space, actions, place, text)
    if isinstance(space, RecordSpace):
        mask = MaskSource(place or "")
        return PackedObservations(env, config.id, space, mask, config.check_observations)
    if config.check_observations == 0:
        return env
    return CheckedObservations(env, config.id, config.check_observations)


def _integers(config: EnvConfig, actions: gym.Space[Any]) -> gym.spaces.Discrete:
    """Return the integers that stand for the actions of this space."""
    if isinstance(actions, gym.spaces.Discrete):
        return actions
    try:
        return ActionCodes(actions, bins=config.action_bins, joint=config.joint_actions)
    except ActionError as error:
        raise UserError(f"env.id {config.id!r}: its action space {error}") from error


def _arrays(
    config: EnvConfig,
    observations: gym.Space[Any],
    actions: gym.spaces.Discrete,
    mask: str | None,
    text: Text | None,
) -> gym.spaces.Box:
    """Return the space of the arrays that stand for observations and, if `mask` says where they
    are, for the masks of legal actions.
    """
    if mask is None and not needs_record(observations):
        require_numbers(config.id, observations)
        assert isinstance(observations, gym.spaces.Box)
        return observations
    if mask is not None and branches_of(actions):
        raise UserError(
            f"env.id {config.id!r}: masks are of whole actions, and its {actions.n:,} combinations "
            "have no value each",
            f"raise --env.joint-actions to {actions.n}, or pass --env.action-mask none"
            if actions.n <= _MOST_MASKED
            else "pass --env.action-mask none",
        )
    num_actions = None if mask is None else int(actions.n)
    masked = mask_field(observations) if mask == "observation" else None
    size = num_actions if masked is None else gym.spaces.flatdim(masked)
    if size != num_actions:
        raise UserError(
            f"env.id {config.id!r}: its {MASK} has {size} entries, and there are {num_actions} "
            "actions",
            "correct it, or pass --env.action-mask none",
        )
    return record_space(config.id, observations, num_actions, text, config.channels)


def _place_of_mask(observations: gym.Space[Any], setting: str) -> str | None:
    """Return where the environment has its action mask, for `env.action_mask`."""
    if setting != "auto":
        return None if setting == "none" else setting
    return None if mask_field(observations) is None else "observation"
