"""Simulators that step all copies in one call: what their families share, and Gymnasium's own
vector environments.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs.infos import array_of
from hvd_dqn.envs.interface import EnvironmentFailedError, close_env
from hvd_dqn.envs.simulators import GymnasiumSimulators, SimulatorStep


class Declared(gym.Env[Any, Any]):
    """The spaces of one copy, for checks that take an environment."""

    def __init__(self, observations: Any, actions: Any) -> None:
        self.observation_space, self.action_space = observations, actions


class BatchedSimulators(GymnasiumSimulators):
    """Copies that step together, and that cannot be drawn unless a subclass does it."""

    lets_others_run = True

    def _checked(self, obs: Any) -> np.ndarray:
        """Return observations [N, …] in new memory. Raises `EnvironmentFailedError` if they do not
        have the shape of the space.
        """
        frames = np.array(obs, dtype=self.raw_space.dtype)
        if frames.shape != (self.num_envs, *self.raw_space.shape):
            raise EnvironmentFailedError(
                f"{self.num_envs} copies of {self.raw_space} returned observations of shape "
                f"{frames.shape}"
            )
        return frames

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

    def __init__(self, envs: VectorEnv[Any, Any, Any], info_keys: Sequence[str] = ()) -> None:
        super().__init__(envs.num_envs, envs.single_action_space, envs.single_observation_space)
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
            self._frames = self._checked(self._envs.reset(seed=seed, options=options)[0])  # type: ignore[arg-type]
        elif self._ended[chosen].all():
            self._waiting = chosen & (self._mode is AutoresetMode.NEXT_STEP)
        else:
            assert chosen.all(), "single copies start their episode by themselves"
            self._frames = self._checked(self._envs.reset(seed=seeds[0])[0])
            self._waiting = np.zeros_like(chosen)
        self._ended = self._ended & ~chosen
        return self._frames

    def step(self, action: np.ndarray) -> SimulatorStep:
        """See `Simulators`."""
        obs, reward, terminated, truncated, infos = self._envs.step(action + self._first_action)
        frames = self._frames = self._checked(obs)
        terminated, truncated = np.array(terminated, np.bool_), np.array(truncated, np.bool_)
        reward = np.array(reward, dtype=np.float64).reshape(self.num_envs)
        skipped, self._waiting = self._waiting, np.zeros(self.num_envs, dtype=np.bool_)
        if skipped.any():
            reward[skipped], terminated[skipped], truncated[skipped] = 0.0, False, False
        self._ended = ended = terminated | truncated
        numbers = array_of(infos, self._info_keys, self.num_envs)
        if numbers is not None:
            numbers[skipped] = np.nan  # of no step
        if self._mode is AutoresetMode.SAME_STEP and ended.any():
            frames = self._with_final(frames, infos, ended)
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

    def _with_final(self, frames: np.ndarray, infos: Any, ended: np.ndarray) -> np.ndarray:
        """Return the frames with the final observations of the copies that ended."""
        if "final_obs" not in infos:
            raise EnvironmentFailedError(
                "an episode ended, and info has no final_obs, which the autoreset mode SAME_STEP "
                "promises"
            )
        frames = frames.copy()
        for copy in np.flatnonzero(ended):
            frames[copy] = infos["final_obs"][copy]
        return frames

    def _draw(self) -> Any:
        drawn = self._envs.render()
        return None if drawn is None else drawn[0]

    def close(self, *, broken: bool = False) -> None:
        """See `Simulators`."""
        close_env(self._envs, "the vector environment")


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
