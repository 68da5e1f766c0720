"""The replay of one rank: what goes in by steps and comes out by batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from hvd_dqn.common.structs import Batch
from hvd_dqn.replay.ring import Ring
from hvd_dqn.replay.samplers import Sampler

_BYTES_TOGETHER = 2**18
"""Observations that are read at once, where a batch has fewer: they stay in a core's cache."""


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
        self._batch_size = batch_size
        self._rng = rng
        self._drawn = np.zeros(0, dtype=np.int64)
        self.before_rewriting: Callable[[], None] = lambda: None
        self._most_together = max(1, _BYTES_TOGETHER // (2 * batch_size * ring.observation_bytes))
        count = self._most_together * batch_size if sampler.draws_alike else batch_size
        # A GPU takes one batch while the next is put together; a learner on the host is done.
        turns = 2 if device.type == "cuda" else 1
        self._memories = itertools.cycle([ring.new_memory(count, device) for _ in range(turns)])

    @property
    def age(self) -> float:
        """Of the transitions drawn last, in steps of the vector environment, their mean; not a
        number where none have been.
        """
        return float(self._ring.ages(self._drawn).mean()) if len(self._drawn) else float("nan")

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

        The next sample overwrites it. Raises `ValueError` while there is no valid start.
        """
        return next(self.batches(1, importance_exponent))

    def batches(self, count: int, importance_exponent: float = 0.0) -> Iterator[Batch]:
        """As many samples, one at a time, with nothing added in between. Small ones that do not
        depend on each other are drawn together: their time goes into calls, not into numbers.
        """
        while count > 0:
            together = min(count, self._most_together) if self._sampler.draws_alike else 1
            batches = self._draw(together, importance_exponent)
            size = self._batch_size
            if together == 1:
                yield batches
            else:
                for start in range(0, together * size, size):
                    yield batches.part(slice(start, start + size))
            count -= together

    def _draw(self, together: int, importance_exponent: float) -> Batch:
        """So many batches, as one."""
        slot, windows, weight, share = self._sampler.draw(
            together * self._batch_size, importance_exponent
        )
        self._drawn = slot
        memory = next(self._memories).first(len(slot))
        memory.wait()
        memory.weight[:] = weight
        tensors = self._ring.read(slot, windows, self._gamma_powers, memory)
        return Batch(slot=slot, share=share, **tensors._asdict())

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
