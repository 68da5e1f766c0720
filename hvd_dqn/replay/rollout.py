"""Learning without a replay: the steps of one iteration, with λ-returns, in epochs of minibatches.

Gallici et al. 2025, "Simplifying Deep Temporal Difference Learning" (PQN).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from hvd_dqn.common.structs import Batch, EnvStep, ReplayShare


class _Final(NamedTuple):
    """The true final observations [C, *obs] of the environments `columns` [C], which were truncated
    at the step `row`.
    """

    row: int
    columns: np.ndarray
    obs: np.ndarray


class Rollout:
    """T steps of N environments. Each iteration fills it, and then draws every step once in each
    epoch, in minibatches whose rewards are the λ-returns of Q-learning: nothing is left to
    bootstrap.

    The values in the returns are those with which the actions were chosen, since the network does
    not change within a rollout. Nothing of it outlasts the iteration but the observations that the
    next rollout begins with.
    """

    needs_values = True
    ring = None
    has_complete_window = True

    def __init__(
        self,
        *,
        num_envs: int,
        steps: int,
        obs_shape: tuple[int, ...],
        obs_dtype: np.dtype[Any],
        gamma: float,
        td_lambda: float,
        minibatches: int,
        values: Callable[[np.ndarray], np.ndarray],
        rng: np.random.Generator,
        device: torch.device,
    ) -> None:
        """`values` returns the values [B] of observations [B, *obs]."""
        shape = (steps, num_envs)
        self._obs = np.zeros((steps + 1, num_envs, *obs_shape), dtype=obs_dtype)
        self._action = np.zeros(shape, dtype=np.int64)
        self._reward = np.zeros(shape, dtype=np.float32)
        self._discount = np.zeros(shape, dtype=np.float32)
        self._ended = np.zeros(shape, dtype=np.bool_)
        self._weight = np.ones(shape, dtype=np.float32)
        self._value = np.zeros((steps + 1, num_envs), dtype=np.float32)
        self._finals: list[_Final] = []
        self._row = 0
        self._gamma, self._td_lambda = gamma, td_lambda
        self._size = steps * num_envs // minibatches
        self._values = values
        self._rng = rng
        self._device = device

    @property
    def transitions(self) -> int:
        """See `Experience`."""
        return int(self._action[: self._row].size)

    @property
    def age(self) -> float:
        """See `Experience`."""
        return (len(self._action) - 1) / 2

    def start(self, obs: np.ndarray) -> None:
        """See `Experience`."""
        self._row = 0
        self._obs[0] = obs
        self._finals.clear()

    def add(self, action: np.ndarray, step: EnvStep, value: np.ndarray | None = None) -> None:
        """See `Experience`. Skipped steps are not transitions and get the weight 0. Every
        environment takes part in each step.
        """
        assert step.stepped is None
        assert value is not None
        if self._row == len(self._action):
            self.start(self._obs[-1])
        row = self._row
        self._action[row] = action
        self._reward[row] = step.reward
        np.multiply(self._gamma, ~step.terminated, out=self._discount[row])
        self._ended[row] = step.ended
        self._weight[row] = 1.0 if step.skipped is None else ~step.skipped
        self._value[row] = value
        columns = np.flatnonzero(step.ended & ~step.terminated)
        if len(columns):
            self._finals.append(_Final(row, columns, step.next_obs[columns]))
        self._row += 1
        self._obs[self._row] = step.obs

    def truncate(self, columns: np.ndarray, obs: np.ndarray) -> None:
        """See `Experience`."""
        row = self._row - 1
        if row >= 0:
            open_ones = columns[~self._ended[row, columns]]
            if len(open_ones):
                self._finals.append(_Final(row, open_ones, self._obs[self._row, open_ones]))
                self._ended[row, open_ones] = True
        self._obs[self._row, columns] = obs

    def batches(self, count: int, importance_exponent: float = 0.0) -> Iterator[Batch]:
        """Yield the minibatches of `count` / minibatches epochs; each epoch is shuffled anew."""
        every = self._action.size
        obs, action, weight, returns = (
            torch.from_numpy(array).to(self._device)
            for array in (
                self._obs[:-1].reshape(every, *self._obs.shape[2:]),
                self._action.reshape(every),
                self._weight.reshape(every),
                self.returns().reshape(every),
            )
        )
        nothing = torch.zeros(self._size, device=self._device)
        own = obs.new_empty((self._size, *obs.shape[1:]))
        per_epoch = every // self._size
        for number in range(count):
            place = number % per_epoch
            if place == 0:
                order = self._rng.permutation(every)
                on_device = torch.from_numpy(order).to(self._device)
            part = slice(place * self._size, (place + 1) * self._size)
            rows = on_device[part]
            yield Batch(
                obs=torch.index_select(obs, 0, rows, out=own),
                action=action[rows],
                reward=returns[rows],
                discount=nothing,
                next_obs=obs[:0],
                weight=weight[rows],
                slot=order[part],
                share=ReplayShare(),
            )

    def returns(self) -> np.ndarray:
        """Return the λ-returns [T, N] of all steps, backwards from the last one:

            G_t = r_t + γ·(1 − terminated)·((1 − λ)·max Q(s_{t+1}) + λ·G_{t+1})

        with λ = 0 where the rollout or an episode ends (Peng & Williams 1994; Gallici et al. 2025).
        A truncated episode bootstraps from its true final observation.
        """
        steps = len(self._action)
        self._value[steps] = self._values(self._obs[steps])
        following = self._value[1:].copy()
        if self._finals:
            found = self._values(np.concatenate([final.obs for final in self._finals]))
            ends = np.cumsum([len(final.columns) for final in self._finals])[:-1]
            for final, values in zip(self._finals, np.split(found, ends), strict=True):
                following[final.row, final.columns] = values
        returns = np.empty_like(self._reward)
        after = following[-1]
        for row in reversed(range(steps)):
            mixed = following[row] + self._td_lambda * (after - following[row])
            bootstrap = np.where(self._ended[row], following[row], mixed)
            after = returns[row] = self._reward[row] + self._discount[row] * bootstrap
        return returns

    def update_priorities(self, slot: np.ndarray, priority: torch.Tensor) -> None:
        """Do nothing: every step is drawn."""

    def state_dict(self) -> dict[str, Any]:
        """See `Experience`. Call it between iterations."""
        return {
            "obs": torch.from_numpy(self._obs[self._row].copy()),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Experience`."""
        self.start(state["obs"].numpy())
        self.load_random_stream(state)

    def load_random_stream(self, state: dict[str, Any]) -> None:
        """See `Experience`."""
        self._rng.bit_generator.state = state["rng"]
