"""A vector environment whose step completes as soon as some copies have stepped."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from hvd_dqn.common.structs import EnvStep, Episode
from hvd_dqn.envs.simulators import ProcessSimulators
from hvd_dqn.envs.vector import VectorEnvironment

MOST_STEPS_UNDER_WAY = 1000
"""Steps of the others after which a copy is waited for. If it hangs, nothing makes progress then,
and the watchdog reports it."""


class ReadyEnvironment(VectorEnvironment):
    """Each step begins the actions of all copies that are not stepping, and returns the steps of
    `ready` copies: the first that finish, and of those the ones that began first. The others
    continue.

    A copy's action was chosen for its current observation, `obs`, which does not change until its
    step is returned. Steps under way do not belong to the state, so after a resume other actions
    may be chosen for those copies.
    """

    def __init__(self, *arguments: Any, ready: int, **named: Any) -> None:
        """See `VectorEnvironment`. The simulators are `ProcessSimulators`."""
        super().__init__(*arguments, **named)
        self._ready = ready
        self._sent = np.zeros(self.num_envs, dtype=np.int64)
        self._steps_under_way = np.zeros(self.num_envs, dtype=np.int64)

    def _step(self, action: np.ndarray) -> EnvStep:
        if self._shared.player is not self:
            self._take_back()
        simulators = cast(ProcessSimulators, self._shared.simulators)
        idle = ~simulators.under_way
        self._sent[idle] = action[idle]
        self._steps_under_way[idle] = 0
        simulators.begin(idle, action)
        oldest_first = np.argsort(-self._steps_under_way, kind="stable").tolist()
        overdue = int((self._steps_under_way >= MOST_STEPS_UNDER_WAY).sum())
        stepped, step = simulators.finish(self._ready, oldest_first, overdue)
        self._on_step()
        self._steps_under_way += 1
        self._remember(self._sent)  # a later one replaces those of copies that have not stepped
        self._return += step.reward
        self._length += stepped
        if step.infos is not None:
            np.copyto(self._infos, step.infos, where=~np.isnan(step.infos))
        reward = step.reward.astype(np.float32)
        self._check_and_clip(reward)
        truncated, ended = step.truncated, step.ended
        if self.max_episode_steps is not None:
            overlong = stepped & (self._length >= self.max_episode_steps)
            truncated, ended = truncated | overlong, ended | overlong
        next_obs = self._obs.copy()
        next_obs[stepped] = self._frames.following(self._obs[stepped], step.frames[stepped])
        obs, episodes = next_obs, list[Episode]()
        if ended.any():
            obs, episodes = self._start_again(next_obs, ended)
        self._obs = obs
        return EnvStep(
            next_obs,
            obs,
            reward,
            step.terminated,
            truncated,
            ended,
            episodes,
            stepped=stepped,
            action=self._sent.copy(),
        )
