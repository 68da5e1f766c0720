"""The family of EnvPool: `envpool:Name`, environments that C++ threads step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from hvd_dqn.common.errors import UserError, did_you_mean, typed_line
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs.adapting import BatchAdapter
from hvd_dqn.envs.batched import BatchedSimulators, require_package, require_plain
from hvd_dqn.envs.family import Family, Made
from hvd_dqn.envs.infos import array_of
from hvd_dqn.envs.interface import RAISED, Place, close_env
from hvd_dqn.envs.simulators import SimulatorStep
from hvd_dqn.envs.wrappers import shapes_as_tuples

_PREFIX = "envpool:"


class EnvPoolSimulators(BatchedSimulators):
    """A pool of copies of one of EnvPool's environments.

    EnvPool resets a copy by itself at the step after its end, unless it is reset before, as here.
    It takes seeds only when the pool is made, one for each copy. So the pool is made again if all
    copies are reset in the middle of their episodes: at the start, and for each evaluation.
    """

    seeds_episodes = False

    def __init__(
        self,
        config: EnvConfig,
        task: str,
        num_envs: int,
        kwargs: dict[str, Any],
        info_keys: Sequence[str],
    ) -> None:
        """Raises what EnvPool raises for these arguments."""
        import envpool

        self._task, self._kwargs, self._info_keys = task, kwargs, info_keys
        self._module: Any = envpool
        spec = self._module.make_spec(task, num_envs=num_envs, **kwargs)
        self.limits_itself = 0 < getattr(spec.config, "max_episode_steps", 0) < 2**31 - 1
        self._pool: Any = None
        self._ended = np.zeros(num_envs, dtype=np.bool_)
        spaces = spec.gymnasium_observation_space, spec.gymnasium_action_space
        super().__init__(num_envs, BatchAdapter(config, *spaces))

    def reset(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        """See `Simulators`."""
        if chosen.all() and not self._ended.all():
            self._make(seeds)
            obs, info = self._pool.reset()
            self._frames = self._adapter.encode(obs, info, self._none_ended)
        else:
            copies = np.flatnonzero(chosen)
            obs, info = self._pool.reset(copies)
            frames = self._frames.copy()
            frames[info["env_id"]] = self._adapter.encode(obs, info, self._none_ended[copies])
            self._frames = frames
        self._ended = self._ended & ~chosen
        return self._frames

    def step(self, action: np.ndarray) -> SimulatorStep:
        """See `Simulators`."""
        step = self._pool.step(self._adapter.decode(action))
        obs, reward, terminated, truncated, info = step
        terminated, truncated = np.array(terminated, np.bool_), np.array(truncated, np.bool_)
        self._frames = self._adapter.encode(obs, info, terminated)
        self._ended = terminated | truncated
        return SimulatorStep(
            self._frames,
            np.array(reward, dtype=np.float64),
            terminated,
            truncated,
            self._ended.copy(),
            array_of(info, self._info_keys, self.num_envs),
        )

    def _make(self, seeds: list[int]) -> None:
        self.close()
        self._pool = self._module.make(
            self._task, env_type="gymnasium", num_envs=self.num_envs, seed=seeds, **self._kwargs
        )
        self._ended = np.zeros(self.num_envs, dtype=np.bool_)

    def close(self, *, broken: bool = False) -> None:
        """See `Simulators`."""
        if self._pool is not None:
            close_env(self._pool, f"{_PREFIX}{self._task}")
            self._pool = None


class EnvPool(Family):
    """EnvPool's ids, with the prefix `envpool:`."""

    package = module = "envpool"
    extra = "envpool"

    def claims(self, config: EnvConfig) -> bool:
        """See `Family`."""
        return config.id.startswith(_PREFIX)

    def make_simulators(
        self,
        config: EnvConfig,
        places: Sequence[Place],
        *,
        threads: int,
        pictures: bool,
        info_keys: Sequence[str] = (),
    ) -> Made:
        """See `Family`. Atari games are not stacked by EnvPool unless `env.kwargs` says so."""
        require_plain(config, "EnvPool", pictures=pictures)
        require_package(config.id, self.module, self.extra)
        import envpool

        task = config.id.removeprefix(_PREFIX)
        known = envpool.list_all_envs()
        if task not in known:
            raise UserError(
                f"env.id {config.id!r}: EnvPool has no {task!r}",
                did_you_mean(task, known, "envpool.list_all_envs() has all of its ids"),
            )
        given = places[0].fill(shapes_as_tuples(json.loads(config.kwargs)))
        try:
            stacks = "stack_num" in envpool.make_spec(task).config._fields
            kwargs = {
                "num_threads": min(threads, len(places)),
                **({"stack_num": 1} if stacks else {}),
                **given,
            }
            simulators = EnvPoolSimulators(config, task, len(places), kwargs, info_keys)
        except UserError:
            raise
        except RAISED as error:
            raise UserError(
                f"env.id {config.id!r} cannot be made with env.kwargs {config.kwargs}: "
                f"{typed_line(error)}"
            ) from error
        return Made(simulators, lambda steps: None if simulators.limits_itself else steps)
