"""A sum tree whose leaves are set and searched in batches."""

from __future__ import annotations

import numpy as np

from hvd_dqn.replay import kernels


class SumTree:
    """A binary tree of sums over leaves ≥ 0, [size] float64. A leaf of zero is never drawn.

    Every inner node is recomputed from its two children, so rounding errors do not accumulate.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._leaves = 1 << max((size - 1).bit_length(), 1)
        self._tree = np.zeros(2 * self._leaves)

    @staticmethod
    def bytes_needed(size: int) -> int:
        """Return the bytes that a tree of this size takes."""
        return 8 * 2 * (1 << max((size - 1).bit_length(), 1))

    @property
    def leaves(self) -> np.ndarray:
        """All leaves [size], for reading only."""
        return self._tree[self._leaves : self._leaves + self._size]

    @property
    def total(self) -> float:
        """Sum of the leaves."""
        return float(self._tree[1])

    def set(self, index: np.ndarray, value: np.ndarray) -> None:
        """Set the leaves `index` [B] to `value` [B]. If an index occurs twice, its last value
        counts.
        """
        kernels.set_leaves(self._tree, index, value)

    def draw(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Split the total into B equal parts and search one leaf in each (stratified sampling).

        `part` [B] in [0, 1) is the position within each part. Returns the index [B] and value [B]
        of the leaf where the running sum passes that position. If positions are uniform, a leaf's
        probability is proportional to its value. Raises `ValueError` if all leaves are zero.
        """
        found, value = np.empty(len(part), dtype=np.int64), np.empty(len(part))
        kernels.draw_leaves(self._tree, part, found, value)
        return found, value

    def load(self, leaves: np.ndarray) -> None:
        """Set all leaves [size]."""
        self.set(np.arange(self._size), leaves)
