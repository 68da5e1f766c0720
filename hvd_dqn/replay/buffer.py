"""The replay of one rank: what goes in by steps and comes out by batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import cuda

from hvd_dqn.replay.ring import Ring
from hvd_dqn.replay.samplers import Sampler
from hvd_dqn.structs import Batch, ReplayShare


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
        self.before_rewriting: Callable[[], None] = lambda: None
        self._staging = itertools.cycle([_Staging(ring, batch_size, device) for _ in range(2)])

    @property
    def ring(self) -> Ring:
        """What is kept."""
        return self._ring

    def start(self, obs: np.ndarray) -> None:
        """Take the first observations [N, *obs] of new episodes, before the first `add` and after
        `Ring.append`.
        """
        self._ring.start(obs)

    def add(self, **step: np.ndarray) -> None:
        """Add one step of N environments: the arguments of `Ring.add`."""
        self._ring.add(**step)
        self._sampler.follow()

    def cut(self, columns: np.ndarray, obs: np.ndarray) -> None:
        """End the episodes of these environments [C] where they are (see `Ring.cut`), which may
        write a row anew: after `before_rewriting`.
        """
        self.before_rewriting()
        self._ring.cut(columns, obs)
        self._sampler.follow()

    def sample(self, importance_exponent: float = 0.0) -> Batch:
        """`batch_size` transitions, drawn by the sampler with replacement.

        The second sample after it overwrites it. Raises `ValueError` while there is
        no valid start.
        """
        slot, windows, weight, share = self._sampler.draw(self._batch_size, importance_exponent)
        length, depth = windows.length, windows.depth
        staging = next(self._staging)
        staging.wait()
        self._ring.observations(slot, 0, depth, out=staging.obs)
        self._ring.observations(slot, length, depth, out=staging.next_obs)
        inside = self._window < length[:, None]
        rewards = self._ring.rewards(slot, len(self._window))
        reward = (rewards * self._gamma_powers[:-1] * inside).sum(axis=1)
        discount = np.where(windows.terminated, 0.0, self._gamma_powers[length])
        staging.action.numpy()[:] = self._ring.actions(slot)
        staging.scalars.numpy()[:] = reward, discount, weight
        return staging.batch(slot, share)

    def update_priorities(self, slot: np.ndarray, priority: torch.Tensor) -> None:
        """Priorities [B] ≥ 0 of a batch's slots, before the next `add`."""
        self._sampler.update_priorities(slot, priority)

    def adopt(self, slot: np.ndarray, priority: np.ndarray, highest: float) -> None:
        """Draw from rows that were appended to the ring (see `Sampler.adopt`), after `start`."""
        self._sampler.adopt(slot, priority, highest)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the ring's frames."""
        return {
            "ring": self._ring.state_dict(),
            "sampler": self._sampler.state_dict(),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave, of a replay of the same settings."""
        self._ring.load_state_dict(state["ring"])
        self._sampler.load_state_dict(state["sampler"])
        self.load_random_stream(state)

    def load_random_stream(self, state: dict[str, Any]) -> None:
        """Put back that part of a `state_dict` alone."""
        self._rng.bit_generator.state = state["rng"]


class _Staging:
    """Where one batch is put together, and where a GPU takes it from.

    Large memory asked for anew costs more, page by page, than the copying into it: batches take
    turns in two of these.
    """

    def __init__(self, ring: Ring, batch_size: int, device: torch.device) -> None:
        self._device = device
        pinned = device.type == "cuda"
        self._taken: Any = cuda.Event() if pinned else None  # type: ignore[no-untyped-call]  # torch's
        self.obs = ring.new_observations(batch_size, pinned=pinned)
        self.next_obs = ring.new_observations(batch_size, pinned=pinned)
        self.action = torch.empty(batch_size, dtype=torch.int64, pin_memory=pinned)
        self.scalars = torch.empty(3, batch_size, pin_memory=pinned)

    def wait(self) -> None:
        """Until the GPU has taken the batch before."""
        if self._taken is not None:
            self._taken.synchronize()

    def batch(self, slot: np.ndarray, share: ReplayShare) -> Batch:
        """The batch on the learner's device."""
        reward, discount, weight = self._move(self.scalars)
        batch = Batch(
            obs=self._move(self.obs),
            action=self._move(self.action),
            reward=reward,
            discount=discount,
            next_obs=self._move(self.next_obs),
            weight=weight,
            slot=slot,
            share=share,
        )
        if self._taken is not None:
            self._taken.record()
        return batch

    def _move(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self._device, non_blocking=True)
