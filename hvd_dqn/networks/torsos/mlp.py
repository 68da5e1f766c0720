"""Fully connected layers: the torso of vectors, and the hidden layers of heads."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import nn

from hvd_dqn.config import NetworkConfig
from hvd_dqn.networks.layers import Dropout, NoisyLinear
from hvd_dqn.networks.torsos.torso import Torso


def linear(config: NetworkConfig, fan_in: int, fan_out: int) -> nn.Module:
    """Return a fully connected layer; a noisy one if `network.noisy` is set."""
    if config.noisy:
        return NoisyLinear(fan_in, fan_out, sigma=config.noisy_sigma)
    return nn.Linear(fan_in, fan_out)


def hidden_layers(config: NetworkConfig, sizes: tuple[int, ...]) -> list[nn.Module]:
    """Return fully connected layers of these widths; the first width is the input's."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers.append(linear(config, fan_in, fan_out))
        layers += [nn.LayerNorm(fan_out)] if config.layer_norm else []
        layers.append(nn.ReLU())
        layers += [Dropout(config.dropout)] if config.dropout else []
    return layers


def _mlp(config: NetworkConfig, obs_shape: tuple[int, ...]) -> nn.Module:
    sizes = (math.prod(obs_shape), *config.hidden_sizes)
    return nn.Sequential(nn.Flatten(), *hidden_layers(config, sizes))


MLP = Torso(_mlp, has_hidden_layers=True)
