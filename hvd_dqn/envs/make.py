"""From an environment's id to an environment, or to one line saying why there is none."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from hvd_dqn.common import signals
from hvd_dqn.common.errors import UserError, one_line, typed_line
from hvd_dqn.config import EnvConfig
from hvd_dqn.distributed.communicator import hostname
from hvd_dqn.envs import packages
from hvd_dqn.envs.atari import make_atari
from hvd_dqn.envs.minatar import FreshEpisodes
from hvd_dqn.envs.simulators import (
    GymnasiumSimulators,
    ProcessSimulators,
    SerialSimulators,
    Simulators,
)
from hvd_dqn.envs.vector import VectorEnvironment


def make_env(config: EnvConfig, **kwargs: Any) -> gym.Env[Any, Any]:
    """One Gymnasium environment with discrete actions and Box observations.

    Raises `UserError` for an unknown id, a missing dependency, refused keyword arguments or spaces
    that DQN cannot use.
    """
    packages.register(config.id)
    try:
        own = {name: _shapes_as_tuples(value) for name, value in json.loads(config.kwargs).items()}
        env: gym.Env[Any, Any] = gym.make(config.id, disable_env_checker=True, **own, **kwargs)
    except ModuleNotFoundError as error:
        raise UserError(_missing_module(config.id, error)) from error
    except gym.error.DependencyNotInstalled as error:
        raise UserError(
            f"env.id {config.id!r} needs a package that is not installed: {_advice(error)}"
        ) from error
    except gym.error.Error as error:
        raise UserError(f"env.id {config.id!r}: {one_line(error)}") from error
    except Exception as error:  # an environment's constructor may raise anything
        given = f" with env.kwargs {config.kwargs}" if json.loads(config.kwargs) else ""
        raise UserError(
            f"env.id {config.id!r} cannot be made{given}: {typed_line(error)}"
        ) from error
    try:
        _check_game(config.id, env)
        _check_spaces(config.id, env)
    except UserError:
        env.close()
        raise
    return FreshEpisodes(env) if type(env.unwrapped).__module__ == "minatar.gym" else env


def make_vector_env(
    config: EnvConfig,
    *,
    num_envs: int,
    episode_seed: Callable[[int, int], int],
    max_episode_steps: int | None = None,
    threads: int = 1,
    pictures: bool = False,
) -> VectorEnvironment:
    """`num_envs` copies stepped together; episode k of copy i starts from `episode_seed(i, k)`.

    `max_episode_steps` truncates the episodes of an environment that has no limit of its own, and
    Atari games where it comes before theirs. `threads` are for simulators that step their copies in
    threads: Atari's. `pictures`: it can be looked at (`VectorEnvironment.picture`).
    """

    def make() -> tuple[Simulators, int | None]:
        if config.is_atari:
            return make_atari(
                config, num_envs=num_envs, max_episode_steps=max_episode_steps, threads=threads
            )
        return _make_gymnasium(config, num_envs, max_episode_steps, pictures=pictures)

    left = config.restarts

    def remake(error: Exception) -> Simulators:
        nonlocal left
        if left == 0:
            raise error
        left -= 1
        print(
            f"hvd-dqn: an environment on {hostname()} broke ({typed_line(error)}); all {num_envs} "
            f"of its rank are made anew, {left} more times at most",
            file=sys.stderr,
            flush=True,
        )
        return make()[0]

    simulators, limit = make()
    return VectorEnvironment(
        simulators,
        episode_seed=episode_seed,
        frame_stack=config.frame_stack,
        reward_clip=config.reward_clip,
        max_episode_steps=limit,
        remake=remake,
    )


def _make_gymnasium(
    config: EnvConfig, num_envs: int, max_episode_steps: int | None, *, pictures: bool
) -> tuple[GymnasiumSimulators, int | None]:
    """The copies and the steps after which to truncate, where they do not do so themselves."""
    drawing = {"render_mode": "rgb_array"} if pictures else {}
    probe = make_env(config)  # a bad id is told here, in this process, in one line
    if pictures and "rgb_array" not in probe.metadata.get("render_modes", []):
        raise UserError(f"env.id {config.id!r} draws no pictures: rgb_array is no way it renders")
    limits_itself = probe.spec is not None and probe.spec.max_episode_steps is not None
    probe.close()
    copy = partial(make_env, config, **drawing)
    simulators: GymnasiumSimulators
    if config.vectorization == "async":
        # Spawned, not forked: some InfiniBand stacks and CUDA do not survive a fork.
        with signals.shield_children():
            envs = AsyncVectorEnv(
                [copy] * num_envs, autoreset_mode=AutoresetMode.DISABLED, context="spawn"
            )
        simulators = ProcessSimulators(envs)
    else:
        simulators = SerialSimulators([copy() for _ in range(num_envs)])
    return simulators, None if limits_itself else max_episode_steps


def _shapes_as_tuples(value: Any) -> Any:
    """JSON has no tuples, and code that is given a shape may want one (highway-env's images do)."""
    if isinstance(value, dict):
        return {name: _shapes_as_tuples(inner) for name, inner in value.items()}
    is_shape = isinstance(value, list) and all(type(number) is int for number in value)
    return tuple(value) if is_shape else value


def _check_game(env_id: str, env: gym.Env[Any, Any]) -> None:
    """ALE also registers ids without preprocessing, where a protocol would silently do nothing."""
    if type(env.unwrapped).__module__ == "ale_py.env":
        raise UserError(
            f"env.id {env_id!r} is a bare Atari game: take an id such as ALE/Pong-v5, with "
            "env.atari_protocol and env.frame_skip"
        )


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
    is_number = np.issubdtype(observations.dtype, np.number) or observations.dtype == np.bool_
    if not (is_number and observations.shape):
        raise UserError(
            f"env.id {env_id!r} observes {observations}: a Box of numbers with at least one axis "
            "is needed"
        )


def _missing_module(env_id: str, error: ModuleNotFoundError) -> str:
    module = env_id.partition(":")[0]
    if ":" in env_id and error.name is not None and (module + ".").startswith(error.name + "."):
        return (
            f"env.id {env_id!r}: there is no module {module!r}; {packages.how_to_install(module)}"
        )
    advice = packages.how_to_install(error.name or "")
    return f"env.id {env_id!r} needs the module {error.name!r}: {advice}"


def _advice(error: Exception) -> str:
    text = one_line(error)
    return packages.how_to_install("Box2D") if "box2d" in text.lower() else text
