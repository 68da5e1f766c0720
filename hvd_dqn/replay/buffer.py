"""The replay of one rank: add steps, sample batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from hvd_dqn.common.structs import Batch, EnvStep
from hvd_dqn.replay.ring import Ring
from hvd_dqn.replay.samplers import Sampler

_BYTES_TOGETHER = 2**18
"""Small batches are read together up to this many bytes of observations, which stay in a core's
cache.
"""


class ReplayBuffer:
    """n-step replay over a ring of environment steps.

    Owns γ and n: `Batch.reward` and `Batch.discount` are ready to use. Before `truncate` rewrites a
    row that was complete, it calls `before_truncating`, so that nobody is reading the row.
    """

    needs_values = False

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
        before_truncating: Callable[[], None] = lambda: None,
    ) -> None:
        self._ring = ring
        self._sampler = sampler
        self._gamma_powers = gamma ** np.arange(n_step + 1, dtype=np.float64)
        self._batch_size = batch_size
        self._rng = rng
        self._drawn = np.zeros(0, dtype=np.int64)
        self._before_truncating = before_truncating
        self._max_joint_batches = max(
            1, _BYTES_TOGETHER // (2 * batch_size * ring.observation_bytes)
        )
        count = (
            self._max_joint_batches * batch_size if sampler.draws_are_independent else batch_size
        )
        # A GPU copies one batch while the next is assembled; on the host, one memory is enough.
        turns = 2 if device.type == "cuda" else 1
        self._memories = itertools.cycle([ring.new_memory(count, device) for _ in range(turns)])

    @property
    def transitions(self) -> int:
        """See `Experience`."""
        return int(self._ring.filled.sum())

    @property
    def age(self) -> float:
        """Mean age of the transitions sampled last, in steps of the vector environment; NaN before
        the first sample.
        """
        return float(self._ring.ages(self._drawn).mean()) if len(self._drawn) else float("nan")

    @property
    def has_complete_window(self) -> bool:
        """Whether an environment has taken enough steps for a sample."""
        return int(self._ring.filled.max()) >= len(self._gamma_powers) - 1

    @property
    def ring(self) -> Ring:
        """The ring that stores the transitions."""
        return self._ring

    def start(self, obs: np.ndarray) -> None:
        """Add the first observations [N, *obs] of new episodes: before the first `add`, and after
        `Ring.append`.
        """
        self._ring.start(obs)

    def add(self, action: np.ndarray, step: EnvStep, value: np.ndarray | None = None) -> None:
        """Add one step of N environments; see `Ring.add`."""
        self._ring.add(action, step)
        self._sampler.update_validity()

    def truncate(self, columns: np.ndarray, obs: np.ndarray) -> None:
        """Truncate the episodes of these environments [C]; see `Ring.truncate`."""
        self._before_truncating()
        self._ring.truncate(columns, obs)
        self._sampler.update_validity()

    def sample(self, importance_exponent: float = 0.0) -> Batch:
        """Sample `batch_size` transitions with replacement.

        The next sample overwrites the batch. Raises `ValueError` if the replay holds no complete
        transition.
        """
        return next(self.batches(1, importance_exponent))

    def batches(self, count: int, importance_exponent: float = 0.0) -> Iterator[Batch]:
        """Yield `count` batches; nothing may be added meanwhile. Small batches that do not depend
        on each other are sampled together, since calls, not numbers, take most of their time.
        """
        while count > 0:
            together = (
                min(count, self._max_joint_batches) if self._sampler.draws_are_independent else 1
            )
            batches = self._draw(together, importance_exponent)
            size = self._batch_size
            if together == 1:
                yield batches
            else:
                for start in range(0, together * size, size):
                    yield batches.part(slice(start, start + size))
            count -= together

    def _draw(self, together: int, importance_exponent: float) -> Batch:
        """Sample several batches as one."""
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
        """Set the priorities [B] ≥ 0 of a batch's slots. Call it before the next `add`."""
        self._sampler.update_priorities(slot, priority)

    def load_priorities(self, slot: np.ndarray, priority: np.ndarray, highest: float) -> None:
        """Make rows that were appended to the ring available for sampling; see
        `Sampler.load_priorities`. Call it after `start`.
        """
        self._sampler.load_priorities(slot, priority, highest)

    def state_dict(self) -> dict[str, Any]:
        """Everything except the ring's frames."""
        return {
            "ring": self._ring.state_dict(),
            "sampler": self._sampler.state_dict(),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the `state_dict` of a replay with the same settings."""
        self._ring.load_state_dict(state["ring"])
        self._sampler.load_state_dict(state["sampler"])
        self.load_random_stream(state)

    def load_random_stream(self, state: dict[str, Any]) -> None:
        """Restore only the random stream of a `state_dict`."""
        self._rng.bit_generator.state = state["rng"]
