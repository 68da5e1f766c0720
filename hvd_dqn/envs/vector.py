"""A vector environment: every step a decision, and every episode's true return kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from hvd_dqn.structs import Episode


class EnvStep(NamedTuple):
    """What one step of N environments gives.

    next_obs [N, *shape] follows the action, and is the true final observation where an episode
    ended; obs [N, *shape] is what to act on now: the next episode's first observation where one
    ended, else next_obs; reward [N] float32; terminated, truncated [N] bool; episodes: those that
    ended, in order of environment.
    """

    next_obs: np.ndarray
    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    episodes: list[Episode]


class VectorEnvironment:
    """N copies of an environment; an ended one is reset at once, so no step is spent on a reset.

    Episode k of copy i starts from `episode_seed(i, k)`: any episode can be started again alone.
    """

    def __init__(
        self, envs: VectorEnv[Any, Any, Any], *, episode_seed: Callable[[int, int], int]
    ) -> None:
        assert isinstance(envs.single_action_space, gym.spaces.Discrete)
        self._envs = envs
        self._episode_seed = episode_seed
        self.num_envs = envs.num_envs
        assert isinstance(envs.single_observation_space, gym.spaces.Box)
        self.obs_space = envs.single_observation_space
        is_bytes = self.obs_space.dtype == np.uint8
        self.obs_dtype = np.dtype(np.uint8) if is_bytes else np.dtype(np.float32)
        self.num_actions = int(envs.single_action_space.n)
        self._first_action = int(envs.single_action_space.start)
        self._episode_number = np.zeros(self.num_envs, dtype=np.int64)
        self._return = np.zeros(self.num_envs, dtype=np.float64)
        self._length = np.zeros(self.num_envs, dtype=np.int64)

    def reset(self) -> np.ndarray:
        """Start episode 0 in every copy: observations [N, *shape]."""
        self._episode_number[:] = 0
        self._return[:] = 0.0
        self._length[:] = 0
        obs, _ = self._envs.reset(seed=cast(Any, [self._seed_of(i) for i in range(self.num_envs)]))
        return self._as_stored(obs)

    def step(self, action: np.ndarray) -> EnvStep:
        """Take action [N] int in 0 … num_actions − 1."""
        raw_obs, raw_reward, terminated, truncated, _ = self._envs.step(action + self._first_action)
        # Gymnasium hands out its own arrays for the flags and the rewards: they change at the next
        # step.
        reward = raw_reward.astype(np.float32)
        terminated, truncated = terminated.copy(), truncated.copy()
        self._return += raw_reward
        self._length += 1
        next_obs = self._as_stored(raw_obs)
        ended = terminated | truncated
        if not ended.any():
            return EnvStep(next_obs, next_obs, reward, terminated, truncated, [])
        episodes = [
            Episode(float(self._return[i]), int(self._length[i])) for i in np.flatnonzero(ended)
        ]
        obs = self._restart(ended)
        return EnvStep(next_obs, obs, reward, terminated, truncated, episodes)

    def close(self) -> None:
        """End the copies and their processes."""
        self._envs.close()

    def _restart(self, ended: np.ndarray) -> np.ndarray:
        self._return[ended] = 0.0
        self._length[ended] = 0
        self._episode_number[ended] += 1
        seeds = [self._seed_of(i) if ended[i] else None for i in range(self.num_envs)]
        obs, _ = self._envs.reset(seed=cast(Any, seeds), options={"reset_mask": ended.copy()})
        return self._as_stored(obs)

    def _seed_of(self, copy: int) -> int:
        return self._episode_seed(copy, int(self._episode_number[copy]))

    def _as_stored(self, obs: np.ndarray) -> np.ndarray:
        return np.asarray(obs).astype(self.obs_dtype, copy=True)
