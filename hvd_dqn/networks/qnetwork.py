"""An action-value network: a torso that makes features of observations, a head that values the
actions.
"""

from __future__ import annotations

import math
from itertools import pairwise

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from hvd_dqn.config import NetworkConfig

_UNBOUNDED = 1e6


class QNetwork(nn.Module):
    """Observations [B, *shape] to action values [B, A]."""

    def __init__(self, scaling: nn.Module, torso: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.scaling = scaling
        self.torso = torso
        self.head = head

    def forward(self, obs: Tensor) -> Tensor:
        """Action values [B, A]."""
        value: Tensor = self.head(self.torso(self.scaling(obs.float())))
        return value


class DuelingHead(nn.Module):
    """Q = V + A − mean A, from features [B, F] to values [B, A] (Wang et al. 2016, eq. 9)."""

    def __init__(self, features: int, num_actions: int) -> None:
        super().__init__()
        self.value = nn.Linear(features, 1)
        self.advantage = nn.Linear(features, num_actions)

    def forward(self, features: Tensor) -> Tensor:
        """Action values [B, A]."""
        advantage = self.advantage(features)
        q: Tensor = self.value(features) + advantage - advantage.mean(dim=1, keepdim=True)
        return q


class BoundsScaling(nn.Module):
    """Maps [low, high] to [−1, 1] in each component with finite bounds; the others pass as they
    are.

    A velocity within ±0.07 would else be invisible beside a position within ±1.
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
        """Scaled observations, [B, *shape] both."""
        return (obs - self.offset) * self.factor


def make_network(
    config: NetworkConfig, *, obs_space: gym.spaces.Box, num_actions: int, device: torch.device
) -> QNetwork:
    """An MLP over the flattened observation; initial weights from torch's current random stream."""
    sizes = (math.prod(obs_space.shape), *config.hidden_sizes)
    low, high = (bound.astype(np.float64) for bound in (obs_space.low, obs_space.high))
    scaling = BoundsScaling(low, high) if config.scale_observations else nn.Identity()
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes):
        norm = [nn.LayerNorm(fan_out)] if config.layer_norm else []
        layers += [nn.Linear(fan_in, fan_out), *norm, nn.ReLU()]
    make_head = DuelingHead if config.dueling else nn.Linear
    head = make_head(sizes[-1], num_actions)
    return QNetwork(scaling, nn.Sequential(*layers), head).to(device)


def hidden_multiply_adds(config: NetworkConfig, batch_size: int) -> int:
    """Multiply-adds between the hidden layers for one batch, forward: what an update's work is made
    of.
    """
    return batch_size * sum(a * b for a, b in pairwise((1, *config.hidden_sizes)))
