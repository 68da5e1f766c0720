"""Which slots of a ring are drawn: every valid start alike, or in proportion to its priority."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
import torch

from hvd_dqn.common.structs import ReplayShare
from hvd_dqn.replay import kernels
from hvd_dqn.replay.ring import Ring, Windows
from hvd_dqn.replay.sum_tree import SumTree

_PRIORITY_FLOOR = 1e-6
"""Added to every priority, so that a transition of no error is drawn again some day (Schaul et al.
2016, section 3.3)."""

_SPARE = 16
"""Rows looked at beyond those wanted, so that the invalid among them seldom cost a second draw."""


class Draw(NamedTuple):
    """B slots, what can be read from each, each one's weight [B] float32 or that of all, and the
    rank's share.
    """

    slot: np.ndarray
    windows: Windows
    weight: np.ndarray | float
    share: ReplayShare


class Sampler(Protocol):
    """Draws starts of complete windows.

    `draws_alike`: what is drawn does not depend on what was drawn before.
    """

    draws_alike: bool

    def follow(self) -> None:
        """Take note of the step that the ring has just taken."""
        ...

    def draw(self, count: int, importance_exponent: float) -> Draw:
        """`count` slots, with replacement. `ValueError` while there is no valid start."""
        ...

    def update_priorities(self, slot: np.ndarray, priority: torch.Tensor) -> None:
        """Priorities [B] ≥ 0 of slots [B] that were drawn since the last `follow`."""
        ...

    def adopt(self, slot: np.ndarray, priority: np.ndarray, highest: float) -> None:
        """Take over rows [L] that were put into the ring, with their priorities to the power α, 0
        where there is none, and the highest of their replay.
        """
        ...

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What it remembers, as tensors."""
        ...

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put back what `state_dict` gave."""
        ...


class UniformSampler:
    """Every valid start with the same probability."""

    draws_alike = True

    def __init__(self, ring: Ring, rng: np.random.Generator) -> None:
        self._ring = ring
        self._rng = rng

    def follow(self) -> None:
        """Nothing to keep: validity is looked up when drawing."""

    def draw(self, count: int, importance_exponent: float) -> Draw:
        """Rows are drawn uniformly over all filled ones and the invalid among them left out, so the
        rest stay uniform.
        """
        slot, windows = self._valid_ones(count)
        if not len(slot) and not self._any_valid():
            raise ValueError(
                "the replay holds no complete transition yet; add steps before sampling"
            )
        while len(slot) < count:
            more, their_windows = self._valid_ones(count)
            slot = np.concatenate((slot, more))[:count]
            pairs = zip(windows, their_windows, strict=True)
            windows = Windows(*(np.concatenate(pair)[:count] for pair in pairs))
        return Draw(slot, windows, 1.0, ReplayShare())

    def _valid_ones(self, count: int) -> tuple[np.ndarray, Windows]:
        """At most `count` valid ones, the first among some more of the filled rows: as uniform as
        any.
        """
        return self._ring.draw(self._rng.random(count + _SPARE), count)

    def update_priorities(self, slot: np.ndarray, priority: torch.Tensor) -> None:
        """No slot is preferred."""

    def adopt(self, slot: np.ndarray, priority: np.ndarray, highest: float) -> None:
        """Nothing to keep."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Nothing."""

    def _any_valid(self) -> bool:
        rows = int(self._ring.filled.sum())
        if rows > len(self._ring.filled) * self._ring.most_invalid_rows:
            return True
        slot, _ = self._ring.draw((np.arange(rows) + 0.5) / max(rows, 1), 1)
        return len(slot) > 0


class PrioritizedSampler:
    """Starts in proportion to priority^α (Schaul et al. 2016, "Prioritized Experience Replay").

    A transition enters with the highest priority that this rank has seen. The importance weights
    (1 / (size · probability))^β are divided by the largest of the batch, as in dqn_zoo and
    Dopamine, so that size and sum of priorities cancel: (p_min / p)^β. The learner makes p_min that
    of all ranks' batches, and this rank's part that of its priorities in the sum over all ranks
    (`ReplayShare`).
    """

    draws_alike = False

    def __init__(self, ring: Ring, rng: np.random.Generator, *, priority_exponent: float) -> None:
        self._ring = ring
        self._rng = rng
        self._exponent = priority_exponent
        self._tree = SumTree(ring.num_slots)
        self._highest = 1.0

    def follow(self) -> None:
        """Let starts that became complete be drawn, and those that lost a frame no longer."""
        slots = self._ring.slots_at_edges()
        valid, _ = self._ring.windows(slots)
        changed = valid != (self._tree.leaves[slots] > 0)
        self._tree.set(slots[changed], np.where(valid[changed], self._highest, 0.0))

    def draw(self, count: int, importance_exponent: float) -> Draw:
        """One slot from each of `count` equal parts of the sum of priorities."""
        total = self._tree.total
        if total == 0:
            raise ValueError(
                "the replay holds no complete transition yet; add steps before sampling"
            )
        slot, leaf = self._tree.draw(self._rng.random(count))
        weight = np.empty(count, dtype=np.float32)
        smallest = kernels.weigh_leaves(leaf, importance_exponent, weight)
        share = ReplayShare(mass=total, weight_floor=smallest**importance_exponent)
        _, windows = self._ring.windows(slot)
        return Draw(slot, windows, weight, share)

    def update_priorities(self, slot: np.ndarray, priority: torch.Tensor) -> None:
        """See `Sampler`. Priorities that are no numbers are left out: the update that made them
        stops the run. On a GPU this waits for them.
        """
        leaf = np.empty(len(slot))
        numbers = priority.float().contiguous().cpu().numpy()
        highest = kernels.value_priorities(numbers, _PRIORITY_FLOOR, self._exponent, leaf)
        if math.isfinite(highest):
            self._highest = max(self._highest, highest)
            self._tree.set(slot, leaf)

    def adopt(self, slot: np.ndarray, priority: np.ndarray, highest: float) -> None:
        """See `Sampler`. What could not be drawn before has the highest priority."""
        self._highest = max(self._highest, highest)
        known = np.where(priority > 0, priority, self._highest)
        valid, _ = self._ring.windows(slot)
        self._tree.set(slot, np.where(valid, known, 0.0))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All priorities, to the power α."""
        return {
            "priorities": torch.from_numpy(self._tree.leaves),
            "highest_priority": torch.tensor(self._highest, dtype=torch.float64),
        }

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put them back."""
        self._tree.load(state["priorities"].numpy())
        self._highest = float(state["highest_priority"])
