"""Values of multi-dimensional actions, one dimension at a time."""

from __future__ import annotations

import torch
from torch import Tensor


class Branches:
    """Q(s, a) as the mean of the values of the choices in each dimension: the decoupled value
    decomposition of Seyde et al. 2023, "Solving Continuous Control via Q-learning", on the branches
    of Tavakoli et al. 2018.
    """

    def __init__(self, counts: tuple[int, ...]) -> None:
        """`counts`: the choices of each of D dimensions; their values are [B, Σ counts]."""
        self.counts = counts
        self._strides = [1]
        for count in counts[:0:-1]:
            self._strides.insert(0, self._strides[0] * count)

    def best(self, values: Tensor) -> list[Tensor]:
        """Return the best choice in each dimension, D tensors [B, 1], by values [B, Σ counts]."""
        return [part.argmax(dim=1, keepdim=True) for part in self._split(values)]

    def choices(self, action: Tensor) -> list[Tensor]:
        """Return the choices in each dimension, D tensors [B, 1], of actions [B]."""
        return [
            (action // stride % count).unsqueeze(1)
            for stride, count in zip(self._strides, self.counts, strict=True)
        ]

    def value(self, values: Tensor, choices: list[Tensor]) -> Tensor:
        """Return the values [B] of actions with these choices."""
        parts = self._split(values)
        taken = [part.gather(1, choice) for part, choice in zip(parts, choices, strict=True)]
        return torch.cat(taken, dim=1).mean(dim=1)

    def _split(self, values: Tensor) -> tuple[Tensor, ...]:
        return torch.split(values, list(self.counts), dim=1)
