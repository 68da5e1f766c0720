"""The narrow interface between `VectorEnvironment` and whatever steps the games."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection
from typing import Any, NamedTuple, Protocol, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv

from hvd_dqn.common.errors import UserError


class SimulatorStep(NamedTuple):
    """One step of N copies; the arrays are the caller's.

    frames [N, …] as the simulator gives them; reward [N]; terminated [N], the learner's signal;
    truncated [N]; ended [N], whose copies must be reset before their next step.
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
    """Whether other threads of this process get on while it steps."""

    def reset(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        """Start an episode in the copies `chosen` [N] bool, each from its own of `seeds`: the
        frames of all copies. The first reset chooses all.
        """
        ...

    def step(self, action: np.ndarray) -> SimulatorStep:
        """Take action [N] int in 0 … num_actions − 1."""
        ...

    def picture(self) -> np.ndarray:
        """What the first copy looks like now, [H, W, 3] uint8. `UserError` where it draws none."""
        ...

    def action_names(self) -> list[str] | None:
        """What the environment calls its actions, where it does."""
        ...

    def close(self, *, broken: bool = False) -> None:
        """End the copies, their threads and processes; where one is `broken`, without waiting."""
        ...


class ProcessEndedError(Exception):
    """The process of an environment is gone: killed, or out of memory."""


class GymnasiumSimulators(ABC):
    """Copies of a Gymnasium environment."""

    lets_others_run: bool

    def __init__(
        self, num_envs: int, actions: gym.Space[Any], observations: gym.Space[Any]
    ) -> None:
        """`actions` and `observations` are one copy's spaces."""
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
        except Exception as error:  # another's code may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"the environment cannot draw itself ({reason})") from error
        picture = None if drawn is None else np.asarray(drawn)
        if picture is None or picture.ndim != 3 or picture.shape[2] != 3:
            raise UserError('the environment does not support render_mode="rgb_array"')
        if picture.dtype.kind == "f" and picture.max() <= 1:  # MinAtar's are shares
            picture = np.rint(255 * picture)
        return picture.astype(np.uint8)

    @abstractmethod
    def _draw(self) -> Any:
        """What the first copy draws, if anything."""

    @abstractmethod
    def action_names(self) -> list[str] | None:
        """See `Simulators`."""

    @abstractmethod
    def close(self, *, broken: bool = False) -> None:
        """See `Simulators`."""


class SerialSimulators(GymnasiumSimulators):
    """Copies that are stepped one after the other, in this process."""

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
        """Of all copies, [N, …] in memory of their own. `ValueError` for another shape than the
        space's.
        """
        frames = np.array(self._obs, dtype=self.raw_space.dtype)
        if frames.shape[1:] != self.raw_space.shape:
            raise ValueError(
                f"the environment observes {self.raw_space}, and gives an observation of shape "
                f"{frames.shape[1:]}"
            )
        return frames

    def _draw(self) -> Any:
        return self._envs[0].render()

    def action_names(self) -> list[str] | None:
        """See `Simulators`."""
        meanings = getattr(self._envs[0].unwrapped, "get_action_meanings", None)
        names = [] if meanings is None else [str(name).lower() for name in meanings()]
        return names if len(names) == self.num_actions else None  # a wrapper may have others

    def close(self, *, broken: bool = False) -> None:
        """See `Simulators`."""
        for env in self._envs:
            env.close()


class ProcessSimulators(GymnasiumSimulators):
    """Copies in processes of their own: Gymnasium's vector environment, its autoreset disabled."""

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
        # Gymnasium hands out its own arrays for the flags and the rewards: they change at the next
        # step.
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
        """They are in another process."""

    def close(self, *, broken: bool = False) -> None:
        """See `Simulators`."""
        processes = self._envs.processes
        if not broken and all(process.is_alive() for process in processes):
            self._envs.close()
            return
        for process in processes:
            process.terminate()
        with suppress(EOFError, ConnectionError):  # it waits first for the step that broke
            self._envs.close(terminate=True)
        for process in processes:
            process.join()

    @contextmanager
    def _processes_named(self) -> Iterator[None]:
        """Gymnasium tells of a process that is gone only by its broken pipe."""
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
