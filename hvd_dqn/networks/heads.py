"""Heads: from features [B, F] to M numbers for each action, [B, A, M]."""

from __future__ import annotations

from torch import Tensor, nn

from hvd_dqn.config import NetworkConfig
from hvd_dqn.networks.torsos.mlp import hidden_layers, linear


class Head(nn.Module):
    """A head with one stream."""

    def __init__(
        self, config: NetworkConfig, sizes: tuple[int, ...], num_actions: int, outputs: int
    ) -> None:
        super().__init__()
        self._shape = (num_actions, outputs)
        self.layers = stream(config, sizes, num_actions * outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, F] to outputs [B, A, M]."""
        out: Tensor = self.layers(features)
        return out.view(-1, *self._shape)


class DuelingHead(nn.Module):
    """Q = V + A − mean A, for each of the M outputs (Wang et al. 2016, equation 9)."""

    def __init__(
        self, config: NetworkConfig, sizes: tuple[int, ...], num_actions: int, outputs: int
    ) -> None:
        super().__init__()
        self._shape = (num_actions, outputs)
        self.value = stream(config, sizes, outputs)
        self.advantage = stream(config, sizes, num_actions * outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, F] to outputs [B, A, M]."""
        advantage = self.advantage(features).view(-1, *self._shape)
        value = self.value(features).unsqueeze(1)
        q: Tensor = value + advantage - advantage.mean(dim=1, keepdim=True)
        return q


def stream(config: NetworkConfig, sizes: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Return hidden layers of these widths, the first of which is that of the features, and a
    linear layer.
    """
    return nn.Sequential(*hidden_layers(config, sizes), linear(config, sizes[-1], outputs))
