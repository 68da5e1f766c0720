"""A network of your own: a torso that attends to the other cars on a motorway.

    hvd-dqn train highway --network.torso examples.attention_torso:torso
    horovodrun -np 2 hvd-dqn train highway --network.torso examples.attention_torso:torso

A torso maps observations [B, *shape] to features [B, F]; the heads, and with them dueling streams,
distributions and noise, come behind it. The function is called with the `network` section of the
config and the observation's shape on every rank, and again by whoever loads the policy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hvd_dqn.config import NetworkConfig


class CarAttention(nn.Module):
    """highway-env observes [B, cars, numbers], one's own car first: it asks all of them."""

    def __init__(self, numbers: int, width: int) -> None:
        """For `numbers` of each car."""
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(numbers, width), nn.ReLU(), nn.Linear(width, width))
        self.attention = nn.MultiheadAttention(width, num_heads=2, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, obs: Tensor) -> Tensor:
        """[B, cars, numbers] to [B, width]."""
        cars = self.embed(obs)
        own = cars[:, :1]
        heard, _ = self.attention(own, cars, cars, need_weights=False)
        return torch.relu(self.norm(own + heard)).squeeze(1)


def torso(config: NetworkConfig, obs_shape: tuple[int, ...]) -> nn.Module:
    """As wide as the first hidden layer."""
    return CarAttention(obs_shape[-1], config.hidden_sizes[0])
