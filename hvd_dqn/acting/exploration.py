"""Which actions are random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


class Exploration:
    """ε-greedy over N environments; with a zeta exponent, εz-greedy: random actions of random
    duration (Dabney, Ostrovski, Barreto 2021, "Temporally-Extended ε-Greedy Exploration").
    """

    def __init__(
        self,
        *,
        num_envs: int,
        num_actions: int,
        zeta_exponent: float | None,
        rng: np.random.Generator,
    ) -> None:
        self._num_actions = num_actions
        self._zeta_exponent = zeta_exponent
        self._rng = rng
        self._action: np.ndarray = np.zeros(num_envs, dtype=np.int64)
        self._remaining: np.ndarray = np.zeros(num_envs, dtype=np.int64)

    def choose(self, epsilon: np.ndarray, greedy: Callable[[], np.ndarray]) -> np.ndarray:
        """Actions [N], each random with its ε of [N]; `greedy` is asked only where some environment
        does not explore.
        """
        exploring = self._rng.random(len(self._action)) < epsilon
        if self._zeta_exponent is None:
            if np.count_nonzero(exploring):
                self._action = self._rng.integers(self._num_actions, size=len(self._action))
        else:
            exploring = self._lasting(exploring, self._zeta_exponent)
        count = np.count_nonzero(exploring)
        if count == 0:
            return greedy()
        if count == len(exploring):
            return self._action
        action: np.ndarray = np.where(exploring, self._action, greedy())
        return action

    def _lasting(self, start: np.ndarray, zeta_exponent: float) -> np.ndarray:
        """Where random actions are under way [N], once those have begun that are to `start` [N]."""
        start &= self._remaining == 0
        if np.count_nonzero(start):
            drawn = self._rng.integers(self._num_actions, size=len(self._action))
            durations = self._rng.zipf(zeta_exponent, size=len(self._action))
            self._action = np.where(start, drawn, self._action)
            self._remaining = np.where(start, durations, self._remaining)
        exploring: np.ndarray = self._remaining > 0
        self._remaining -= exploring
        return exploring

    def end_episodes(self, ended: np.ndarray) -> None:
        """No random action outlasts its episode."""
        self._remaining[ended] = 0

    def state_dict(self) -> dict[str, Any]:
        """The random actions under way, and the generator's state."""
        return {
            "action": torch.from_numpy(self._action.copy()),
            "remaining": torch.from_numpy(self._remaining.copy()),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._action = state["action"].numpy().copy()
        self._remaining = state["remaining"].numpy().copy()
        self.load_random_stream(state)

    def load_random_stream(self, state: dict[str, Any]) -> None:
        """Put back that part of a `state_dict` alone."""
        self._rng.bit_generator.state = state["rng"]
