"""The actor: steps this rank's environments and stores the transitions in its replay."""

from __future__ import annotations

from typing import Any

import numpy as np

from hvd_dqn.acting.exploration import Exploration, Values, as_actions
from hvd_dqn.acting.greedy import GreedyPolicy
from hvd_dqn.common.stages import StageClock
from hvd_dqn.common.structs import EnvStep, Episode, ReplayedEpisodes
from hvd_dqn.envs import EpisodesLostError, VectorEnvironment
from hvd_dqn.replay import Experience
from hvd_dqn.spaces.actions import best_values


class Actor:
    """Steps the environments of one rank and stores the transitions. The environments have been
    reset.
    """

    def __init__(
        self,
        envs: VectorEnvironment,
        policy: GreedyPolicy,
        exploration: Exploration,
        experience: Experience,
        clock: StageClock,
    ) -> None:
        self.exploration = exploration
        self._clock = clock
        self._envs = envs
        self._policy = policy
        self._experience = experience
        self._values = Values(self._compute_values, envs.branches)
        self._value: np.ndarray | None = None  # of the observations to act on, if it is needed
        self._begin(envs.obs)

    def begin_episodes(self, number: int) -> None:
        """Start the episode of this number in every environment, with the current network."""
        self._begin(self._envs.reset(number))

    def _begin(self, obs: np.ndarray) -> None:
        self._policy.follow()
        self._obs = obs
        self._experience.start(self._obs)
        self.exploration.end_episodes(np.ones(len(self._obs), dtype=np.bool_))

    def step(self, env_steps: int) -> list[Episode]:
        """Step every environment once, after `env_steps` global env steps. Return the episodes that
        ended.
        """
        while True:
            action = self._choose(env_steps)
            try:
                step = self._envs.step(action)
                break
            except EpisodesLostError as error:
                self._lose_episodes(error.lost)
        return self._store(action, step)

    def begin_step(self, env_steps: int) -> None:
        """Start a step that `finish_step` completes. Until then the environments may step in the
        background, and the replay does not change.
        """
        action = self._choose(env_steps)
        self._envs.begin(action)
        self._policy.follow()
        self._begun = env_steps, action

    def step_meanwhile(self) -> None:
        """Take the step that was begun, if the environments cannot step in the background. Called
        when this rank would otherwise wait for other ranks.
        """
        self._envs.step_meanwhile()
        self._clock.lap("envs")

    def finish_step(self) -> list[Episode]:
        """Complete the step that was begun. Return the episodes that ended."""
        env_steps, action = self._begun
        try:
            step = self._envs.finish()
        except EpisodesLostError as error:
            self._lose_episodes(error.lost)
            return self.step(env_steps)
        return self._store(action, step)

    def _compute_values(self) -> np.ndarray:
        values = self._policy.values(self._obs)
        if self._experience.needs_values:
            self._value = best_values(values, self._envs.branches)
        return values

    def _choose(self, env_steps: int) -> np.ndarray:
        self._value = None
        legal = self._envs.legal_actions(self._obs)
        chosen = self.exploration.choose(env_steps, self._values, legal)
        action = as_actions(chosen, len(self._obs), self._envs.num_actions, legal)
        self._clock.lap("acting")
        return action

    def _store(self, action: np.ndarray, step: EnvStep) -> list[Episode]:
        self._clock.lap("envs")
        taken = action if step.action is None else step.action
        self._experience.add(taken, step, self._noted_value())
        if step.episodes:
            self.exploration.end_episodes(step.ended)
        self._obs = step.obs
        self._clock.lap("replay")
        return step.episodes

    def _noted_value(self) -> np.ndarray | None:
        """Return the value of each observation that was acted on, if the experience needs it."""
        if self._value is None and self._experience.needs_values:  # all environments explored
            self._compute_values()
        return self._value

    def state_dict(self) -> dict[str, Any]:
        """Return the state of environments, exploration and policy, but not the replay's."""
        return {
            "envs": self._envs.state_dict(),
            "exploration": self.exploration.state_dict(),
            "policy": self._policy.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> ReplayedEpisodes:
        """Restore the state that `state_dict` returned, after that of the replay. Return how the
        environments replayed their episodes.
        """
        cut = self._envs.load_state_dict(state["envs"])
        self.exploration.load_state_dict(state["exploration"])
        self._policy.load_state_dict(state["policy"])
        self._obs = self._envs.obs
        if cut.any():
            self._lose_episodes(cut)
        return ReplayedEpisodes(np.flatnonzero(cut).tolist(), self._envs.other_returns)

    def _lose_episodes(self, lost: np.ndarray) -> None:
        """Tell replay and exploration that the environments `lost` [N] started new episodes."""
        self._obs = self._envs.obs
        self._experience.truncate(np.flatnonzero(lost), self._obs[lost])
        self.exploration.end_episodes(lost)

    def load_random_streams(self, state: dict[str, Any]) -> None:
        """Restore only the random streams of a `state_dict`."""
        self.exploration.load_random_stream(state["exploration"])
        self._policy.load_state_dict(state["policy"])
