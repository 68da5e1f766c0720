"""Where batches come from: what actor, loop, checkpoints and reports see of a rank's experience."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch

from hvd_dqn.common.structs import Batch, EnvStep
from hvd_dqn.replay.ring import Ring


class Experience(Protocol):
    """The steps of one rank's environments, and the batches that are made of them."""

    needs_values: bool
    """Whether `add` needs `value`."""

    @property
    def ring(self) -> Ring | None:
        """The ring that stores the transitions, if they outlast an iteration."""
        ...

    @property
    def transitions(self) -> int:
        """How many transitions are stored."""
        ...

    @property
    def age(self) -> float:
        """Mean age of the transitions in the last batches, in steps of the vector environment; NaN
        before the first batch.
        """
        ...

    @property
    def has_complete_window(self) -> bool:
        """Whether there are enough steps for a batch."""
        ...

    def start(self, obs: np.ndarray) -> None:
        """Add the first observations [N, *obs] of new episodes."""
        ...

    def add(self, action: np.ndarray, step: EnvStep, value: np.ndarray | None = None) -> None:
        """Add one step of N environments with these actions [N]. value [N]: the values of the
        observations that were acted on, if they are needed.
        """
        ...

    def truncate(self, columns: np.ndarray, obs: np.ndarray) -> None:
        """Truncate the episodes of these environments [C], which begin again at `obs` [C, *obs]."""
        ...

    def batches(self, count: int, importance_exponent: float = 0.0) -> Iterator[Batch]:
        """Yield the `count` batches of an iteration; nothing may be added meanwhile, and the next
        one may overwrite a batch.
        """
        ...

    def update_priorities(self, slot: np.ndarray, priority: torch.Tensor) -> None:
        """Note the priorities [B] ≥ 0 of a batch's slots. Call it before the next `add`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything except a ring's frames."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the `state_dict` of an experience with the same settings."""
        ...

    def load_random_stream(self, state: dict[str, Any]) -> None:
        """Restore only the random stream of a `state_dict`."""
        ...
