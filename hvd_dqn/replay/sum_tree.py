"""Sums over many priorities, changed and searched many at a time."""

from __future__ import annotations

import numpy as np

_TOP = 4096


class SumTree:
    """Leaves ≥ 0, [size] float64; zero stands for a leaf that cannot be drawn.

    A binary tree whose upper levels are one row of at most 4,096 sums: a search starts with one
    bisection there (10 µs for 256 searches) in place of twelve levels. Every sum is made anew from
    its two parts, so nothing drifts over a run.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._leaves = 1 << max((size - 1).bit_length(), 1)
        self._top = min(_TOP, self._leaves)
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
        return float(self._tree[self._top : 2 * self._top].sum())

    def set(self, index: np.ndarray, value: np.ndarray) -> None:
        """Give leaves `index` [B] the values [B]; of an index that comes twice, the last one
        counts.
        """
        if not len(index):
            return
        tree = self._tree
        node = index + self._leaves
        tree[node] = value
        for _ in range((self._leaves // self._top).bit_length() - 1):
            node = node >> 1
            tree[node] = tree[2 * node] + tree[2 * node + 1]

    def search(self, share: np.ndarray) -> np.ndarray:
        """For each share [B] in [0, 1), the leaf [B] at which the running sum of leaves passes that
        share of the total.

        A leaf is found with probability proportional to its value when shares are uniform. Rounding
        may end on a leaf of zero beside it: the caller asks again for that one.
        """
        sums = np.cumsum(self._tree[self._top : 2 * self._top])
        wanted = share * sums[-1]
        place = np.minimum(np.searchsorted(sums, wanted, side="right"), self._top - 1)
        rest = wanted - np.where(place > 0, sums[place - 1], 0.0)
        node = place + self._top
        tree = self._tree
        for _ in range((self._leaves // self._top).bit_length() - 1):
            node = 2 * node
            left = tree[node]
            right = rest >= left
            rest = rest - left * right
            node = node + right
        found: np.ndarray = np.minimum(node - self._leaves, self._size - 1)
        return found

    def load(self, leaves: np.ndarray) -> None:
        """Replace all leaves [size]."""
        self.set(np.arange(self._size), leaves)
