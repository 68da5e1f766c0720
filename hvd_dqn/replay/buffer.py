"""The replay of one rank: what goes in by steps and comes out by batches."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from hvd_dqn.replay.ring import Ring
from hvd_dqn.replay.samplers import Sampler
from hvd_dqn.structs import Batch


class ReplayBuffer:
    """n-step replay over a ring of environment steps.

    Owns γ and n: `Batch.reward` and `Batch.discount` are ready to use.
    """

    def __init__(
        self,
        ring: Ring,
        sampler: Sampler,
        *,
        gamma: float,
        n_step: int,
        batch_size: int,
        rng: np.random.Generator,
        device: torch.device,
    ) -> None:
        self._ring = ring
        self._sampler = sampler
        self._gamma_powers = gamma ** np.arange(n_step + 1, dtype=np.float64)
        self._window = np.arange(n_step)
        self._batch_size = batch_size
        self._rng = rng
        self._device = device
        # Large memory asked for anew costs more, page by page, than the copying into it: batches
        # take turns in two places.
        self._places = itertools.cycle(
            [
                [ring.new_observations(batch_size, pinned=device.type == "cuda") for _ in range(2)]
                for _ in range(2)
            ]
        )

    def start(self, obs: np.ndarray) -> None:
        """Take the first observations [N, *obs]; once, before the first `add`."""
        self._ring.start(obs)

    def add(self, **step: np.ndarray) -> None:
        """Add one step of N environments: the arguments of `Ring.add`."""
        self._ring.add(**step)
        self._sampler.follow()

    def sample(self, importance_exponent: float = 0.0) -> Batch:
        """`batch_size` transitions, drawn by the sampler with replacement.

        The second sample after it overwrites its observations. Raises `ValueError` while there is
        no valid start.
        """
        slot, windows, weight, share = self._sampler.draw(self._batch_size, importance_exponent)
        length, depth = windows.length, windows.depth
        inside = self._window < length[:, None]
        rewards = self._ring.rewards(slot, len(self._window))
        reward = (rewards * self._gamma_powers[:-1] * inside).sum(axis=1)
        discount = np.where(windows.terminated, 0.0, self._gamma_powers[length])
        obs, next_obs = next(self._places)
        return Batch(
            obs=self._move(self._ring.observations(slot, 0, depth, out=obs)),
            action=self._to_device(self._ring.actions(slot)),
            reward=self._to_device(reward.astype(np.float32)),
            discount=self._to_device(discount.astype(np.float32)),
            next_obs=self._move(self._ring.observations(slot, length, depth, out=next_obs)),
            weight=self._to_device(weight),
            slot=slot,
            share=share,
        )

    def update_priorities(self, slot: np.ndarray, priority: torch.Tensor) -> None:
        """Priorities [B] ≥ 0 of a batch's slots, before the next `add`."""
        self._sampler.update_priorities(slot, priority)

    def state_dict(self) -> dict[str, Any]:
        """Tensors by name, and the random generator's state (JSON values)."""
        return {
            "ring": self._ring.state_dict(),
            "sampler": self._sampler.state_dict(),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave, of a replay of the same settings."""
        self._ring.load_state_dict(state["ring"])
        self._sampler.load_state_dict(state["sampler"])
        self._rng.bit_generator.state = state["rng"]

    def _move(self, obs: torch.Tensor) -> torch.Tensor:
        return obs.to(self._device, non_blocking=True)

    def _to_device(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device)
