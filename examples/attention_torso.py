"""A custom network: a torso that attends to the other cars on a motorway.

    hvd-dqn train highway --network.torso examples.attention_torso:torso
    horovodrun -np 2 hvd-dqn train highway --network.torso examples.attention_torso:torso

A torso maps observations [B, *shape] to features [B, F]. The package adds the head: dueling
streams, distributions, noise. Every rank calls the function with the `network` section of the
config and the observation shape; `hvd_dqn.load_policy` calls it again.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hvd_dqn.config import NetworkConfig


class CarAttention(nn.Module):
    """Attention from the ego car, the first of an observation [B, cars, features], to all cars."""

    def __init__(self, features: int, width: int) -> None:
        """Create layers for this many features of each car."""
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width))
        self.attention = nn.MultiheadAttention(width, num_heads=2, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, obs: Tensor) -> Tensor:
        """Map observations [B, cars, features] to features [B, width]."""
        cars = self.embed(obs)
        ego = cars[:, :1]
        attended, _ = self.attention(ego, cars, cars, need_weights=False)
        return torch.relu(self.norm(ego + attended)).squeeze(1)


def torso(config: NetworkConfig, obs_shape: tuple[int, ...]) -> nn.Module:
    """Return a torso as wide as the first hidden layer."""
    return CarAttention(obs_shape[-1], config.hidden_sizes[0])
