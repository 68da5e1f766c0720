"""A vector environment: every step a decision, and every episode's true return kept."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch

from hvd_dqn.common.structs import Episode
from hvd_dqn.envs.frame_stack import FrameStack
from hvd_dqn.envs.simulators import Simulators


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


class EpisodesLostError(Exception):
    """An environment broke, and all were made anew: every copy has begun its next episode."""


class VectorEnvironment:
    """N copies of an environment; an ended one is reset at once, so no step is spent on a reset.

    Episode k of copy i starts from `episode_seed(i, k)`: any episode can be started again alone.
    An observation is the newest `frame_stack` frames of its episode, with zeros before its first;
    its newest frame is `obs[:, -frame_shape[0]:]`. An episode of `max_episode_steps` is truncated.
    Simulators that raise are replaced by what `remake` gives, or it raises. `beat` is called
    whenever they have moved.
    """

    def __init__(
        self,
        simulators: Simulators,
        *,
        episode_seed: Callable[[int, int], int],
        frame_stack: int = 1,
        reward_clip: float | None = None,
        max_episode_steps: int | None = None,
        remake: Callable[[Exception], Simulators] | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._simulators = simulators
        self._remake = remake
        self.beat = beat
        self._episode_seed = episode_seed
        self._frames = FrameStack(simulators.raw_space, frame_stack)
        self._clip = reward_clip
        self._max_steps = max_episode_steps
        self.num_envs = simulators.num_envs
        self.num_actions = simulators.num_actions
        self.raw_space = simulators.raw_space
        self.frame_stack = frame_stack
        self.frame_shape = self._frames.frame_shape
        self.obs_space = self._frames.obs_space
        self.obs_dtype = self._frames.dtype
        self._obs = np.empty(0)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="environments")
        self._under_way: Future[EnvStep] | None = None
        self._waiting: np.ndarray | None = None
        self._episode_number = np.zeros(self.num_envs, dtype=np.int64)
        self._return = np.zeros(self.num_envs, dtype=np.float64)
        self._length = np.zeros(self.num_envs, dtype=np.int64)
        self._most_steps = 0  # no episode under way is longer
        # Every action of every copy's episode: from its seed and these it can be played again.
        self._actions = np.zeros((self.num_envs, 1024), dtype=np.int32)
        self._copies = np.arange(self.num_envs)

    def reset(self, episode_number: int = 0) -> np.ndarray:
        """Start the episode of this number in every copy: observations [N, *shape]."""
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        self._episode_number[:] = episode_number - 1
        self._obs = self._frames.first(self._start_next(everyone))
        return self._obs

    def step(self, action: np.ndarray) -> EnvStep:
        """Take action [N] int in 0 … num_actions − 1.

        Raises `EpisodesLostError` where the environments had to be made anew: none has stepped.
        """
        try:
            return self._step(action)
        except Exception as error:
            self._replace_simulators(error)
            raise EpisodesLostError from error

    def begin(self, action: np.ndarray) -> None:
        """Take action [N] while the caller goes on: in a thread where the simulators let it, else
        at the caller's next `step_meanwhile`. `finish` comes next.
        """
        if self._simulators.lets_others_run:
            self._under_way = self._thread.submit(self.step, action)
        else:
            self._waiting = action

    def step_meanwhile(self) -> None:
        """The caller would only wait now: take the step that was begun, if none has taken it."""
        if self._waiting is None:
            return
        action, self._waiting = self._waiting, None
        self._under_way = Future()
        try:
            self._under_way.set_result(self.step(action))
        except Exception as error:
            self._under_way.set_exception(error)

    def finish(self) -> EnvStep:
        """What the step that was begun gives, or raises."""
        self.step_meanwhile()
        assert self._under_way is not None, "begin comes first"
        step, self._under_way = self._under_way, None
        return step.result()

    def _step(self, action: np.ndarray) -> EnvStep:
        step = self._simulators.step(action)
        self.beat()
        self._remember(action)
        self._return += step.reward
        self._length += 1
        reward = step.reward.astype(np.float32)
        if self._clip is not None:
            reward.clip(-self._clip, self._clip, out=reward)
        truncated, ended = step.truncated, step.ended
        if self._max_steps is not None:
            overlong = self._length >= self._max_steps
            truncated, ended = truncated | overlong, ended | overlong
        next_obs = obs = self._frames.following(self._obs, step.frames)
        episodes = []
        if np.count_nonzero(ended):
            episodes = [
                Episode(float(self._return[i]), int(self._length[i])) for i in np.flatnonzero(ended)
            ]
            obs = next_obs.copy()
            obs[ended] = self._frames.first(self._start_next(ended)[ended])
        self._obs = obs
        return EnvStep(next_obs, obs, reward, step.terminated, truncated, ended, episodes)

    @property
    def obs(self) -> np.ndarray:
        """What to act on now, [N, *shape]."""
        return self._obs

    @property
    def returns(self) -> np.ndarray:
        """Of the episodes under way, so far, [N]."""
        return self._return

    def picture(self) -> np.ndarray:
        """What the first copy looks like now, [H, W, 3] uint8. `UserError` where it draws none."""
        return self._simulators.picture()

    def action_names(self) -> list[str]:
        """What the environment calls its actions; their numbers where it does not."""
        numbers = [f"action {number}" for number in range(self.num_actions)]
        return self._simulators.action_names() or numbers

    def state_dict(self) -> dict[str, Any]:
        """Where every copy is in its episode, as tensors."""
        longest = int(self._length.max())
        return {
            "episode_number": torch.from_numpy(self._episode_number.copy()),
            "return": torch.from_numpy(self._return.copy()),
            "length": torch.from_numpy(self._length.copy()),
            "actions": torch.from_numpy(self._actions[:, :longest].copy()),
            "obs": torch.from_numpy(self._obs.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> np.ndarray:
        """Play every copy's episode again, from its seed and by its actions, to where it was.

        Returns the copies [N] bool that came out elsewhere, because their environment draws chance
        from something else than its seed: these have begun their next episode instead.
        """
        self._episode_number[:] = state["episode_number"].numpy()
        actions, length = state["actions"].numpy(), state["length"].numpy()
        self._obs = state["obs"].numpy().copy()
        try:
            reached = self._play_again(actions, length)
        except Exception as error:
            self._replace_simulators(error)
            return np.ones(self.num_envs, dtype=np.bool_)
        self._return[:] = state["return"].numpy()
        self._length[:] = length
        self._most_steps = int(length.max())
        room = max(actions.shape[1], self._actions.shape[1])
        self._actions = np.zeros((self.num_envs, room), dtype=np.int32)
        self._actions[:, : actions.shape[1]] = actions
        axes = tuple(range(1, reached.ndim))
        lost: np.ndarray = (reached != self._obs).any(axis=axes)
        if lost.any():
            self._obs[lost] = self._frames.first(self._start_next(lost)[lost])
        return lost

    def _replace_simulators(self, error: Exception) -> None:
        """Go on with new ones, every copy in its next episode, or raise the `error` of the old."""
        if self._remake is None:
            raise error
        fresh = self._remake(error)
        with suppress(Exception):
            self._simulators.close(broken=True)
        self._simulators = fresh
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        self._obs = self._frames.first(self._start_next(everyone))

    def close(self) -> None:
        """End the copies and their processes, after a step that is still under way."""
        self._thread.shutdown()
        self._simulators.close()

    def _remember(self, action: np.ndarray) -> None:
        if self._most_steps >= self._actions.shape[1]:
            self._most_steps = int(self._length.max())
            if self._most_steps >= self._actions.shape[1]:
                self._actions = np.concatenate(
                    (self._actions, np.zeros_like(self._actions)), axis=1
                )
        self._most_steps += 1
        self._actions[self._copies, self._length] = action

    def _play_again(self, actions: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Play `length` [N] actions of [N, T] in every copy, all ending at once: the observations.

        The copies can only be stepped together, so those of short episodes begin late; until then
        they are stepped at random, as it were, and reset where that ends an episode.
        """
        seeds = [self._episode_seed(i, int(k)) for i, k in enumerate(self._episode_number)]
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        obs = self._frames.first(self._simulators.reset(everyone, seeds))
        longest = int(length.max())
        waiting = length < longest
        for time in range(longest):
            begins = waiting & (longest - length == time)
            if begins.any():
                obs[begins] = self._frames.first(self._reset_again(begins, seeds)[begins])
                waiting &= ~begins
            place = np.maximum(time - (longest - length), 0)
            step = self._simulators.step(actions[self._copies, place])
            self.beat()
            obs = self._frames.following(obs, step.frames)
            if step.ended.any():
                self._reset_again(step.ended, seeds)
        begins = waiting
        if begins.any():
            obs[begins] = self._frames.first(self._reset_again(begins, seeds)[begins])
        return obs

    def _reset_again(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        return self._simulators.reset(chosen, [seeds[i] for i in np.flatnonzero(chosen)])

    def _start_next(self, chosen: np.ndarray) -> np.ndarray:
        """Start the next episode of the chosen copies: the raw frames of all copies."""
        self._return[chosen] = 0.0
        self._length[chosen] = 0
        self._episode_number[chosen] += 1
        seeds = [
            self._episode_seed(int(copy), int(self._episode_number[copy]))
            for copy in np.flatnonzero(chosen)
        ]
        frames = self._simulators.reset(chosen, seeds)
        self.beat()
        return frames
