"""Environments written in JAX: `gymnax:Name` and `jumanji:Name`, compiled for all copies at once.

Their own automatic resets are not used: every copy has its own random key, which comes from the
seed of its episode, so that seed and actions replay the episode.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from hvd_dqn.common.errors import UserError, did_you_mean, typed_line
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs.adapting import BatchAdapter
from hvd_dqn.envs.batched import BatchedSimulators, require_package, require_plain
from hvd_dqn.envs.family import Family, Made
from hvd_dqn.envs.infos import array_of
from hvd_dqn.envs.interface import RAISED, Place
from hvd_dqn.envs.simulators import SimulatorStep
from hvd_dqn.envs.wrappers import shapes_as_tuples


class OneCopy(NamedTuple):
    """An environment of JAX as functions of one copy.

    start: from a key to observation and state; step: from key, state and action to observation,
    state, reward, terminated, truncated and infos, a dictionary.
    """

    observations: gym.Space[Any]
    actions: gym.Space[Any]
    start: Callable[[Any], tuple[Any, Any]]
    step: Callable[[Any, Any, Any], tuple[Any, Any, Any, Any, Any, dict[str, Any]]]


class JaxSimulators(BatchedSimulators):
    """Copies of an environment of JAX, as arrays on JAX's device."""

    def __init__(
        self, config: EnvConfig, copy: OneCopy, num_envs: int, info_keys: Sequence[str]
    ) -> None:
        """Raises `UserError` if DQN cannot learn in the environment."""
        import jax

        super().__init__(num_envs, BatchAdapter(config, copy.observations, copy.actions))
        self._info_keys = info_keys
        self._copies: Any = None
        self._start = jax.jit(jax.vmap(partial(_start, copy)))
        self._restart = jax.jit(jax.vmap(partial(_restart, copy)))
        self._step = jax.jit(jax.vmap(partial(_step, copy)))

    def reset(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        """See `Simulators`. The first call compiles."""
        seed = np.zeros(self.num_envs, dtype=np.uint32)
        seed[chosen] = seeds
        if self._copies is None:
            self._copies = self._start(seed)
        else:
            self._copies = self._restart(chosen, seed, self._copies)
        return self._adapter.encode(self._copies[0], {}, self._none_ended)

    def step(self, action: np.ndarray) -> SimulatorStep:
        """See `Simulators`."""
        actions = _narrow(self._adapter.decode(action))
        self._copies, (reward, terminated, truncated, infos) = self._step(self._copies, actions)
        terminated, truncated = np.array(terminated, np.bool_), np.array(truncated, np.bool_)
        return SimulatorStep(
            self._adapter.encode(self._copies[0], infos, terminated),
            np.array(reward, dtype=np.float64).reshape(self.num_envs),
            terminated,
            truncated,
            terminated | truncated,
            array_of(infos, self._info_keys, self.num_envs),
        )

    def close(self, *, broken: bool = False) -> None:
        """See `Simulators`."""
        self._copies = None


def _start(copy: OneCopy, seed: Any) -> tuple[Any, Any, Any]:
    """Return observation, key and state of an episode's start."""
    import jax

    key, first = jax.random.split(jax.random.PRNGKey(seed))
    obs, state = copy.start(first)
    return obs, key, state


def _restart(copy: OneCopy, chosen: Any, seed: Any, before: Any) -> Any:
    """Return what `_start` returns if the copy is chosen, otherwise `before`."""
    import jax

    return jax.tree.map(
        lambda new, old: jax.numpy.where(chosen, new, old), _start(copy, seed), before
    )


def _step(copy: OneCopy, before: Any, action: Any) -> Any:
    import jax

    _, key, state = before
    key, now = jax.random.split(key)
    obs, state, *outcome = copy.step(now, state, action)
    return (obs, key, state), tuple(outcome)


class JaxFamily(Family):
    """Environments of a JAX library, with its name as the prefix."""

    extra = "jax"
    limits_itself = False
    """Whether all of its environments have a limit of steps."""

    def claims(self, config: EnvConfig) -> bool:
        """See `Family`."""
        return config.id.startswith(f"{self.module}:")

    def make_simulators(
        self,
        config: EnvConfig,
        places: Sequence[Place],
        *,
        threads: int,
        pictures: bool,
        info_keys: Sequence[str] = (),
    ) -> Made:
        """See `Family`."""
        require_plain(config, self.module, pictures=pictures)
        require_package(config.id, self.module, self.extra)
        if config.action_mask == "info":
            raise UserError(
                f"env.action-mask = 'info': environments of {self.module} have no info when an "
                "episode starts",
                "leave it auto, which takes an action_mask of the observations",
            )
        # JAX would take three quarters of a GPU's memory, which torch shares.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        name = config.id.removeprefix(f"{self.module}:")
        kwargs = places[0].fill(shapes_as_tuples(json.loads(config.kwargs)))
        try:
            self._require_known(config.id, name)
            copy = self._one_copy(name, kwargs)
            simulators = JaxSimulators(config, copy, len(places), info_keys)
        except UserError:
            raise
        except RAISED as error:
            raise UserError(
                f"env.id {config.id!r} cannot be made with env.kwargs {config.kwargs}: "
                f"{typed_line(error)}"
            ) from error
        return Made(simulators, lambda steps: None if self.limits_itself else steps)

    def _require_known(self, env_id: str, name: str) -> None:
        known = self._names()
        if name not in known:
            raise UserError(
                f"env.id {env_id!r}: {self.module} has no {name!r}", did_you_mean(name, known)
            )

    @abstractmethod
    def _names(self) -> list[str]:
        """Return all names that the library knows."""

    @abstractmethod
    def _one_copy(self, name: str, kwargs: dict[str, Any]) -> OneCopy:
        """Return the environment of this name."""


class Gymnax(JaxFamily):
    """gymnax, version 1. Arguments that the environment's parameters have are set there, such as
    `max_steps_in_episode`; others go to its constructor.
    """

    package = module = "gymnax"
    limits_itself = True

    def _names(self) -> list[str]:
        import gymnax

        return list(gymnax.registered_envs)

    def _one_copy(self, name: str, kwargs: dict[str, Any]) -> OneCopy:
        import gymnax
        from gymnax.environments.spaces import gymnax_space_to_gym_space

        fields = vars(gymnax.make(name)[1])
        own = {key: value for key, value in kwargs.items() if key not in fields}
        env, params = gymnax.make(name, **own)
        params = params.replace(**{key: kwargs[key] for key in kwargs if key in fields})

        def step(key: Any, state: Any, action: Any) -> Any:
            obs, state, reward, terminated, info = env.step_env(key, state, action, params)
            return obs, state, reward, terminated, env.is_truncated(state, params), info

        observations, actions = (
            gymnax_space_to_gym_space(space)
            for space in (env.observation_space(params), env.action_space(params))
        )
        return OneCopy(observations, actions, lambda key: env.reset_env(key, params), step)


class Jumanji(JaxFamily):
    """jumanji. `observe`, an argument in `env.kwargs`, names the one part of an observation that is
    used, if not all are.
    """

    package = module = "jumanji"

    def _names(self) -> list[str]:
        import jumanji

        return list(jumanji.registered_environments())

    def _one_copy(self, name: str, kwargs: dict[str, Any]) -> OneCopy:
        import jumanji
        from jumanji.specs import jumanji_specs_to_gym_spaces

        part = kwargs.pop("observe", None)
        env = jumanji.make(name, **kwargs)
        space = jumanji_specs_to_gym_spaces(env.observation_spec)
        parts = dict(_parts(space))
        if part is not None and part not in parts:
            raise UserError(
                f"env.kwargs has observe = {part!r}, and the observations of jumanji's {name} have "
                f"the parts {', '.join(filter(None, parts)) or 'none'}"
            )
        if part is not None:
            parts = {part: parts[part]}
        is_single = len(parts) == 1
        observations = next(iter(parts.values())) if is_single else gym.spaces.Dict(parts)

        def observed(observation: Any) -> Any:
            found = {path: _at(observation, path) for path in parts}
            return next(iter(found.values())) if is_single else found

        def start(key: Any) -> Any:
            state, timestep = env.reset(key)
            return observed(timestep.observation), state

        def step(key: Any, state: Any, action: Any) -> Any:
            state, timestep = env.step(state, action)
            over = timestep.last()
            terminated = over & (timestep.discount == 0)
            obs, infos = observed(timestep.observation), timestep.extras or {}
            return obs, state, timestep.reward, terminated, over & ~terminated, infos

        return OneCopy(observations, jumanji_specs_to_gym_spaces(env.action_spec), start, step)


def _parts(space: gym.Space[Any], path: str = "") -> Iterator[tuple[str, gym.Space[Any]]]:
    """Yield the parts of a space that are not dictionaries, each with its path, `a.b`."""
    if not isinstance(space, gym.spaces.Dict):
        yield path, space
        return
    for name, inner in space.spaces.items():
        yield from _parts(inner, f"{path}.{name}" if path else name)


def _at(observation: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        is_mapping = isinstance(observation, Mapping)
        observation = observation[name] if is_mapping else getattr(observation, name)
    return observation


def _narrow(action: Any) -> Any:
    """Return actions [N] with integers of 32 bits, the widest of JAX."""
    if isinstance(action, tuple):
        return tuple(map(_narrow, action))
    return action.astype(np.int32) if action.dtype.kind == "i" else action
