"""The replay ring of one rank: every frame once, windows gathered when sampled.

Each environment has a ring of its own, `[N, T]` in all, so that a sample's window is contiguous in
memory. A row holds the observation, the action taken on it, the reward it gave and how it ended. An
episode's final observation takes a row of its own that no sample starts at; so the observation m
steps after row r is always row r + m of the same ring, a truncated episode bootstraps from what was
really seen last, and no reset is ever mistaken for a transition.
"""

from __future__ import annotations

import numpy as np
import torch

from hvd_dqn.structs import Batch

_TERMINATED, _TRUNCATED, _FINAL_OBS = np.uint8(1), np.uint8(2), np.uint8(4)
_ENDED = _TERMINATED | _TRUNCATED


class ReplayBuffer:
    """Uniform n-step replay over the last `capacity` rows of `num_envs` environments.

    Owns γ and n: `Batch.reward` and `Batch.discount` are ready to use. Every valid start in the
    ring is equally likely.
    """

    def __init__(
        self,
        *,
        capacity: int,
        num_envs: int,
        obs_shape: tuple[int, ...],
        obs_dtype: np.dtype,
        gamma: float,
        n_step: int,
        batch_size: int,
        rng: np.random.Generator,
        device: torch.device,
    ) -> None:
        # One row more than asked for: the row at the cursor holds the current observation, not yet
        # a transition.
        self._rows = capacity // num_envs + 1
        self._num_envs = num_envs
        self._frames = np.zeros((num_envs, self._rows, *obs_shape), dtype=obs_dtype)
        self._actions = np.zeros((num_envs, self._rows), dtype=np.int32)
        self._rewards = np.zeros((num_envs, self._rows), dtype=np.float32)
        self._kinds = np.zeros((num_envs, self._rows), dtype=np.uint8)
        self._cursor = np.zeros(num_envs, dtype=np.int64)
        self._filled = np.zeros(num_envs, dtype=np.int64)
        self._gamma_powers = gamma ** np.arange(n_step + 1, dtype=np.float64)
        self._window = np.arange(n_step)
        self._batch_size = batch_size
        self._rng = rng
        self._device = device
        self._columns = np.arange(num_envs)

    def start(self, obs: np.ndarray) -> None:
        """Take the first observations [N, *shape]; once, before the first `add`."""
        self._frames[self._columns, self._cursor] = obs

    def add(
        self,
        *,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        ended: np.ndarray,
        next_obs: np.ndarray,
        obs: np.ndarray,
    ) -> None:
        """Add one step of N environments (see `EnvStep`), at once there to be sampled."""
        columns, cursor = self._columns, self._cursor
        self._actions[columns, cursor] = action
        self._rewards[columns, cursor] = reward
        self._kinds[columns, cursor] = terminated * _TERMINATED | truncated * _TRUNCATED
        self._advance(columns)
        self._frames[columns, cursor] = next_obs
        restarted = np.flatnonzero(ended)
        if restarted.size:
            self._kinds[restarted, cursor[restarted]] = _FINAL_OBS
            self._advance(restarted)
            self._frames[restarted, cursor[restarted]] = obs[restarted]

    def sample(self) -> Batch:
        """`batch_size` transitions, each valid start equally likely, with replacement.

        Raises `ValueError` while there is no valid start.
        """
        column, row, length, ended = self._draw(self._batch_size)
        window = (row[:, None] + self._window) % self._rows
        inside = self._window < length[:, None]
        reward = (self._rewards[column[:, None], window] * self._gamma_powers[:-1] * inside).sum(
            axis=1
        )
        last = (row + length - 1) % self._rows
        terminated = ended & ((self._kinds[column, last] & _TERMINATED) != 0)
        discount = np.where(terminated, 0.0, self._gamma_powers[length])
        return Batch(
            obs=self._to_device(self._frames[column, row]),
            action=self._to_device(self._actions[column, row].astype(np.int64)),
            reward=self._to_device(reward.astype(np.float32)),
            discount=self._to_device(discount.astype(np.float32)),
            next_obs=self._to_device(self._frames[column, (row + length) % self._rows]),
            weight=torch.ones(len(row), device=self._device),
            slot=self._to_device(column * self._rows + row),
        )

    def _advance(self, columns: np.ndarray) -> None:
        """Move these cursors one row on; the row they come to is the oldest one, given up."""
        self._cursor[columns] = (self._cursor[columns] + 1) % self._rows
        self._filled[columns] = np.minimum(self._filled[columns] + 1, self._rows - 1)

    def _draw(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Column, row, window length m and whether the episode ended within it, [count] each.

        Rows are drawn uniformly over all filled ones and the invalid among them drawn again, so the
        rest stay uniform.
        """
        edges = np.cumsum(self._filled)
        parts: list[tuple[np.ndarray, ...]] = []
        missing = count
        while missing:
            if not parts and not self._any_valid(edges):
                raise ValueError(
                    "the replay holds no complete transition yet; add steps before sampling"
                )
            ticket = self._rng.integers(edges[-1], size=missing)
            column = np.searchsorted(edges, ticket, side="right")
            age = edges[column] - ticket  # 1 (newest) … filled
            row = (self._cursor[column] - age) % self._rows
            valid, length, ended = self._windows(column, row, age)
            parts.append((column[valid], row[valid], length[valid], ended[valid]))
            missing -= int(valid.sum())
        column, row, length, ended = (np.concatenate(values) for values in zip(*parts, strict=True))
        return column, row, length, ended

    def _windows(
        self, column: np.ndarray, row: np.ndarray, age: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Whether each row starts a complete window, the window's length m, and whether an episode
        ended in it.
        """
        n = len(self._window)
        kinds = self._kinds[column[:, None], (row[:, None] + self._window) % self._rows]
        ends = (kinds & _ENDED) != 0
        ends &= self._window < age[:, None]
        ended = ends.any(axis=1)
        length = np.where(ended, ends.argmax(axis=1) + 1, n)
        return (kinds[:, 0] != _FINAL_OBS) & (length <= age), length, ended

    def _any_valid(self, edges: np.ndarray) -> bool:
        if edges[-1] > 4 * self._num_envs * len(self._window):
            return True  # more rows than can be incomplete or final
        column = np.repeat(self._columns, self._filled)
        age = edges[column] - np.arange(edges[-1])
        return bool(self._windows(column, (self._cursor[column] - age) % self._rows, age)[0].any())

    def _to_device(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device)
