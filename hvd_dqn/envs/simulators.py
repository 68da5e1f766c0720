"""Simulators: the narrow interface between `VectorEnvironment` and what steps the environments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, cast

import gymnasium as gym
import numpy as np

from hvd_dqn.common.errors import UserError, typed_line
from hvd_dqn.envs.infos import NUMBERS, InfoNumbers
from hvd_dqn.envs.interface import (
    RAISED,
    SECONDS_TO_CLOSE,
    EnvironmentFailedError,
    Place,
    close_env,
    require_shape,
    reset_env,
    step_env,
    told,
)
from hvd_dqn.envs.pictures import Pictures
from hvd_dqn.envs.saving import Files, can_save, load_env, save_env
from hvd_dqn.envs.settings import settings_kept
from hvd_dqn.envs.workers import Copy, Workers

_WATCHED_CALLS = 20
"""Calls of new copies, resets and steps, after which they are trusted with torch's settings."""


class SimulatorStep(NamedTuple):
    """One step of N copies; the arrays belong to the caller.

    frames [N, …] as the simulator returns them; reward [N]; terminated [N], the learner's signal;
    truncated [N]; ended [N], the copies that must be reset before their next step; infos [N, K],
    the numbers that the run names, or `None`; skipped [N] bool: the copies that ignored their
    action, because they started their episode, or `None`.
    """

    frames: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    ended: np.ndarray
    infos: np.ndarray | None = None
    skipped: np.ndarray | None = None


