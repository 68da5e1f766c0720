"""Sums over many priorities, changed and searched many at a time."""

from __future__ import annotations

import numpy as np

from hvd_dqn.replay import kernels


class SumTree:
    """Leaves ≥ 0, [size] float64; zero stands for a leaf that cannot be drawn.

    A binary tree. Every sum is made anew from its two parts, so nothing drifts over a run.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._leaves = 1 << max((size - 1).bit_length(), 1)
        self._tree = np.zeros(2 * self._leaves)

    @staticmethod
    def bytes_needed(size: int) -> int:
        """What a tree of this size takes."""
        return 8 * 2 * (1 << max((size - 1).bit_length(), 1))

    @property
    def leaves(self) -> np.ndarray:
        """All leaves [size]; to be read only."""
        return self._tree[self._leaves : self._leaves + self._size]

    @property
    def total(self) -> float:
        """Sum of the leaves."""
        return float(self._tree[1])

    def set(self, index: np.ndarray, value: np.ndarray) -> None:
        """Give leaves `index` [B] the values [B]; of an index that comes twice, the last one
        counts.
        """
        kernels.set_leaves(self._tree, index, value)

    def draw(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From each of B equal parts of the total, the leaf [B] at which the running sum of leaves
        passes that `part` [B] of it, in [0, 1), and its value [B]; never one of zero. Where parts
        are uniform, each leaf is drawn in proportion to its value. `ValueError` where all are zero.
        """
        found, value = np.empty(len(part), dtype=np.int64), np.empty(len(part))
        kernels.draw_leaves(self._tree, part, found, value)
        return found, value

    def load(self, leaves: np.ndarray) -> None:
        """Replace all leaves [size]."""
        self.set(np.arange(self._size), leaves)
