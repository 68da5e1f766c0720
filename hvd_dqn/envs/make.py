"""From an environment's id to an environment, or to one line saying why there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from hvd_dqn.config import EnvConfig
from hvd_dqn.envs.vector import VectorEnvironment
from hvd_dqn.errors import UserError

_EXTRA_OF_MISSING_MODULE = {"Box2D": "box2d", "box2d": "box2d"}


def make_env(config: EnvConfig, **kwargs: Any) -> gym.Env[Any, Any]:
    """One Gymnasium environment with discrete actions and Box observations.

    Raises `UserError` for an unknown id, a missing dependency, refused keyword arguments or spaces
    that DQN cannot use.
    """
    try:
        env = gym.make(config.id, disable_env_checker=True, **json.loads(config.kwargs), **kwargs)
    except ModuleNotFoundError as error:
        raise UserError(_missing_module(config.id, error)) from error
    except gym.error.DependencyNotInstalled as error:
        raise UserError(
            f"env.id {config.id!r} needs a package that is not installed: {_advice(error)}"
        ) from error
    except gym.error.Error as error:
        raise UserError(f"env.id {config.id!r}: {_one_line(error)}") from error
    except Exception as error:  # an environment's constructor may raise anything
        given = f" with env.kwargs {config.kwargs}" if json.loads(config.kwargs) else ""
        raise UserError(
            f"env.id {config.id!r} cannot be made{given}: {type(error).__name__}: "
            f"{_one_line(error)}"
        ) from error
    try:
        _check_spaces(config.id, env)
    except UserError:
        env.close()
        raise
    return env


def make_vector_env(
    config: EnvConfig,
    *,
    num_envs: int,
    episode_seed: Callable[[int, int], int],
    max_episode_steps: int | None = None,
) -> VectorEnvironment:
    """`num_envs` copies stepped together; episode k of copy i starts from `episode_seed(i, k)`.

    `max_episode_steps` truncates the episodes of an environment that has no limit of its own.
    """
    make_env(config).close()  # a bad id is told here, in this process, in one line
    constructors: list[Callable[[], gym.Env[Any, Any]]] = [
        partial(_make_limited, config, max_episode_steps)
    ] * num_envs
    envs: SyncVectorEnv | AsyncVectorEnv
    if config.vectorization == "async":
        # Spawned, not forked: some InfiniBand stacks and CUDA do not survive a fork.
        envs = AsyncVectorEnv(constructors, autoreset_mode=AutoresetMode.DISABLED, context="spawn")
    else:
        envs = SyncVectorEnv(constructors, autoreset_mode=AutoresetMode.DISABLED)
    return VectorEnvironment(envs, episode_seed=episode_seed)


def _make_limited(config: EnvConfig, max_episode_steps: int | None) -> gym.Env[Any, Any]:
    env = make_env(config)
    if max_episode_steps is None or (
        env.spec is not None and env.spec.max_episode_steps is not None
    ):
        return env
    return gym.wrappers.TimeLimit(env, max_episode_steps)


def _check_spaces(env_id: str, env: gym.Env[Any, Any]) -> None:
    actions, observations = env.action_space, env.observation_space
    if not isinstance(actions, gym.spaces.Discrete):
        raise UserError(
            f"env.id {env_id!r} has {type(actions).__name__} actions "
            f"{getattr(actions, 'shape', '')}: DQN chooses among Discrete actions; take a discrete "
            "version of it or wrap it"
        )
    if not isinstance(observations, gym.spaces.Box):
        raise UserError(
            f"env.id {env_id!r} has {type(observations).__name__} observations: a Box is needed; "
            "register it with gymnasium.wrappers.FlattenObservation"
        )
    if not (np.issubdtype(observations.dtype, np.number) and observations.shape):
        raise UserError(
            f"env.id {env_id!r} observes {observations}: a Box of numbers with at least one axis "
            "is needed"
        )


def _missing_module(env_id: str, error: ModuleNotFoundError) -> str:
    module = env_id.partition(":")[0]
    if ":" in env_id and error.name is not None and (module + ".").startswith(error.name + "."):
        return f"env.id {env_id!r}: there is no module {module!r}; install the package that has it"
    return f"env.id {env_id!r} needs the module {error.name!r}: {_install(error.name or '')}"


def _install(module: str) -> str:
    extra = _EXTRA_OF_MISSING_MODULE.get(module.partition(".")[0])
    return (
        f"pip install 'hvd_dqn[{extra}]'" if extra else f"install the package that has {module!r}"
    )


def _advice(error: Exception) -> str:
    text = _one_line(error)
    return _install("box2d") if "box2d" in text.lower() else text


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
