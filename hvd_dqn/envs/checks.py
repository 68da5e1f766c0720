"""Checks of an environment's spaces."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from hvd_dqn.common.errors import UserError
from hvd_dqn.envs.interface import close_env


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
    """ALE also registers ids without preprocessing, for which the Atari options have no effect."""
    if type(env.unwrapped).__module__ == "ale_py.env":
        raise UserError(
            f"env.id {env_id!r} is a bare Atari game: choose an id such as ALE/Pong-v5, with "
            "env.atari_protocol and env.frame_skip"
        )
