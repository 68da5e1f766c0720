"""Layers that scale observations before the torso."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from hvd_dqn.config import ConfigError, NetworkConfig

_UNBOUNDED = 1e6
LARGEST = 10.0
"""Normalised numbers are clipped to ± this, as in Stable-Baselines3 and Gymnasium."""
SMALLEST = 1e-8
"""Added to variances, so that a number that never changes becomes 0."""
MOST_SAMPLES = 2.0**20
"""Samples after which running statistics forget the oldest."""


class BoundsScaling(nn.Module):
    """Maps [low, high] to [−1, 1] in each component with finite bounds, and leaves the others
    unchanged.

    Without it, a velocity within ±0.07 has almost no effect beside a position within ±1.
    """

    offset: Tensor
    factor: Tensor

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        super().__init__()
        # Spaces state "unbounded" as the largest float of their type as often as by infinity.
        bounded = (np.abs(low) < _UNBOUNDED) & (np.abs(high) < _UNBOUNDED) & (high > low)
        low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        middle, radius = (low + high) / 2, (high - low) / 2
        self.register_buffer("offset", torch.as_tensor(middle, dtype=torch.float32))
        self.register_buffer("factor", torch.as_tensor(1 / radius, dtype=torch.float32))

    def forward(self, obs: Tensor) -> Tensor:
        """Scale observations; input and output are [B, *shape]."""
        return (obs - self.offset) * self.factor


class RunningScaling(nn.Module):
    """Subtracts the running mean of each number, divides by the running standard deviation, and
    clips. Until the first `add`, it leaves numbers of moderate size unchanged.

    Moments are those of a batch about the running mean, so they are precise in float32 also where
    the mean is much larger than the deviation.
    """

    mean: Tensor
    variance: Tensor
    factor: Tensor
    samples: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("factor", torch.ones(shape))  # 1 / standard deviation
        self.register_buffer("samples", torch.tensor(-1.0))  # −1 before the first batch

    def forward(self, obs: Tensor) -> Tensor:
        """Scale observations; input and output are [B, *shape] or [B, K, *shape]."""
        return ((obs - self.mean) * self.factor).clamp(-LARGEST, LARGEST)

    def moments(self, obs: Tensor) -> Tensor:
        """Return the means of deviations from `mean` and of their squares, [2, *shape], of
        observations [B, *shape] or [B, K, *shape].
        """
        deviations = obs.reshape(-1, *self.shape).to(torch.float32) - self.mean
        return torch.stack((deviations.mean(dim=0), deviations.square().mean(dim=0)))

    def add(self, moments: Tensor, samples: int) -> None:
        """Account for a batch's `moments`. The first batch only gives the mean, about which the
        deviations of the others are small.
        """
        first, second = moments.view(2, *self.shape)
        is_first = self.samples < 0
        self.samples.add_(samples).clamp_(max=MOST_SAMPLES)
        self.samples.masked_fill_(is_first, 0.0)
        share = torch.where(is_first, 1.0, samples / self.samples)
        change = share * first
        variance = self.variance + share * (second - self.variance) - change.square()
        self.variance.copy_(torch.where(is_first, self.variance, variance.clamp_(min=0.0)))
        self.mean.add_(change)
        self.factor.copy_(torch.rsqrt(self.variance + SMALLEST))


class ByteScaling(nn.Module):
    """Maps the bytes of an image from 0 … `high` to 0 … 1."""

    def __init__(self, high: float) -> None:
        super().__init__()
        self._factor = 1.0 / high

    def forward(self, obs: Tensor) -> Tensor:
        """Scale observations; input and output are [B, *shape]."""
        return obs * self._factor


def make_scaling(config: NetworkConfig, obs_space: gym.spaces.Box) -> nn.Module:
    """Return the layer that scales observations of `obs_space`.

    Raises `ConfigError` if `scale_observations` is set for images of bytes.
    """
    is_bytes = obs_space.dtype == np.uint8
    if is_bytes and config.scale_observations:
        raise ConfigError(
            "network.scale_observations = True: images of bytes are always scaled to 0 … 1; set "
            "it to False"
        )
    if is_bytes and obs_space.high.max() > 1:
        return ByteScaling(float(obs_space.high.max()))
    if config.normalize_observations and len(obs_space.shape) < 3 and not is_bytes:
        return RunningScaling(obs_space.shape)
    if config.scale_observations:
        return BoundsScaling(*(b.astype(np.float64) for b in (obs_space.low, obs_space.high)))
    return nn.Identity()
