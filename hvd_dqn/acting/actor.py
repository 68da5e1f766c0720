"""Collecting experience: steps of this rank's environments into its replay."""

from __future__ import annotations

from typing import Any

import numpy as np

from hvd_dqn.acting.exploration import Exploration
from hvd_dqn.acting.greedy import GreedyPolicy
from hvd_dqn.common.stages import StageClock
from hvd_dqn.common.structs import Episode
from hvd_dqn.envs import EnvStep, EpisodesLostError, VectorEnvironment
from hvd_dqn.replay import ReplayBuffer


class Actor:
    """Steps the environments of one rank and keeps what they give."""

    def __init__(
        self,
        envs: VectorEnvironment,
        policy: GreedyPolicy,
        exploration: Exploration,
        replay: ReplayBuffer,
        clock: StageClock,
    ) -> None:
        self._clock = clock
        self._envs = envs
        self._policy = policy
        self._exploration = exploration
        self._replay = replay
        self.begin_episodes(0)

    def begin_episodes(self, number: int) -> None:
        """Start the episode of this number in every environment, by the network as it is."""
        self._policy.follow()
        self._obs = self._envs.reset(number)
        self._replay.start(self._obs)
        self._exploration.end_episodes(np.ones(len(self._obs), dtype=np.bool_))

    def step(self, epsilon: np.ndarray) -> list[Episode]:
        """One step of every environment, ε-greedy with its ε of [N]; the episodes that ended."""
        while True:
            action = self._choose(epsilon)
            try:
                step = self._envs.step(action)
                break
            except EpisodesLostError:
                self._lose_episodes(np.ones(len(action), dtype=np.bool_))
        return self._keep(action, step)

    def begin_step(self, epsilon: np.ndarray) -> None:
        """The same in two halves, between which the environments are under way: the replay stays
        as it is until `finish_step`.
        """
        action = self._choose(epsilon)
        self._envs.begin(action)
        self._policy.follow()
        self._begun = epsilon, action

    def step_meanwhile(self) -> None:
        """This rank would wait for others now."""
        self._envs.step_meanwhile()
        self._clock.lap("envs")

    def finish_step(self) -> list[Episode]:
        """The episodes that ended in the step that was begun."""
        epsilon, action = self._begun
        try:
            step = self._envs.finish()
        except EpisodesLostError:
            self._lose_episodes(np.ones(len(action), dtype=np.bool_))
            return self.step(epsilon)
        return self._keep(action, step)

    def _choose(self, epsilon: np.ndarray) -> np.ndarray:
        action = self._exploration.choose(epsilon, lambda: self._policy(self._obs))
        self._clock.lap("acting")
        return action

    def _keep(self, action: np.ndarray, step: EnvStep) -> list[Episode]:
        self._clock.lap("envs")
        self._replay.add(
            action=action,
            reward=step.reward,
            terminated=step.terminated,
            truncated=step.truncated,
            ended=step.ended,
            next_obs=step.next_obs,
            obs=step.obs,
        )
        if step.episodes:
            self._exploration.end_episodes(step.ended)
        self._obs = step.obs
        self._clock.lap("replay")
        return step.episodes

    def state_dict(self) -> dict[str, Any]:
        """Environments, exploration and the policy's noise; the replay has a state of its own."""
        return {
            "envs": self._envs.state_dict(),
            "exploration": self._exploration.state_dict(),
            "policy": self._policy.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """Put back what `state_dict` gave, after the replay's; the number of environments whose
        episode could not be played again and has ended instead.
        """
        lost = self._envs.load_state_dict(state["envs"])
        self._exploration.load_state_dict(state["exploration"])
        self._policy.load_state_dict(state["policy"])
        self._obs = self._envs.obs
        if lost.any():
            self._lose_episodes(lost)
        return int(lost.sum())

    def _lose_episodes(self, lost: np.ndarray) -> None:
        """The environments [N] `lost` are at the beginning of other episodes."""
        self._obs = self._envs.obs
        self._replay.truncate(np.flatnonzero(lost), self._obs[lost])
        self._exploration.end_episodes(lost)

    def load_random_streams(self, state: dict[str, Any]) -> None:
        """Put back that part of a `state_dict` alone."""
        self._exploration.load_random_stream(state["exploration"])
        self._policy.load_state_dict(state["policy"])
