"""A vector environment: every step a decision, and every episode's true return kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hvd_dqn.envs.frames import FrameStack
from hvd_dqn.envs.simulators import Simulators
from hvd_dqn.structs import Episode


class EnvStep(NamedTuple):
    """What one step of N environments gives.

    next_obs [N, *shape] follows the action, and is the true final observation where an episode
    ended; obs [N, *shape] is what to act on now: the next episode's first observation where one
    ended, else next_obs; reward [N] float32, clipped where the config says so; terminated [N] bool,
    the learner's signal, which a lost life may give while the game goes on; truncated [N] bool;
    ended [N] bool: the environment was restarted; episodes: those that ended, in order of
    environment.
    """

    next_obs: np.ndarray
    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    ended: np.ndarray
    episodes: list[Episode]


class VectorEnvironment:
    """N copies of an environment; an ended one is reset at once, so no step is spent on a reset.

    Episode k of copy i starts from `episode_seed(i, k)`: any episode can be started again alone.
    An observation is the newest `frame_stack` frames of its episode, with zeros before its first;
    its newest frame is `obs[:, -frame_shape[0]:]`. An episode of `max_episode_steps` is truncated.
    """

    def __init__(
        self,
        simulators: Simulators,
        *,
        episode_seed: Callable[[int, int], int],
        frame_stack: int = 1,
        reward_clip: float | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        self._simulators = simulators
        self._episode_seed = episode_seed
        self._frames = FrameStack(simulators.raw_space, frame_stack)
        self._clip = math.inf if reward_clip is None else reward_clip
        self._max_steps = math.inf if max_episode_steps is None else max_episode_steps
        self.num_envs = simulators.num_envs
        self.num_actions = simulators.num_actions
        self.frame_stack = frame_stack
        self.frame_shape = self._frames.frame_shape
        self.obs_space = self._frames.obs_space
        self.obs_dtype = self._frames.dtype
        self._obs = np.empty(0)
        self._episode_number = np.zeros(self.num_envs, dtype=np.int64)
        self._return = np.zeros(self.num_envs, dtype=np.float64)
        self._length = np.zeros(self.num_envs, dtype=np.int64)

    def reset(self) -> np.ndarray:
        """Start episode 0 in every copy: observations [N, *shape]."""
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        self._episode_number[:] = -1
        self._obs = self._frames.first(self._start_next(everyone))
        return self._obs

    def step(self, action: np.ndarray) -> EnvStep:
        """Take action [N] int in 0 … num_actions − 1."""
        step = self._simulators.step(action)
        self._return += step.reward
        self._length += 1
        reward = step.reward.astype(np.float32).clip(-self._clip, self._clip)
        overlong = self._length >= self._max_steps
        truncated, ended = step.truncated | overlong, step.ended | overlong
        next_obs = obs = self._frames.following(self._obs, step.frames)
        episodes = []
        if ended.any():
            episodes = [
                Episode(float(self._return[i]), int(self._length[i])) for i in np.flatnonzero(ended)
            ]
            obs = next_obs.copy()
            obs[ended] = self._frames.first(self._start_next(ended)[ended])
        self._obs = obs
        return EnvStep(next_obs, obs, reward, step.terminated, truncated, ended, episodes)

    def close(self) -> None:
        """End the copies and their processes."""
        self._simulators.close()

    def _start_next(self, chosen: np.ndarray) -> np.ndarray:
        """Start the next episode of the chosen copies: the raw frames of all copies."""
        self._return[chosen] = 0.0
        self._length[chosen] = 0
        self._episode_number[chosen] += 1
        seeds = [
            self._episode_seed(int(copy), int(self._episode_number[copy]))
            for copy in np.flatnonzero(chosen)
        ]
        return self._simulators.reset(chosen, seeds)
