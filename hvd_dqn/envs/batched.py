"""Simulators that step all copies in one call: what their families share, and Gymnasium's own
vector environments.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs.adapting import BatchAdapter
from hvd_dqn.envs.infos import array_of
from hvd_dqn.envs.interface import EnvironmentFailedError, close_env
from hvd_dqn.envs.simulators import GymnasiumSimulators, SimulatorStep
from hvd_dqn.spaces.records import MASK


class BatchedSimulators(GymnasiumSimulators):
    """Copies that step together, and that cannot be drawn unless a subclass does it."""

    lets_others_run = True

    def __init__(self, num_envs: int, adapter: BatchAdapter) -> None:
        super().__init__(num_envs, adapter.actions, adapter.observations)
        self._adapter = adapter
        self._none_ended = np.zeros(num_envs, dtype=np.bool_)

    def _draw(self) -> Any:
        return None

    def action_names(self) -> None:
        """Return `None`: vector environments do not name their actions."""


class VectorSimulators(BatchedSimulators):
    """A vector environment of Gymnasium's interface, in any of its three autoreset modes.

    `DISABLED`: copies are reset by mask, with a seed each. `SAME_STEP`: a copy that ended returns
    the first observation of its next episode at once, and the true final one in the info.
    `NEXT_STEP`: it returns the final observation, and ignores its next action; that step is
    `skipped`. In the last two modes copies are seeded only when all are reset.
    """

    lets_others_run = False

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        adapter: BatchAdapter,
        info_keys: Sequence[str] = (),
    ) -> None:
        super().__init__(envs.num_envs, adapter)
        self._envs = envs
        self._mode = AutoresetMode(envs.metadata["autoreset_mode"])
        self.seeds_episodes = self._mode is AutoresetMode.DISABLED
        self._info_keys = info_keys
        self._ended = np.zeros(self.num_envs, dtype=np.bool_)
        self._waiting = np.zeros(self.num_envs, dtype=np.bool_)

    def reset(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        """See `Simulators`. In modes other than `DISABLED`, the chosen copies are all, or have
        ended.
        """
        if self._mode is AutoresetMode.DISABLED:
            seed: list[int | None] = [None] * self.num_envs
            for copy, value in zip(np.flatnonzero(chosen).tolist(), seeds, strict=True):
                seed[copy] = value
            options = {"reset_mask": chosen.copy()}
            first = self._envs.reset(seed=seed, options=options)  # type: ignore[arg-type]
            self._frames = self._adapter.encode(*first, ~chosen)  # the infos are those of `chosen`
        elif self._ended[chosen].all():
            self._waiting = chosen & (self._mode is AutoresetMode.NEXT_STEP)
        else:
            assert chosen.all(), "single copies start their episode by themselves"
            self._frames = self._adapter.encode(*self._envs.reset(seed=seeds[0]), self._none_ended)
            self._waiting = np.zeros_like(chosen)
        self._ended = self._ended & ~chosen
        return self._frames

    def step(self, action: np.ndarray) -> SimulatorStep:
        """See `Simulators`."""
        step = self._envs.step(self._adapter.decode(action))
        obs, reward, terminated, truncated, infos = step
        terminated, truncated = np.array(terminated, np.bool_), np.array(truncated, np.bool_)
        same_step = self._mode is AutoresetMode.SAME_STEP
        last = self._none_ended if same_step else terminated  # SAME_STEP has begun the next episode
        frames = self._frames = self._adapter.encode(obs, infos, last)
        reward = np.array(reward, dtype=np.float64).reshape(self.num_envs)
        skipped, self._waiting = self._waiting, np.zeros(self.num_envs, dtype=np.bool_)
        if skipped.any():
            reward[skipped], terminated[skipped], truncated[skipped] = 0.0, False, False
        self._ended = ended = terminated | truncated
        numbers = array_of(infos, self._info_keys, self.num_envs)
        if numbers is not None:
            numbers[skipped] = np.nan  # of no step
        if same_step and ended.any():
            frames = self._with_final(frames, infos, terminated, ended)
            final = array_of(infos.get("final_info", {}), self._info_keys, self.num_envs)
            if numbers is not None and final is not None:
                numbers[ended] = final[ended]
        return SimulatorStep(
            frames,
            reward,
            terminated,
            truncated,
            ended.copy(),
            numbers,
            skipped if skipped.any() else None,
        )

    def _with_final(
        self, frames: np.ndarray, infos: Any, terminated: np.ndarray, ended: np.ndarray
    ) -> np.ndarray:
        """Return the frames with the final observations of the copies that ended."""
        if "final_obs" not in infos:
            raise EnvironmentFailedError(
                "an episode ended, and info has no final_obs, which the autoreset mode SAME_STEP "
                "promises"
            )
        frames = frames.copy()
        masks = infos.get("final_info", {}).get(MASK)
        for copy in np.flatnonzero(ended):
            one = slice(copy, copy + 1)
            info = {} if masks is None else {MASK: masks[one]}
            obs = _batch_of_one(infos["final_obs"][copy])
            frames[copy] = self._adapter.encode(obs, info, terminated[one])[0]
        return frames

    def _draw(self) -> Any:
        drawn = self._envs.render()
        return None if drawn is None else drawn[0]

    def close(self, *, broken: bool = False) -> None:
        """See `Simulators`."""
        close_env(self._envs, "the vector environment")


def _batch_of_one(obs: Any) -> Any:
    """Return an observation as that of a vector environment with one copy."""
    if isinstance(obs, Mapping):
        return {key: _batch_of_one(part) for key, part in obs.items()}
    if isinstance(obs, tuple):
        return tuple(_batch_of_one(part) for part in obs)
    return np.asarray(obs)[None]


def make_vector(env_id: str, count: int, kwargs: dict[str, Any]) -> VectorEnv[Any, Any, Any]:
    """Return the vector environment that a registered id has besides its environment.

    Raises `UserError` if it has none, and what Gymnasium raises for an unknown id.
    """
    if gym.spec(env_id).vector_entry_point is None:
        raise UserError(
            f"env.id {env_id!r} has no vector environment of its own",
            "--env.vectorization vector needs an id with a vector_entry_point; leave it sync",
        )
    return gym.make_vec(env_id, num_envs=count, vectorization_mode="vector_entry_point", **kwargs)


def require_vector(env_id: str, envs: Any) -> None:
    """Raise `UserError` if `envs` is no vector environment or does not say when it resets."""
    if not isinstance(envs, VectorEnv):
        raise UserError(
            f"env.id {env_id!r} returns {type(envs).__name__}",
            "--env.vectorization vector needs a gymnasium.vector.VectorEnv",
        )
    try:
        AutoresetMode(envs.metadata["autoreset_mode"])
    except (KeyError, ValueError) as error:
        close_env(envs, env_id)
        raise UserError(
            f"env.id {env_id!r} does not say how it resets copies whose episodes end",
            'set its metadata["autoreset_mode"] to one of gymnasium.vector.AutoresetMode',
        ) from error


def require_plain(config: EnvConfig, source: str, *, pictures: bool) -> None:
    """Raise `UserError` if options of single environments are set for those of `source`."""
    if config.wrappers:
        raise UserError(
            f"env.wrappers {config.wrappers[0]!r}: {source} steps all copies in one call, and "
            "wrappers are for single environments",
            "leave env.wrappers out",
        )
    if config.vectorization == "async":
        raise UserError(
            f"env.vectorization = 'async': {source} steps all copies in one call", "leave it sync"
        )
    if pictures:
        raise UserError(f"env.id {config.id!r}: {source} renders no pictures here")


def require_package(env_id: str, module: str, extra: str) -> None:
    """Raise `UserError` if `module` is not installed."""
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"env.id {env_id!r} needs {module}, which is not installed",
            f"pip install 'hvd_dqn[{extra}]'",
        )
