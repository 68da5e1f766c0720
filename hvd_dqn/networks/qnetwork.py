"""An action-value network: a torso that makes features of observations, a head that values the
actions.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from hvd_dqn.config import NetworkConfig


class QNetwork(nn.Module):
    """Observations [B, *shape] to action values [B, A]."""

    def __init__(self, torso: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.torso = torso
        self.head = head

    def forward(self, obs: Tensor) -> Tensor:
        """Action values [B, A]."""
        value: Tensor = self.head(self.torso(obs.float()))
        return value


def make_network(
    config: NetworkConfig, *, obs_shape: tuple[int, ...], num_actions: int, device: torch.device
) -> QNetwork:
    """An MLP over the flattened observation; initial weights from torch's current random stream."""
    sizes = (math.prod(obs_shape), *config.hidden_sizes)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return QNetwork(nn.Sequential(*layers), nn.Linear(sizes[-1], num_actions)).to(device)
