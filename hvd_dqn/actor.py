"""Collecting experience: ε-greedy steps of this rank's environments into its replay."""

from __future__ import annotations

import numpy as np
import torch

from hvd_dqn.envs import VectorEnvironment
from hvd_dqn.networks import QNetwork
from hvd_dqn.replay import ReplayBuffer
from hvd_dqn.structs import Episode


class GreedyPolicy:
    """The action of the highest value."""

    def __init__(self, network: QNetwork, device: torch.device) -> None:
        self._network = network
        self._device = device

    @torch.no_grad()
    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Actions [N] int64 for observations [N, *shape]. On a GPU this waits for the result."""
        values = self._network(torch.from_numpy(obs).to(self._device))
        action: np.ndarray = values.argmax(dim=1).cpu().numpy()
        return action


class Actor:
    """Steps the environments of one rank and keeps what they give."""

    def __init__(
        self,
        envs: VectorEnvironment,
        policy: GreedyPolicy,
        replay: ReplayBuffer,
        rng: np.random.Generator,
    ) -> None:
        self._envs = envs
        self._policy = policy
        self._replay = replay
        self._rng = rng
        self._obs = envs.reset()
        replay.start(self._obs)

    def step(self, epsilon: float) -> list[Episode]:
        """One step of every environment, each random with probability `epsilon`; the episodes that
        ended with it.
        """
        explore = self._rng.random(self._envs.num_envs) < epsilon
        action = self._rng.integers(self._envs.num_actions, size=self._envs.num_envs)
        if not explore.all():
            action = np.where(explore, action, self._policy(self._obs))
        step = self._envs.step(action)
        self._replay.add(
            action=action,
            reward=step.reward,
            terminated=step.terminated,
            truncated=step.truncated,
            next_obs=step.next_obs,
            obs=step.obs,
        )
        self._obs = step.obs
        return step.episodes
