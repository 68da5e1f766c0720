"""Layers that scale observations before the torso."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from hvd_dqn.config import ConfigError, NetworkConfig

_UNBOUNDED = 1e6


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
    if config.scale_observations:
        return BoundsScaling(*(b.astype(np.float64) for b in (obs_space.low, obs_space.high)))
    return nn.Identity()
