"""Simulators: the narrow interface between `VectorEnvironment` and what steps the environments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection
from typing import Any, NamedTuple, Protocol, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv

from hvd_dqn.common.errors import UserError, typed_line


class SimulatorStep(NamedTuple):
    """One step of N copies; the arrays belong to the caller.

    frames [N, …] as the simulator returns them; reward [N]; terminated [N], the learner's signal;
    truncated [N]; ended [N], the copies that must be reset before their next step.
    """

    frames: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    ended: np.ndarray


class Simulators(Protocol):
    """N copies of one environment that never reset themselves."""

    num_envs: int
    num_actions: int
    raw_space: gym.spaces.Box
    lets_others_run: bool
    """Whether other threads of this process can run during a step."""

    def reset(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        """Start an episode in each of the copies `chosen` [N] bool, with one of `seeds` each.
        Return the frames of all copies. The first reset must choose all.
        """
        ...

    def step(self, action: np.ndarray) -> SimulatorStep:
        """Take the actions [N], integers in 0 … num_actions − 1."""
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


class ProcessEndedError(Exception):
    """The process of an environment has ended: it was killed, or ran out of memory."""


class GymnasiumSimulators(ABC):
    """Copies of a Gymnasium environment."""

    lets_others_run: bool

    def __init__(
        self, num_envs: int, actions: gym.Space[Any], observations: gym.Space[Any]
    ) -> None:
        """`actions` and `observations` are the spaces of one copy."""
        assert isinstance(actions, gym.spaces.Discrete)
        assert isinstance(observations, gym.spaces.Box)
        self._first_action = int(actions.start)
        self.num_envs = num_envs
        self.num_actions = int(actions.n)
        self.raw_space = observations

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
        except Exception as error:  # an environment may raise anything
            reason = f"{typed_line(error)}"
            raise UserError(f"the environment cannot be rendered ({reason})") from error
        picture = None if drawn is None else np.asarray(drawn)
        if picture is None or picture.ndim != 3 or picture.shape[2] != 3:
            raise UserError('the environment does not support render_mode="rgb_array"')
        if picture.dtype.kind == "f" and picture.max() <= 1:  # MinAtar's are in 0 … 1
            picture = np.rint(255 * picture)
        return picture.astype(np.uint8)

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

    def __init__(self, envs: Sequence[gym.Env[Any, Any]]) -> None:
        super().__init__(len(envs), envs[0].action_space, envs[0].observation_space)
        self._envs = envs
        self._obs: list[Any] = [None] * len(envs)

    def reset(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        """See `Simulators`."""
        for copy, seed in zip(chosen.nonzero()[0].tolist(), seeds, strict=True):
            self._obs[copy], _ = self._envs[copy].reset(seed=seed, options={})
        return self._frames()

    def step(self, action: np.ndarray) -> SimulatorStep:
        """See `Simulators`."""
        reward = np.empty(self.num_envs)
        terminated, truncated = np.empty((2, self.num_envs), dtype=np.bool_)
        for copy, chosen in enumerate(action + self._first_action):
            self._obs[copy], reward[copy], terminated[copy], truncated[copy], _ = self._envs[
                copy
            ].step(chosen)
        return SimulatorStep(self._frames(), reward, terminated, truncated, terminated | truncated)

    def _frames(self) -> np.ndarray:
        """Return the frames of all copies, [N, …], in new memory.

        Raises `ValueError` if their shape is not that of the space.
        """
        frames = np.array(self._obs, dtype=self.raw_space.dtype)
        if frames.shape[1:] != self.raw_space.shape:
            raise ValueError(
                f"the environment's space is {self.raw_space}, but its observation has the shape "
                f"{frames.shape[1:]}"
            )
        return frames

    def _draw(self) -> Any:
        return self._envs[0].render()

    def action_names(self) -> list[str] | None:
        """See `Simulators`."""
        meanings = getattr(self._envs[0].unwrapped, "get_action_meanings", None)
        names = [] if meanings is None else [str(name).lower() for name in meanings()]
        return names if len(names) == self.num_actions else None  # a wrapper may change them

    def close(self, *, broken: bool = False) -> None:
        """See `Simulators`."""
        for env in self._envs:
            env.close()


class ProcessSimulators(GymnasiumSimulators):
    """Copies in separate processes: Gymnasium's vector environment without autoreset."""

    lets_others_run = True

    def __init__(self, envs: AsyncVectorEnv) -> None:
        super().__init__(envs.num_envs, envs.single_action_space, envs.single_observation_space)
        self._envs = envs

    def reset(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        """See `Simulators`."""
        seed: list[int | None] = [None] * self.num_envs
        for copy, value in zip(np.flatnonzero(chosen), seeds, strict=True):
            seed[copy] = value
        options = {"reset_mask": chosen.copy()}
        with self._processes_named():
            obs, _ = self._envs.reset(seed=cast(Any, seed), options=options)
        return np.asarray(obs)

    def step(self, action: np.ndarray) -> SimulatorStep:
        """See `Simulators`."""
        with self._processes_named():
            obs, reward, terminated, truncated, _ = self._envs.step(action + self._first_action)
        # Gymnasium returns its own arrays of flags and rewards, which change at the next step.
        return SimulatorStep(
            np.asarray(obs),
            reward.copy(),
            terminated.copy(),
            truncated.copy(),
            terminated | truncated,
        )

    def _draw(self) -> Any:
        drawn = self._envs.render()
        return None if drawn is None else drawn[0]

    def action_names(self) -> None:
        """Return `None`: the names are in another process."""

    def close(self, *, broken: bool = False) -> None:
        """See `Simulators`."""
        processes = self._envs.processes
        if not broken and all(process.is_alive() for process in processes):
            self._envs.close()
            return
        for process in processes:
            process.terminate()
        with suppress(EOFError, ConnectionError):  # it first waits for the step that broke
            self._envs.close(terminate=True)
        for process in processes:
            process.join()

    @contextmanager
    def _processes_named(self) -> Iterator[None]:
        """Raise `ProcessEndedError` for a process that ended: Gymnasium raises only that of its
        broken pipe.
        """
        try:
            yield
        except (EOFError, ConnectionError) as error:
            connection.wait([process.sentinel for process in self._envs.processes], timeout=1)
            ended = [p for p in self._envs.processes if p.exitcode is not None]
            if not ended:
                raise
            raise ProcessEndedError(
                f"process {ended[0].pid} of an environment ended with {ended[0].exitcode}"
            ) from error
