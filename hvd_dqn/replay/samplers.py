"""Samplers choose slots of a ring: uniformly, or in proportion to priorities."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch

from hvd_dqn.common.structs import FRACTIONS, ReplayShare
from hvd_dqn.replay import kernels
from hvd_dqn.replay.ring import Ring, Windows
from hvd_dqn.replay.sum_tree import SumTree

_PRIORITY_FLOOR = 1e-6
"""Added to every priority, so that a transition without error can be drawn again (Schaul et al.
2016, section 3.3).
"""

_SPARE = 16
"""Extra rows drawn, so that invalid ones among them rarely cost a second draw."""


class Draw(NamedTuple):
    """B slots and their windows, the importance weight [B] float32 of each, or one weight for all,
    and the rank's share.
    """

    slot: np.ndarray
    windows: Windows
    weight: np.ndarray | float
    share: ReplayShare


class Sampler(Protocol):
    """Chooses slots at which a complete window starts.

    `draws_are_independent`: whether a draw does not depend on the priorities of earlier ones.
    """

    draws_are_independent: bool

    def update_validity(self) -> None:
        """Account for the step that was just added to the ring."""
        ...

    def draw(self, count: int, importance_exponent: float) -> Draw:
        """Draw `count` slots with replacement. Raises `ValueError` if no slot is valid."""
        ...

    def update_priorities(self, slot: np.ndarray, priority: torch.Tensor) -> None:
        """Set the priorities [B] ≥ 0 of slots [B] drawn since the last `update_validity`."""
        ...

    def load_priorities(self, slot: np.ndarray, priority: np.ndarray, highest: float) -> None:
        """Make rows [L] that were appended to the ring available, with their priorities to the
        power α (0 if they have none) and the highest priority of the replay that they come from.
        """
        ...

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The sampler's state, as tensors."""
        ...

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore a `state_dict`."""
        ...


class UniformSampler:
    """Draws every valid slot with the same probability."""

    draws_are_independent = True

    def __init__(self, ring: Ring, rng: np.random.Generator) -> None:
        self._ring = ring
        self._rng = rng

    def update_validity(self) -> None:
        """Do nothing: validity is checked when drawing."""

    def draw(self, count: int, importance_exponent: float) -> Draw:
        """See `Sampler.draw`. Draws uniformly from all filled rows and rejects invalid ones, so the
        rest are uniform.
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
        """Return up to `count` valid slots: the first among slightly more random rows, so they stay
        uniform.
        """
        return self._ring.draw(self._rng.random(count + _SPARE), count)

    def update_priorities(self, slot: np.ndarray, priority: torch.Tensor) -> None:
        """Do nothing."""

    def load_priorities(self, slot: np.ndarray, priority: np.ndarray, highest: float) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Empty: there is no state."""
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Do nothing."""

    def _any_valid(self) -> bool:
        rows = int(self._ring.filled.sum())
        if rows > len(self._ring.filled) * self._ring.max_invalid_rows:
            return True
        slot, _ = self._ring.draw((np.arange(rows) + 0.5) / max(rows, 1), 1)
        return len(slot) > 0


class PrioritizedSampler:
    """Draws slots in proportion to priority^α (Schaul et al. 2016, "Prioritized Experience
    Replay").

    A new transition gets the highest priority that this rank has seen. Importance weights (1 /
    (size · probability))^β are divided by the largest of the batch, as in dqn_zoo and Dopamine;
    size and sum of priorities cancel out: (p_min / p)^β. With several ranks, the learner replaces
    p_min by that of a batch from one replay, and weights each rank by its share of the sum of
    priorities (`ReplayShare`).
    """

    draws_are_independent = False

    def __init__(self, ring: Ring, rng: np.random.Generator, *, priority_exponent: float) -> None:
        self._ring = ring
        self._rng = rng
        self._exponent = priority_exponent
        self._tree = SumTree(ring.num_slots)
        self._highest = 1.0

    def update_validity(self) -> None:
        """See `Sampler.update_validity`. Slots whose window is complete now get the highest
        priority; slots that lost a frame get 0.
        """
        slots = self._ring.slots_at_edges()
        valid, _ = self._ring.windows(slots)
        changed = valid != (self._tree.leaves[slots] > 0)
        self._tree.set(slots[changed], np.where(valid[changed], self._highest, 0.0))

    def draw(self, count: int, importance_exponent: float) -> Draw:
        """See `Sampler.draw`. Draws one slot from each of `count` equal parts of the sum of
        priorities.
        """
        total = self._tree.total
        if total == 0:
            raise ValueError(
                "the replay holds no complete transition yet; add steps before sampling"
            )
        place = self._rng.random(count)
        slot, leaf = self._tree.draw(place)
        weight = np.empty(count, dtype=np.float32)
        smallest = kernels.weigh_leaves(leaf, importance_exponent, weight)
        leaves = (smallest, *_smallest_of_fractions(leaf, chance=place[-1]))
        share = ReplayShare(total, tuple(value**importance_exponent for value in leaves))
        _, windows = self._ring.windows(slot)
        return Draw(slot, windows, weight, share)

    def update_priorities(self, slot: np.ndarray, priority: torch.Tensor) -> None:
        """See `Sampler.update_priorities`. Ignores the batch if a priority is not finite: the
        update that computed it ends the run. On a GPU this waits for the priorities.
        """
        leaf = np.empty(len(slot))
        numbers = priority.float().contiguous().cpu().numpy()
        highest = kernels.value_priorities(numbers, _PRIORITY_FLOOR, self._exponent, leaf)
        if math.isfinite(highest):
            self._highest = max(self._highest, highest)
            self._tree.set(slot, leaf)

    def load_priorities(self, slot: np.ndarray, priority: np.ndarray, highest: float) -> None:
        """See `Sampler.load_priorities`. A slot without a priority gets the highest."""
        self._highest = max(self._highest, highest)
        known = np.where(priority > 0, priority, self._highest)
        valid, _ = self._ring.windows(slot)
        self._tree.set(slot, np.where(valid, known, 0.0))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All priorities to the power α, and the highest."""
        return {
            "priorities": torch.from_numpy(self._tree.leaves),
            "highest_priority": torch.tensor(self._highest, dtype=torch.float64),
        }

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore a `state_dict`."""
        self._tree.load(state["priorities"].numpy())
        self._highest = float(state["highest_priority"])


def _smallest_of_fractions(leaf: np.ndarray, *, chance: float) -> Iterator[float]:
    """Yield the smallest of the leaves [B] of a batch in each fraction of it; see `ReplayShare`.

    Neighbours in a batch are neighbours in the ring, so fractions are spread evenly. Each contains
    the next one. `chance` in [0, 1) decides about fractions of less than a sample.
    """
    first = 0
    for fraction in FRACTIONS[1:]:
        step = round(1 / fraction)
        if step <= len(leaf):
            first = 2 * step // 3
            yield float(np.minimum.reduce(leaf[first::step]))
        else:
            yield float(leaf[first]) if chance * step < len(leaf) else math.inf
