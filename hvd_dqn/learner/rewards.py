"""Running normalisation of rewards."""

from __future__ import annotations

import torch
from torch import Tensor

from hvd_dqn.networks.scaling import MOST_SAMPLES, SMALLEST


class RewardScaling:
    """Divides rewards by an estimate of the standard deviation of returns.

    If sums R of n rewards were independent, their discounted sum would have the variance
    E[R²] / (1 − γ²ⁿ); E[R²] is the running mean over the sampled batches of all ranks. Before the
    first batch, rewards are not changed.
    """

    def __init__(self, discount: float, device: torch.device) -> None:
        """`discount`: γⁿ."""
        self._left = max(1.0 - discount**2, 1e-4)
        self.mean_square = torch.zeros((), device=device)
        self.samples = torch.zeros((), device=device)

    def __call__(self, reward: Tensor) -> Tensor:
        """Scale rewards [B]."""
        factor = torch.rsqrt(self.mean_square / self._left + SMALLEST)
        return reward * torch.where(self.samples > 0, factor, 1.0)

    def add(self, mean_square: Tensor, samples: int) -> None:
        """Account for the mean square [1] of the rewards of a batch."""
        self.samples.add_(samples).clamp_(max=MOST_SAMPLES)
        self.mean_square.lerp_(mean_square.squeeze(0), samples / self.samples)
