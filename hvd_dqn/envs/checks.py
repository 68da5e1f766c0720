"""Checks of an environment's spaces."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from hvd_dqn.common.errors import UserError
from hvd_dqn.envs.interface import close_env
from hvd_dqn.spaces.records import RecordSpace


def check_env(env_id: str, env: gym.Env[Any, Any]) -> None:
    """Raise `UserError`, and close `env`, if DQN cannot learn in it."""
    try:
        if not isinstance(env, gym.Env):
            raise UserError(
                f"env.id {env_id!r} must return a gymnasium.Env, and returns {type(env).__name__}"
            )
        _check_game(env_id, env)
    except UserError:
        if isinstance(env, gym.Env):
            close_env(env, env_id)
        raise


def _check_game(env_id: str, env: gym.Env[Any, Any]) -> None:
    """A game of ALE that nothing preprocesses observes whole pictures, one frame at a time."""
    shape: tuple[int, ...] = getattr(env.observation_space, "shape", None) or ()
    if type(env.unwrapped).__module__ == "ale_py.env" and len(shape) == 3 and shape[1] == 160:
        raise UserError(
            f"env.id {env_id!r} is a bare Atari game, which observes pictures of {shape}",
            "choose an id such as ALE/Pong-v5 without such options; or preprocess it, as with "
            "--env.kwargs.frameskip 1 --env.wrappers gymnasium.wrappers:AtariPreprocessing; or "
            "pass --env.kwargs.obs_type ram or grayscale",
        )


def require_numbers(env_id: str, observations: gym.Space[Any]) -> None:
    """Raise `UserError` if a Box is not one of numbers, or if it has none."""
    assert isinstance(observations, gym.spaces.Box)
    if 0 in observations.shape:
        raise UserError(
            f"env.id {env_id!r} observes {observations}, which has no values",
            "correct its observation_space",
        )
    is_number = np.issubdtype(observations.dtype, np.number) or observations.dtype == np.bool_
    if not is_number or observations.dtype.kind == "c":
        raise UserError(
            f"env.id {env_id!r} observes {observations}: a Box of real numbers is required"
        )


def require_three_axes(env_id: str, space: gym.spaces.Box, channels: str) -> None:
    """Raise `UserError` if `env.channels` is set and no part of an observation has three axes."""
    parts = [f.space for f in space.fields] if isinstance(space, RecordSpace) else [space]
    if channels != "auto" and not any(
        isinstance(part, gym.spaces.Box) and len(part.shape) == 3 for part in parts
    ):
        observed = "have no part with three axes"
        if len(parts) == 1:
            observed = f"have the shape {parts[0].shape}, not three axes"
        raise UserError(
            f"env.channels = {channels!r}: the observations of {env_id!r} {observed}; leave it auto"
        )
