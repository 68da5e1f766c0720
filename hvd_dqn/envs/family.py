"""Families of environments: how the environments of a package are registered and made.

This base class is the family of Gymnasium's own environments and of the user's. Families of other
packages derive from it and override what differs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, NamedTuple

import gymnasium as gym
from gymnasium.envs.registration import find_highest_version, parse_env_id

from hvd_dqn.common.errors import UserError, did_you_mean, one_line, typed_line
from hvd_dqn.common.extensions import import_of_user, missing_module
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs.adapting import BatchAdapter, adapted
from hvd_dqn.envs.batched import VectorSimulators, make_vector, require_vector
from hvd_dqn.envs.checks import check_env
from hvd_dqn.envs.hints import hint, package_of
from hvd_dqn.envs.infos import InfoNumbers
from hvd_dqn.envs.interface import (
    ONLY,
    RAISED,
    EnvironmentFailedError,
    InterfaceError,
    Place,
    close_env,
    require_gymnasium,
    require_same_spaces,
)
from hvd_dqn.envs.settings import settings_kept
from hvd_dqn.envs.simulators import ProcessSimulators, SerialSimulators, Simulators
from hvd_dqn.envs.workers import Copy, ProcessEndedError
from hvd_dqn.envs.wrappers import shapes_as_tuples, wrap
from hvd_dqn.spaces.records import Text

_SET_BY_US = ("id", "disable_env_checker")
"""Arguments of `gymnasium.make` that `env.kwargs` cannot set."""


class Made(NamedTuple):
    """Simulators, and the steps after which `VectorEnvironment` must truncate their episodes, from
    the steps that the caller allows (`None`: any number).
    """

    simulators: Simulators
    limit_of: Callable[[int | None], int | None]


class Family:
    """Environments that are made in the same way.

    ids: regular expression for the start of their ids; package: its name at PyPI; module: the
    module that registers the ids when it is imported (Gymnasium 1.x loads no plugins by itself);
    extra: the extra of hvd_dqn that installs it; channels: the axis of the channels of its images,
    "auto" if it is not known; text: what becomes of text in their observations, `None` if they are
    refused.
    """

    ids = ""
    package = ""
    module = ""
    extra = ""
    channels: Literal["auto", "first", "last"] = "auto"
    text: Text | None = None

    def claims(self, config: EnvConfig) -> bool:
        """Whether this family makes the environments of `env.id`."""
        return re.match(self.ids, config.id.rpartition(":")[2]) is not None

    def make_simulators(
        self,
        config: EnvConfig,
        places: Sequence[Place],
        *,
        threads: int,
        pictures: bool,
        info_keys: Sequence[str] = (),
    ) -> Made:
        """Return one copy for each of `places`. `threads` is the number for simulators that step
        copies in threads. `pictures`: the copies can be rendered. `info_keys` names the numbers in
        infos that steps return.

        At no time does this process hold more environments than copies. Raises `UserError` if they
        cannot be made.
        """
        if config.vectorization == "vector":
            return self._make_vector(config, places, pictures=pictures, info_keys=info_keys)
        make = partial(self.make_copy, config, info_keys=info_keys)
        probe = make(places[0])  # reports a bad id in this process, in one line
        limits_itself = probe.spec is not None and probe.spec.max_episode_steps is not None
        extra: dict[str, Any] = {}
        if pictures:
            extra["render_mode"] = "rgb_array"
            if "rgb_array" not in probe.metadata.get("render_modes", []):
                close_env(probe, str(places[0]))
                raise UserError(f'env.id {config.id!r} does not support render_mode="rgb_array"')
        makers = [partial(make, place, **extra) for place in places]
        simulators: Simulators
        if config.vectorization == "async":
            close_env(probe, str(places[0]))
            simulators = _make_processes(config, makers, places, probe)
        else:
            if pictures:
                close_env(probe, str(places[0]))
            simulators = _make_serial(config, makers, places, None if pictures else probe)
        return Made(simulators, lambda steps: None if limits_itself else steps)

    def make_env(self, config: EnvConfig, place: Place = ONLY, **kwargs: Any) -> gym.Env[Any, Any]:
        """Return one environment with discrete actions. `place` fills the
        placeholders in `env.kwargs`; `kwargs` take precedence over these.

        Raises `UserError` for an unknown id, a missing package, rejected keyword arguments and
        spaces that DQN cannot use.
        """
        self.register(config.id)
        given = place.fill(shapes_as_tuples(json.loads(config.kwargs))) | kwargs
        with settings_kept(), _told_in_one_line(config):
            env: gym.Env[Any, Any] = self._construct(config.id, given)
            env = wrap(env, config.wrappers, place)
        try:
            require_gymnasium(config.id, env)
        except UserError:
            close_env(env, config.id)
            raise
        check_env(config.id, env)
        return env

    def _make_vector(
        self,
        config: EnvConfig,
        places: Sequence[Place],
        *,
        pictures: bool,
        info_keys: Sequence[str],
    ) -> Made:
        """Return the copies of one vector environment. If it resets them by itself, it alone limits
        their episodes.
        """
        self.register(config.id)
        kwargs = places[0].fill(shapes_as_tuples(json.loads(config.kwargs)))
        if pictures:
            kwargs["render_mode"] = "rgb_array"
        with settings_kept(), _told_in_one_line(config):
            function = self._function_of(config.id)
            if function is None:
                envs = make_vector(config.id, len(places), kwargs)
            else:
                envs = function(num_envs=len(places), **kwargs)
        require_vector(config.id, envs)
        adapter = BatchAdapter(config, envs.single_observation_space, envs.single_action_space)
        simulators = VectorSimulators(envs, adapter, info_keys)
        if simulators.num_envs != len(places):
            simulators.close()
            raise UserError(
                f"env.id {config.id!r} returned {simulators.num_envs} copies, not {len(places)}"
            )
        return Made(simulators, lambda steps: steps if simulators.seeds_episodes else None)

    def make_copy(
        self, config: EnvConfig, place: Place, *, info_keys: Sequence[str] = (), **kwargs: Any
    ) -> gym.Env[Any, Any]:
        """Return one copy with the wrappers of this package; see `make_env`."""
        env = self.make_env(config, place, **kwargs)
        adapted_env = adapted(env, config, config.text or self.text)
        return InfoNumbers(adapted_env, info_keys) if info_keys else adapted_env

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

    def _function_of(self, env_id: str) -> Callable[..., Any] | None:
        """Import the module that an id names. Return its function, `None` if it is an id."""
        module, _, name = env_id.rpartition(":")
        if not module:
            return None
        function = getattr(import_of_user(f"env.id {env_id!r}", module), name, None)
        return function if callable(function) and not _is_registered(name) else None

    def _construct(self, env_id: str, kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
        function = self._function_of(env_id)
        if function is not None:
            made: gym.Env[Any, Any] = function(**kwargs)
            return made
        _require_of_module(env_id)
        for argument in _SET_BY_US:
            if argument in kwargs:
                raise UserError(
                    f"env.kwargs has {argument!r}, which hvd_dqn sets itself", "leave it out"
                )
        return gym.make(env_id, disable_env_checker=True, **kwargs)


@contextmanager
def _told_in_one_line(config: EnvConfig) -> Iterator[None]:
    """Raise `UserError` for whatever the making of an environment raises."""
    try:
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(_no_module(config.id, error)) from error
    except gym.error.DependencyNotInstalled as error:
        raise UserError(
            f"env.id {config.id!r} needs a package that is not installed: {_advice(error)}"
        ) from error
    except gym.error.Error as error:
        raise UserError(_unknown_id(config.id, error)) from error
    except RAISED as error:  # an environment's constructor may raise anything
        with_kwargs = f" with env.kwargs {config.kwargs}" if config.kwargs != "{}" else ""
        raise UserError(
            f"env.id {config.id!r} cannot be made{with_kwargs}: {typed_line(error)}"
        ) from error


def _make_serial(
    config: EnvConfig,
    makers: Sequence[Callable[[], gym.Env[Any, Any]]],
    places: Sequence[Place],
    probe: gym.Env[Any, Any] | None,
) -> SerialSimulators:
    """Make the copies in this process; `probe` is the first one if it is given."""
    envs = [] if probe is None else [probe]
    try:
        for make in makers[len(envs) :]:
            envs.append(make())
            require_same_spaces(envs[-1], envs[0].observation_space, envs[0].action_space)
    except (UserError, InterfaceError) as error:
        place = places[len(envs) - 1]
        for env, its in zip(envs, places, strict=False):
            close_env(env, str(its))
        if isinstance(error, InterfaceError):
            raise UserError(f"env.id {config.id!r}, {place}: {error}") from error
        if not envs:
            raise
        raise UserError(
            f"{error} (copy {len(envs) + 1} of {len(makers)}; the first could be made)",
            "if the simulator runs once per process, pass --env.num-envs 1 or --env.vectorization "
            "async; if each needs a port or a directory of its own, use {rank}, {copy} or {index} "
            "in env.kwargs",
        ) from error
    return SerialSimulators(envs, places)


def _make_processes(
    config: EnvConfig,
    makers: Sequence[Callable[[], gym.Env[Any, Any]]],
    places: Sequence[Place],
    probe: gym.Env[Any, Any],
) -> ProcessSimulators:
    first = Copy(makers[0], probe)
    try:
        return ProcessSimulators([first, *map(Copy, makers[1:])], places)
    except EnvironmentFailedError as error:
        raise UserError(
            f"env.id {config.id!r} cannot be made in a process of its own: {one_line(error)}",
            'a script that calls hvd_dqn.train needs if __name__ == "__main__": around the call'
            if isinstance(error, ProcessEndedError)
            else "",
        ) from error


def _require_of_module(env_id: str) -> None:
    """Raise `UserError` if an id with a module is Gymnasium's own: the module would be imported,
    and the environment would be another than the module's.
    """
    module, _, name = env_id.rpartition(":")
    spec = gym.registry.get(name)
    own = spec is not None and str(spec.entry_point).startswith("gymnasium.")
    if module and own and module.partition(".")[0] != "gymnasium":
        raise UserError(
            f"env.id {env_id!r}: {module!r} does not register {name!r}, which is Gymnasium's own",
            f"--env.id {name} trains that one; --env.id module:function calls a function",
        )


def _is_registered(env_id: str) -> bool:
    """Whether Gymnasium knows this id, with or without a version."""
    try:
        namespace, name, version = parse_env_id(env_id)
    except gym.error.Error:
        return False
    latest = find_highest_version(namespace, name)
    return env_id in gym.registry or (version is None and latest is not None)


def _no_module(env_id: str, error: ModuleNotFoundError) -> str:
    module, missing = env_id.rpartition(":")[0], missing_module(error)
    if missing is None:
        return f"env.id {env_id!r} needs a module that is not installed: {one_line(error)}"
    if (module + ".").startswith(missing + "."):
        return f"env.id {env_id!r}: there is no module {module!r}; {_how_to_install(module)}"
    return f"env.id {env_id!r} needs the module {missing!r}: {_how_to_install(missing)}"


def _unknown_id(env_id: str, error: gym.error.Error) -> str:
    """Return why Gymnasium does not know an id, with the module that was imported for it: it may be
    another than the user's of the same name, or no longer contain the class.
    """
    module, _, name = env_id.rpartition(":")
    loaded = sys.modules.get(module)
    if loaded is None:
        return f"env.id {env_id!r}: {hint(env_id) or one_line(error)}"
    file = getattr(loaded, "__file__", None) or "built into Python"
    if module.partition(".")[0] in sys.stdlib_module_names:
        return (
            f"env.id {env_id!r}: the module {module!r} that was imported is Python's own ({file}); "
            "rename yours"
        )
    there = [key for key, value in vars(loaded).items() if callable(value) and key[0] != "_"]
    if name.isidentifier():
        remedy = did_you_mean(name, there, "it may have been renamed or removed")
        return f"env.id {env_id!r}: the module {module!r} ({file}) contains no {name!r}: {remedy}"
    return f"env.id {env_id!r}: {one_line(error)} The module {module!r} is {file}."


def _advice(error: Exception) -> str:
    text = one_line(error)
    return _how_to_install("Box2D") if "box2d" in text.lower() else text


def _how_to_install(module: str) -> str:
    """Return the command that installs `module`, or the advice to find one."""
    if module.partition(".")[0].lower() == "box2d":  # of Gymnasium's own environments
        return "pip install 'hvd_dqn[box2d]'"
    package = package_of(module)
    return f"pip install {package}" if package else f"install the package that contains {module!r}"