class Simulators(Protocol):
    """N copies of one environment that never reset themselves."""

    num_envs: int
    action_space: gym.spaces.Discrete
    raw_space: gym.spaces.Box
    lets_others_run: bool
    """Whether other threads of this process can run during a step."""
    seeds_episodes: bool
    """Whether an episode depends only on its seed and its actions, so that these replay it."""

    def reset(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        """Start an episode in each of the copies `chosen` [N] bool, with one of `seeds` each.
        Return the frames of all copies. The first reset must choose all.
        """
        ...

    def step(self, action: np.ndarray) -> SimulatorStep:
        """Take the actions [N], numbered from 0, whatever the start of the action space."""
        ...

    def picture(self) -> np.ndarray:
        """Return a picture of the first copy, [H, W, 3] uint8. Raises `UserError` if it cannot be
        rendered.
        """
        ...

    def action_names(self) -> list[str] | None:
        """Return the names of the actions, or `None` if the environment has none."""
        ...

    def close(self, *, broken: bool = False) -> None:
        """Close the copies, their threads and processes. If one is `broken`, do not wait."""
        ...


class GymnasiumSimulators(ABC):
    """Copies of a Gymnasium environment."""

    lets_others_run: bool
    seeds_episodes = True

    def __init__(
        self, num_envs: int, actions: gym.Space[Any], observations: gym.Space[Any]
    ) -> None:
        """`actions` and `observations` are the spaces of one copy."""
        assert isinstance(actions, gym.spaces.Discrete)
        assert isinstance(observations, gym.spaces.Box)
        self._first_action = int(actions.start)
        self.num_envs = num_envs
        self.action_space = actions
        self.raw_space = observations
        self._pictures = Pictures()

    @abstractmethod
    def reset(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        """See `Simulators`."""

    @abstractmethod
    def step(self, action: np.ndarray) -> SimulatorStep:
        """See `Simulators`."""

    def picture(self) -> np.ndarray:
        """See `Simulators`."""
        try:
            drawn = self._draw()
        except RAISED as error:
            raise UserError(f"the environment cannot be rendered ({typed_line(error)})") from error
        return self._pictures.rgb(drawn)

    @abstractmethod
    def _draw(self) -> Any:
        """Return what the first copy renders, if anything."""

    @abstractmethod
    def action_names(self) -> list[str] | None:
        """See `Simulators`."""

    @abstractmethod
    def close(self, *, broken: bool = False) -> None:
        """See `Simulators`."""


class SerialSimulators(GymnasiumSimulators):
    """Copies that step one after the other in this process."""

    lets_others_run = False

    def __init__(self, envs: Sequence[gym.Env[Any, Any]], places: Sequence[Place] = ()) -> None:
        """`places` names the copies, by default those of rank 0."""
        super().__init__(len(envs), envs[0].action_space, envs[0].observation_space)
        self._envs = envs
        self._places = places or [Place(copy=copy) for copy in range(len(envs))]
        self._obs: list[Any] = [None] * len(envs)
        self._has_numbers = isinstance(envs[0], InfoNumbers)
        self._watched_calls = _WATCHED_CALLS

    def reset(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        """See `Simulators`."""
        with self._settings_kept():
            for copy, seed in zip(chosen.nonzero()[0].tolist(), seeds, strict=True):
                try:
                    self._obs[copy] = reset_env(self._envs[copy], seed)
                except UserError:
                    raise
                except RAISED as error:
                    raise EnvironmentFailedError(f"{self._places[copy]}: {told(error)}") from error
        return self._frames()

    def step(self, action: np.ndarray) -> SimulatorStep:
        """See `Simulators`."""
        if self._watched_calls == 0:
            return self._step(action)
        with self._settings_kept():
            return self._step(action)

    def _step(self, action: np.ndarray) -> SimulatorStep:
        reward = np.empty(self.num_envs)
        terminated, truncated = np.empty((2, self.num_envs), dtype=np.bool_)
        infos: list[Any] = [None] * self.num_envs
        copy = 0
        try:
            for copy, chosen in enumerate(action + self._first_action):
                (
                    self._obs[copy],
                    reward[copy],
                    terminated[copy],
                    truncated[copy],
                    infos[copy],
                ) = step_env(self._envs[copy], chosen)
        except UserError:
            raise
        except RAISED as error:
            raise EnvironmentFailedError(f"{self._places[copy]}: {told(error)}") from error
        return SimulatorStep(
            self._frames(),
            reward,
            terminated,
            truncated,
            terminated | truncated,
            np.stack([info[NUMBERS] for info in infos]) if self._has_numbers else None,
        )

    def _frames(self) -> np.ndarray:
        """Return the frames of all copies, [N, …], in new memory.

        Raises `EnvironmentFailedError` if one does not have the shape of the space.
        """
        space = self.raw_space
        try:
            frames = np.array(self._obs, dtype=space.dtype)
        except (TypeError, ValueError):  # of different shapes, or no numbers
            pass
        else:
            if frames.shape[1:] == space.shape:
                return frames
        for place, obs in zip(self._places, self._obs, strict=True):
            try:
                require_shape(obs, space)
                np.asarray(obs, dtype=space.dtype)
            except RAISED as error:
                raise EnvironmentFailedError(f"{place}: {told(error)}") from error
        raise AssertionError("one of the observations differs from its space")

    @contextmanager
    def _settings_kept(self) -> Iterator[None]:
        """Keep the settings of this process from the first calls; later ones would pay for it."""
        if self._watched_calls == 0:
            yield
            return
        self._watched_calls -= 1
        with settings_kept():
            yield

    @property
    def saves_states(self) -> bool:
        """See `SavesStates`."""
        return can_save(self._envs[0])

    def save_states(self) -> list[Files]:
        """See `SavesStates`."""
        return [save_env(env) for env in self._envs]

    def load_states(self, states: list[Files], steps: list[int]) -> None:
        """See `SavesStates`."""
        for env, files, taken in zip(self._envs, states, steps, strict=True):
            load_env(env, files, taken)

    def _draw(self) -> Any:
        return self._envs[0].render()

    def action_names(self) -> list[str] | None:
        """See `Simulators`."""
        meanings = getattr(self._envs[0].unwrapped, "get_action_meanings", None)
        names = [] if meanings is None else [str(name).lower() for name in meanings()]
        return names if len(names) == self.action_space.n else None  # a wrapper may change them

    def close(self, *, broken: bool = False) -> None:
        """See `Simulators`."""
        for env, place in zip(self._envs, self._places, strict=True):
            close_env(env, str(place))


class ProcessSimulators(GymnasiumSimulators):
    """Copies in separate processes."""

    lets_others_run = True

    def __init__(self, copies: Sequence[Copy], places: Sequence[Place]) -> None:
        """Raises `EnvironmentFailedError` or `ProcessEndedError` if a copy cannot be made."""
        self._envs = envs = Workers(copies, places)
        super().__init__(envs.num_envs, envs.single_action_space, envs.single_observation_space)
        self.under_way = np.zeros(self.num_envs, dtype=np.bool_)
        """Copies [N] whose steps have begun and are not finished."""

    def reset(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        """See `Simulators`. Steps of the chosen copies that are under way are lost. If others are
        under way, they continue, and their frames are arbitrary.
        """
        if self.under_way.any():
            return self._reset_beside_others(chosen, seeds)
        seed: list[int | None] = [None] * self.num_envs
        for copy, value in zip(np.flatnonzero(chosen), seeds, strict=True):
            seed[copy] = value
        options = {"reset_mask": chosen.copy()}
        with self._envs.ended_named():
            obs, _ = self._envs.reset(seed=cast(Any, seed), options=options)
        return np.asarray(obs)

    def step(self, action: np.ndarray) -> SimulatorStep:
        """See `Simulators`."""
        with self._envs.ended_named():
            obs, reward, terminated, truncated, infos = self._envs.step(action + self._first_action)
        # Gymnasium returns its own arrays of flags and rewards, which change at the next step.
        return SimulatorStep(
            np.asarray(obs),
            reward.copy(),
            terminated.copy(),
            truncated.copy(),
            terminated | truncated,
            infos.get(NUMBERS),
        )

    def begin(self, chosen: np.ndarray, action: np.ndarray) -> None:
        """Begin a step in the copies `chosen` [N] bool with these of the actions [N]."""
        with self._envs.ended_named():
            for copy in np.flatnonzero(chosen).tolist():
                self._envs.send(copy, "step", action[copy] + self._first_action)
                self.under_way[copy] = True

    def finish(
        self, count: int, order: Sequence[int], awaited: int
    ) -> tuple[np.ndarray, SimulatorStep]:
        """Wait until `count` of the steps under way are finished, and those of the first `awaited`
        of these copies in `order`. Return `count` copies [N] bool, the first in `order` that are
        finished, and a step in which only their rows are meaningful.
        """
        with self._envs.ended_named():
            answered = set(self._envs.wait_for(order[:awaited], awaited))
            answered.update(self._envs.wait_for(order[awaited:], count - awaited))
            done = [copy for copy in order if copy in answered][:count]
            outcomes = [self._envs.receive(copy) for copy in done]
        stepped = np.zeros(self.num_envs, dtype=np.bool_)
        stepped[done] = True
        self.under_way &= ~stepped
        frames = np.zeros((self.num_envs, *self.raw_space.shape), dtype=self.raw_space.dtype)
        frames[done] = self._envs.observations[done]
        reward = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), dtype=np.bool_)
        infos: np.ndarray | None = None
        for copy, (_, *outcome, info) in zip(done, outcomes, strict=True):
            reward[copy], terminated[copy], truncated[copy] = outcome
            if NUMBERS in info:
                infos = (
                    np.full((self.num_envs, len(info[NUMBERS])), np.nan) if infos is None else infos
                )
                infos[copy] = info[NUMBERS]
        ended = terminated | truncated
        return stepped, SimulatorStep(frames, reward, terminated, truncated, ended, infos)

    def _reset_beside_others(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        copies = np.flatnonzero(chosen).tolist()
        with self._envs.ended_named():
            for copy in copies:
                if self.under_way[copy]:
                    self._envs.receive(copy)
            self.under_way &= ~chosen
            for copy, seed in zip(copies, seeds, strict=True):
                self._envs.send(copy, "reset", {"seed": seed, "options": None})
            for copy in copies:
                self._envs.receive(copy)
        return np.array(self._envs.observations)

    def _draw(self) -> Any:
        with self._envs.ended_named():
            drawn = self._envs.render()
        return None if drawn is None else drawn[0]

    def action_names(self) -> None:
        """Return `None`: the names are in another process."""

    def close(self, *, broken: bool = False) -> None:
        """See `Simulators`."""
        self._envs.close(timeout=1.0 if broken else SECONDS_TO_CLOSE)
