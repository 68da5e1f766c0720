"""Families of environments: how the environments of a package are registered and made.

This base class is the family of Gymnasium's own environments and of the user's. Families of other
packages derive from it and override what differs.
"""

from __future__ import annotations

import json
import re
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import find_highest_version, parse_env_id
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from hvd_dqn.common import signals
from hvd_dqn.common.errors import UserError, one_line
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs.checks import check_env
from hvd_dqn.envs.simulators import ProcessSimulators, SerialSimulators, Simulators


class Family:
    """Environments that are made in the same way.

    ids: regular expression for the start of their ids; package: its name at PyPI; module: the
    module that registers the ids when it is imported (Gymnasium 1.x loads no plugins by itself);
    extra: the extra of hvd_dqn that installs it.
    """

    ids = ""
    package = ""
    module = ""
    extra = ""

    def claims(self, config: EnvConfig) -> bool:
        """Whether this family makes the environments of `env.id`."""
        return re.match(self.ids, config.id.rpartition(":")[2]) is not None

    def make_simulators(
        self,
        config: EnvConfig,
        *,
        num_envs: int,
        max_episode_steps: int | None,
        threads: int,
        pictures: bool,
    ) -> tuple[Simulators, int | None]:
        """Return `num_envs` copies, and the steps after which `VectorEnvironment` truncates an
        episode: `max_episode_steps`, or `None` if the environment has its own limit. `threads` is
        the number for simulators that step copies in threads. `pictures`: the copies can be
        rendered.

        Raises `UserError` if the environments cannot be made.
        """
        probe = self.make_env(config)  # reports a bad id in this process, in one line
        if pictures and "rgb_array" not in probe.metadata.get("render_modes", []):
            raise UserError(f'env.id {config.id!r} does not support render_mode="rgb_array"')
        limits_itself = probe.spec is not None and probe.spec.max_episode_steps is not None
        probe.close()
        copy = partial(self.make_env, config, **({"render_mode": "rgb_array"} if pictures else {}))
        limit = None if limits_itself else max_episode_steps
        if config.vectorization == "sync":
            return SerialSimulators([copy() for _ in range(num_envs)]), limit
        # Spawned, not forked: some InfiniBand stacks and CUDA do not survive a fork.
        with signals.shield_children():
            envs = AsyncVectorEnv(
                [copy] * num_envs, autoreset_mode=AutoresetMode.DISABLED, context="spawn"
            )
        return ProcessSimulators(envs), limit

    def make_env(self, config: EnvConfig, **kwargs: Any) -> gym.Env[Any, Any]:
        """Return one environment with discrete actions and Box observations; `kwargs` are passed
        besides `env.kwargs`.

        Raises `UserError` for an unknown id, a missing package, rejected keyword arguments and
        spaces that DQN cannot use.
        """
        self.register(config.id)
        try:
            env = self._construct(config, kwargs)
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
                f"env.id {config.id!r} cannot be made{given}: {type(error).__name__}: "
                f"{one_line(error)}"
            ) from error
        check_env(config.id, env)
        return env

    def register(self, env_id: str) -> None:
        """Import the family's module, which registers its ids, unless `env_id` is registered.

        Raises `UserError` if the package is missing.
        """
        if not self.module or env_id.rpartition(":")[2] in gym.registry:
            return
        try:
            module = import_module(self.module)
        except ModuleNotFoundError as error:
            raise UserError(
                f"env.id {env_id!r} needs {self.package}, which is not installed: "
                f"pip install 'hvd_dqn[{self.extra}]'"
            ) from error
        self._register_ids(module)

    def _register_ids(self, module: ModuleType) -> None:
        """Register the ids if the import of `module` does not."""

    def _construct(self, config: EnvConfig, kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
        own = {name: _shapes_as_tuples(value) for name, value in json.loads(config.kwargs).items()}
        module, _, name = config.id.partition(":")
        if name:
            function = getattr(import_module(module), name, None)
            if callable(function) and not _is_registered(name):
                made: gym.Env[Any, Any] = function(**own, **kwargs)
                return made
        return gym.make(config.id, disable_env_checker=True, **own, **kwargs)


def _is_registered(env_id: str) -> bool:
    """Whether Gymnasium knows this id, with or without a version."""
    try:
        namespace, name, version = parse_env_id(env_id)
    except gym.error.Error:
        return False
    latest = find_highest_version(namespace, name)
    return env_id in gym.registry or (version is None and latest is not None)


def _shapes_as_tuples(value: Any) -> Any:
    """JSON has no tuples, and code that takes a shape may require one (highway-env's images do)."""
    if isinstance(value, dict):
        return {name: _shapes_as_tuples(inner) for name, inner in value.items()}
    is_shape = isinstance(value, list) and all(type(number) is int for number in value)
    return tuple(value) if is_shape else value


def _missing_module(env_id: str, error: ModuleNotFoundError) -> str:
    module = env_id.partition(":")[0]
    if ":" in env_id and error.name is not None and (module + ".").startswith(error.name + "."):
        return f"env.id {env_id!r}: there is no module {module!r}; {_how_to_install(module)}"
    advice = _how_to_install(error.name or "")
    return f"env.id {env_id!r} needs the module {error.name!r}: {advice}"


def _advice(error: Exception) -> str:
    text = one_line(error)
    return _how_to_install("Box2D") if "box2d" in text.lower() else text


def _how_to_install(module: str) -> str:
    """Return the command that installs `module`, or the advice to find one."""
    if module.partition(".")[0].lower() == "box2d":  # of Gymnasium's own environments
        return "pip install 'hvd_dqn[box2d]'"
    return f"install the package that contains {module!r}"
