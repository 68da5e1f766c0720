"""The vector environment: every step is a decision, and returns of episodes are true ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.structs import EnvStep, Episode
from hvd_dqn.envs.frame_stack import FrameStack
from hvd_dqn.envs.interface import RAISED, GroupLostError, Place, told, warn
from hvd_dqn.envs.saving import SavesStates
from hvd_dqn.envs.simulators import Simulators
from hvd_dqn.spaces.actions import ActionCodes, branches_of
from hvd_dqn.spaces.records import RecordSpace

_REPLAYED = "episodes are replayed from their seeds and actions"
_LONG_EPISODE = 100_000
"""Steps after which an episode is reported."""


class EpisodesLostError(Exception):
    """The copies `lost` [N] bool have started their next episode: an environment raised and all
    were recreated, or an episode could not be continued after an evaluation in the same copies.
    """

    def __init__(self, lost: np.ndarray) -> None:
        super().__init__()
        self.lost = lost


class _Shared:
    """Simulators that may serve several vector environments in turn. The episodes under way are
    those of `player`.
    """

    def __init__(
        self,
        simulators: Simulators,
        remake: Callable[[Exception, Callable[[], None]], Simulators] | None,
        player: VectorEnvironment,
    ) -> None:
        self.simulators = simulators
        self.player = player
        self._remake = remake

    def replace(self, error: Exception) -> None:
        """Replace the simulators; raise `error` if they cannot be replaced."""
        if self._remake is None:
            raise error
        self.simulators = self._remake(error, partial(self.simulators.close, broken=True))


class VectorEnvironment:
    """N copies of an environment. A copy whose episode ended is reset within the step.

    Episode k of copy i starts from `episode_seed(i, k)`, so each episode can be replayed alone. An
    observation consists of the newest `frame_stack` frames of its episode, zero-padded at the
    start; the newest frame is `obs[:, -frame_shape[0]:]`. `FrameStack` explains `channels`. An
    episode is truncated after `limit_of(max_episode_steps)`. `info_keys` names the numbers that the
    simulators return with a step. Simulators that raise are replaced by those that `remake`
    returns, unless it raises; it gets the error and a function that closes the old ones. `places`
    names the copies in messages. `on_step` is called after each step and reset of the simulators.
    """

    def __init__(
        self,
        simulators: Simulators,
        *,
        episode_seed: Callable[[int, int], int],
        frame_stack: int = 1,
        channels: str = "auto",
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
        info_keys: Sequence[str] = (),
        max_episode_steps: int | None = None,
        limit_of: Callable[[int | None], int | None] = lambda steps: steps,
        places: Sequence[Place] = (),
        remake: Callable[[Exception, Callable[[], None]], Simulators] | None = None,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self._shared = _Shared(simulators, remake, player=self)
        self._is_borrower = False
        self._limit_of = limit_of
        self._places = places or [Place(copy=copy) for copy in range(simulators.num_envs)]
        self._has_warned_of_reward = False
        self._on_step = on_step
        self._episode_seed = episode_seed
        self._channels = channels
        self._frames = FrameStack(simulators.raw_space, frame_stack, channels)
        self._scale = reward_scale
        self._clip = reward_clip
        self._info_keys = info_keys
        self._infos = np.full((simulators.num_envs, len(info_keys)), np.nan)
        self.max_episode_steps = limit_of(max_episode_steps)
        self.num_envs = simulators.num_envs
        self.action_space = simulators.action_space
        self.num_actions = int(simulators.action_space.n)
        self.branches = branches_of(simulators.action_space)
        self.raw_space = simulators.raw_space
        self.frame_stack = frame_stack
        self.channels = self._frames.channels
        self.frame_shape = self._frames.frame_shape
        self.obs_space = self._frames.obs_space
        self.obs_dtype = self._frames.dtype
        self.other_returns: list[tuple[int, float, float]] = []
        """Copies whose replayed episode had another return: copy, new and recorded return."""
        self._kept: dict[str, Any] | None = None  # while another one plays in the same copies
        self._obs = np.empty(0)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="environments")
        self._under_way: Future[EnvStep] | None = None
        self._waiting: np.ndarray | None = None
        self._episode_number = np.zeros(self.num_envs, dtype=np.int64)
        self._return = np.zeros(self.num_envs, dtype=np.float64)
        self._length = np.zeros(self.num_envs, dtype=np.int64)
        self._most_steps = 0  # upper bound of the lengths of current episodes
        # All actions of the current episodes: with their seeds, they replay them.
        self._actions = np.zeros((self.num_envs, 1024), dtype=np.int32)
        self._copies = np.arange(self.num_envs)
        self._zeros = np.zeros(self.num_envs, dtype=np.float32)

    def reset(self, episode_number: int = 0) -> np.ndarray:
        """Start the episode of this number in every copy. Return observations [N, *shape]."""
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        self._episode_number[:] = episode_number - 1
        self._obs = self._frames.first(self._start_next(everyone))
        return self._obs

    def step(self, action: np.ndarray) -> EnvStep:
        """Take the actions [N]: integers from 0 to num_actions − 1, wherever the space starts.

        Raises `EpisodesLostError` if episodes were lost; then none has stepped.
        """
        try:
            return self._step(action)
        except EpisodesLostError:
            raise
        except Exception as error:
            self._replace_simulators(error)
            raise EpisodesLostError(np.ones(self.num_envs, dtype=np.bool_)) from error

    def begin(self, action: np.ndarray) -> None:
        """Start a step with the actions [N], which `finish` completes: in a thread if the
        simulators allow it, otherwise at the next `step_meanwhile`.
        """
        if self._shared.simulators.lets_others_run:
            self._under_way = self._thread.submit(self.step, action)
        else:
            self._waiting = action

    def step_meanwhile(self) -> None:
        """Take the step that was begun, unless a thread takes it. Called while the caller waits."""
        if self._waiting is None:
            return
        action, self._waiting = self._waiting, None
        self._under_way = Future()
        try:
            self._under_way.set_result(self.step(action))
        except Exception as error:
            self._under_way.set_exception(error)

    def finish(self) -> EnvStep:
        """Return the result of the step that was begun, or raise its exception."""
        self.step_meanwhile()
        assert self._under_way is not None, "begin comes first"
        step, self._under_way = self._under_way, None
        return step.result()

    def _step(self, action: np.ndarray) -> EnvStep:
        if self._shared.player is not self:
            self._take_back()
        step = self._shared.simulators.step(action)
        self._on_step()
        self._remember(action)
        self._return += step.reward
        self._length += 1
        if step.infos is not None:
            np.copyto(self._infos, step.infos, where=~np.isnan(step.infos))
        if step.skipped is not None:
            self._length[step.skipped] = 0
        reward = step.reward.astype(np.float32)
        self._check_and_clip(reward)
        truncated, ended = step.truncated, step.ended
        if self.max_episode_steps is not None:
            overlong = self._length >= self.max_episode_steps
            truncated, ended = truncated | overlong, ended | overlong
        next_obs = obs = self._frames.following(self._obs, step.frames)
        if step.skipped is not None:
            next_obs[step.skipped] = self._frames.first(step.frames)[step.skipped]
        episodes: list[Episode] = []
        if np.count_nonzero(ended):
            obs, episodes = self._start_again(next_obs, ended)
        self._obs = obs
        return EnvStep(
            next_obs, obs, reward, step.terminated, truncated, ended, episodes, step.skipped
        )

    def _episode(self, copy: int) -> Episode:
        """Return the episode of a copy, as far as it was played."""
        infos = tuple(self._infos[copy].tolist())
        return Episode(float(self._return[copy]), int(self._length[copy]), infos)

    def _check_and_clip(self, reward: np.ndarray) -> None:
        """Warn once of rewards that are not finite; scale and clip them if configured."""
        # 0 · x is NaN unless x is finite; a product takes less time than a test of each value
        if math.isnan(reward.dot(self._zeros)) and not self._has_warned_of_reward:
            self._warn_of_rewards(reward)
        if self._scale != 1.0:
            reward *= np.float32(self._scale)
        if self._clip is not None:
            reward.clip(-self._clip, self._clip, out=reward)

    def _start_again(
        self, next_obs: np.ndarray, ended: np.ndarray
    ) -> tuple[np.ndarray, list[Episode]]:
        """Start the next episodes of the copies that `ended` [N]. Return what to act on next, and
        the episodes that ended.
        """
        episodes = [self._episode(int(copy)) for copy in np.flatnonzero(ended)]
        obs = next_obs.copy()
        obs[ended] = self._frames.first(self._start_next(ended)[ended])
        return obs, episodes

    @property
    def obs(self) -> np.ndarray:
        """The current observations, [N, *shape]."""
        return self._obs

    @property
    def seeds_episodes(self) -> bool:
        """Whether every episode starts from its own seed, so that it can be replayed."""
        return self._shared.simulators.seeds_episodes

    @property
    def returns(self) -> np.ndarray:
        """The returns of the current episodes so far, [N]."""
        return self._return

    def legal_actions(self, obs: np.ndarray) -> np.ndarray | None:
        """Return the masks [N, A] bool of the legal actions in observations [N, *shape]; `None` if
        all actions always are.
        """
        space = self.obs_space
        return space.legal_actions(obs) if isinstance(space, RecordSpace) else None

    def picture(self) -> np.ndarray:
        """Return a picture of the first copy, [H, W, 3] uint8. Raises `UserError` if it cannot be
        rendered.
        """
        return self._shared.simulators.picture()

    def action_names(self) -> list[str]:
        """Return the names of the actions; their values if the environment does not name them."""
        if isinstance(self.action_space, ActionCodes):
            return self.action_space.names()
        first = int(self.action_space.start)
        numbers = [f"action {first + number}" for number in range(self.num_actions)]
        return self._shared.simulators.action_names() or numbers

    def lend(
        self, *, episode_seed: Callable[[int, int], int], max_episode_steps: int | None
    ) -> VectorEnvironment:
        """Return a vector environment that plays other episodes in the same copies.

        Its `reset` interrupts the episodes of this one. The next step here continues them: it
        replays them from their seeds and actions first, as `load_state_dict` does.
        """
        borrower = VectorEnvironment(
            self._shared.simulators,
            episode_seed=episode_seed,
            frame_stack=self.frame_stack,
            channels=self._channels,
            reward_scale=self._scale,
            reward_clip=self._clip,
            info_keys=self._info_keys,
            max_episode_steps=max_episode_steps,
            limit_of=self._limit_of,
            places=self._places,
            on_step=self._on_step,
        )
        borrower._shared = self._shared
        borrower._is_borrower = True
        return borrower

    def _take_back(self) -> None:
        """Continue the episodes after another vector environment played in the same copies. Raises
        `EpisodesLostError` if some could not be continued.
        """
        lost = self.load_state_dict(self.state_dict())
        if lost.any():
            raise EpisodesLostError(lost)

    def _warn_of_rewards(self, reward: np.ndarray) -> None:
        """Name the first copy whose reward, as float32, is not finite."""
        for place, value, steps in zip(self._places, reward, self._length, strict=True):
            if not math.isfinite(value):
                warn(f"{place}: the reward of step {steps} of its episode is {value}")
                self._has_warned_of_reward = True
                return

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every copy's episode, as tensors."""
        longest = int(self._length.max())
        saved = self._kept if self._shared.player is not self else self._saved_states()
        more = {} if saved is None else {"saved": saved}
        return {
            "episode_number": torch.from_numpy(self._episode_number.copy()),
            "return": torch.from_numpy(self._return.copy()),
            "length": torch.from_numpy(self._length.copy()),
            "actions": torch.from_numpy(self._actions[:, :longest].copy()),
            "obs": torch.from_numpy(self._obs.copy()),
            **more,
        }

    def _saved_states(self) -> dict[str, Any] | None:
        """Return the state of every copy's environment, if these can save it."""
        simulators = self._shared.simulators
        if not (isinstance(simulators, SavesStates) and simulators.saves_states):
            return None
        try:
            states = simulators.save_states()
        except GroupLostError:
            raise
        except RAISED as error:
            warn(f"save() failed ({told(error)}); {_REPLAYED}")
            return None
        return {
            str(copy): {name: torch.from_numpy(data.copy()) for name, data in files.items()}
            for copy, files in enumerate(states)
        }

    def _load_saved(self, saved: dict[str, Any], length: np.ndarray) -> bool:
        """Restore what `_saved_states` returned, of episodes of `length` [N] steps. Return whether
        that was possible.
        """
        simulators = self._shared.simulators
        if not (saved and isinstance(simulators, SavesStates) and simulators.saves_states):
            return False
        self._begin_playing()
        states = [
            {name: data.numpy() for name, data in saved.get(str(copy), {}).items()}
            for copy in range(self.num_envs)
        ]
        try:
            simulators.load_states(states, length.tolist())
        except GroupLostError:
            raise
        except RAISED as error:
            warn(f"the state of the environments cannot be loaded ({told(error)}); {_REPLAYED}")
            return False
        return True

    def _begin_playing(self) -> None:
        """Take the simulators over, after saving the episodes of the one that had them."""
        player = self._shared.player
        if player is not self and not player._is_borrower:
            player._kept = player._saved_states()
        self._shared.player = self

    def load_state_dict(self, state: dict[str, Any]) -> np.ndarray:
        """Continue every copy's episode: from the state that its environment saved, or by replaying
        it from its seed and actions.

        Return the copies [N] bool that ended early or reach another observation, because their
        environment uses randomness that does not come from its seed, or keeps state from one
        episode to the next; all of them if the simulators have no seeds of episodes. These have
        started their next episode. `other_returns` then has the copies that differ in the return
        alone.
        """
        self._episode_number[:] = state["episode_number"].numpy()
        self.other_returns = []
        actions, length = state["actions"].numpy(), state["length"].numpy()
        self._obs = state["obs"].numpy().copy()
        self._infos[:] = np.nan
        if not self._shared.simulators.seeds_episodes:
            everyone = np.ones(self.num_envs, dtype=np.bool_)
            self._obs = self._frames.first(self._start_next(everyone))
            return everyone
        try:
            if self._load_saved(state.get("saved", {}), length):
                reached, ended_early = self._obs, np.zeros(self.num_envs, np.bool_)
                returns = state["return"].numpy()
            else:
                reached, ended_early, returns = self._play_again(actions, length)
        except Exception as error:
            self._replace_simulators(error)
            return np.ones(self.num_envs, dtype=np.bool_)
        self._return[:] = recorded = state["return"].numpy().copy()
        self._length[:] = length
        self._most_steps = int(length.max())
        room = max(actions.shape[1], self._actions.shape[1])
        self._actions = np.zeros((self.num_envs, room), dtype=np.int32)
        self._actions[:, : actions.shape[1]] = actions
        axes = tuple(range(1, reached.ndim))
        cut: np.ndarray = ended_early | (reached != self._obs).any(axis=axes)
        other = ~cut & ~np.isclose(returns, recorded, rtol=1e-9, atol=1e-12, equal_nan=True)
        if cut.any():
            self._obs[cut] = self._frames.first(self._start_next(cut)[cut])
        self.other_returns = [
            (int(i), float(returns[i]), float(recorded[i])) for i in np.flatnonzero(other)
        ]
        return cut

    def _replace_simulators(self, error: Exception) -> None:
        """Replace the simulators and start the next episode in every copy; raise `error` if they
        cannot be replaced, or if new ones would raise it again.
        """
        if isinstance(error, UserError):
            raise error
        self._shared.replace(error)
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        self._obs = self._frames.first(self._start_next(everyone))

    def close(self) -> None:
        """Close the copies and their processes, after a step that was begun has ended."""
        self._thread.shutdown()
        if not self._is_borrower:
            self._shared.simulators.close()

    def _remember(self, action: np.ndarray) -> None:
        if self._most_steps >= self._actions.shape[1]:
            self._most_steps = int(self._length.max())
            if self._most_steps >= self._actions.shape[1]:
                self._actions = np.concatenate(
                    (self._actions, np.zeros_like(self._actions)), axis=1
                )
                self._warn_of_length()
        self._most_steps += 1
        self._actions[self._copies, self._length] = action

    def _warn_of_length(self) -> None:
        """Report an episode that seems not to end, once for each doubling of its length."""
        copy = int(self._length.argmax())
        if self._length[copy] >= _LONG_EPISODE:
            warn(
                f"{self._places[copy]}: its episode has not ended within {self._length[copy]:,} "
                "steps. If it never ends, limit it: wrap the environment in "
                "gymnasium.wrappers.TimeLimit, or pass "
                """--env.kwargs '{"max_episode_steps": …}' for a registered id"""
            )

    def _play_again(
        self, actions: np.ndarray, length: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Play the first `length` [N] of `actions` [N, T] in every copy. Return the observations,
        the copies [N] bool whose episode ended before its last action, and the returns [N].

        The copies can only step together, so that short episodes begin later than long ones. Before
        that, their copies take arbitrary legal steps, and are reset if an episode ends.
        """
        seeds = [self._episode_seed(i, int(k)) for i, k in enumerate(self._episode_number)]
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        self._begin_playing()
        obs = self._frames.first(self._shared.simulators.reset(everyone, seeds))
        longest = int(length.max())
        waiting = length < longest
        ended_early, returns = np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs)
        for time in range(longest):
            begins = waiting & (longest - length == time)
            if begins.any():
                obs[begins] = self._frames.first(self._reset_again(begins, seeds)[begins])
                waiting &= ~begins
            place = np.maximum(time - (longest - length), 0)
            action = actions[self._copies, place]
            legal = self.legal_actions(obs)
            if legal is not None:
                action[waiting] = legal[waiting].argmax(axis=1)
            step = self._shared.simulators.step(action)
            self._on_step()
            obs = self._frames.following(obs, step.frames)
            returns[~waiting] += step.reward[~waiting]
            if step.infos is not None:
                there = ~waiting[:, None] & ~np.isnan(step.infos)
                np.copyto(self._infos, step.infos, where=there)
            if step.ended.any():
                ended_early |= step.ended & ~waiting
                obs[step.ended] = self._frames.first(
                    self._reset_again(step.ended, seeds)[step.ended]
                )
        begins = waiting
        if begins.any():
            obs[begins] = self._frames.first(self._reset_again(begins, seeds)[begins])
        return obs, ended_early, returns

    def _reset_again(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        return self._shared.simulators.reset(chosen, [seeds[i] for i in np.flatnonzero(chosen)])

    def _start_next(self, chosen: np.ndarray) -> np.ndarray:
        """Start the next episode of the chosen copies. Return the raw frames of all copies."""
        self._return[chosen] = 0.0
        self._length[chosen] = 0
        self._infos[chosen] = np.nan
        self._episode_number[chosen] += 1
        seeds = [
            self._episode_seed(int(copy), int(self._episode_number[copy]))
            for copy in np.flatnonzero(chosen)
        ]
        self._begin_playing()
        frames = self._shared.simulators.reset(chosen, seeds)
        self._on_step()
        return frames
