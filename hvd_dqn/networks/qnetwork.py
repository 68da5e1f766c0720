"""Action-value networks: a torso makes features of observations, a head values the actions.

Subclasses (see `hvd_dqn.methods`) learn a distribution of the return. Each returns action values
[B, A] when called, so the code that acts does not depend on the method.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn

from hvd_dqn.config import NetworkConfig
from hvd_dqn.networks.branches import Branches
from hvd_dqn.networks.heads import DuelingHead, Head
from hvd_dqn.networks.layers import ChangingLayer, NoisyLinear, SpectralConv2d
from hvd_dqn.networks.scaling import RunningScaling, make_scaling
from hvd_dqn.networks.torsos.registry import make_torso, torso_of
from hvd_dqn.networks.unpack import Unpack, make_joined
from hvd_dqn.spaces.records import RecordSpace

_LAYERS_OF_WORK = (nn.Linear, nn.Conv2d, NoisyLinear, SpectralConv2d)


class NetworkParts(NamedTuple):
    """What every Q-network consists of.

    scaling: [B, *shape] to the same; torso: [B, *shape] to [B, F]; head: [B, F] to [B, A, M];
    num_features: F. If observations are records, scaling is an `Unpack`, and the torso takes the
    list of its tensors.
    """

    scaling: nn.Module
    torso: nn.Module
    head: nn.Module
    num_features: int


class QNetwork(nn.Module):
    """Maps observations [B, *shape] to action values [B, A]."""

    def __init__(self, parts: NetworkParts) -> None:
        super().__init__()
        self.scaling = parts.scaling
        self.torso = parts.torso
        self.head = parts.head
        self.precision = "float32"
        self.memory_format = torch.preserve_format
        self._changing = [m for m in self.modules() if isinstance(m, ChangingLayer)]
        self._takes_records = isinstance(parts.scaling, Unpack)
        self.branches: Branches | None = None
        self._running = [m for m in self.modules() if isinstance(m, RunningScaling)]
        self._has_mask = isinstance(parts.scaling, Unpack) and parts.scaling.has_mask

    def arithmetic(self, device: torch.device) -> AbstractContextManager[None]:
        """Return a context in which layers compute in `precision`."""
        if self.precision == "float32":
            return nullcontext()
        context: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16)
        return context

    def features(self, obs: Tensor) -> Tensor:
        """Return the torso's features, [B, F]."""
        with self.arithmetic(_device_of(obs)):
            if not self._takes_records:
                obs = obs.to(torch.float32, memory_format=self.memory_format)
            features: Tensor = self.torso(self.scaling(obs))
        return features

    def outputs(self, obs: Tensor) -> Tensor:
        """Return the head's outputs, [B, A, M]."""
        features = self.features(obs)
        with self.arithmetic(features.device):
            outputs: Tensor = self.head(features)
        return outputs.float()

    def forward(self, obs: Tensor) -> Tensor:
        """Return action values, [B, A]; those of illegal actions are −∞."""
        return self.masked(self.outputs(obs).squeeze(2), obs)

    def masked(self, values: Tensor, obs: Tensor) -> Tensor:
        """Return action values [B, A] with −∞ for the actions that are illegal in `obs`."""
        if not self._has_mask:
            return values
        return values.masked_fill(~self.scaling.legal(obs), -torch.inf)  # type: ignore[operator]

    @property
    def num_moments(self) -> int:
        """How many numbers `moments` returns, M."""
        return sum(2 * layer.mean.numel() for layer in self._running)

    def running_statistics(self) -> list[Tensor]:
        """Return the tensors that `add_moments` changes."""
        return [buffer for layer in self._running for buffer in layer.buffers()]

    @torch.no_grad()
    def moments(self, obs: Tensor) -> Tensor:
        """Return the moments [M] of observations for `add_moments`."""
        if isinstance(self.scaling, Unpack):
            scaled = self.scaling.running(obs)
        else:
            scaled = [(layer, obs) for layer in self._running]
        return torch.cat([layer.moments(values).reshape(-1) for layer, values in scaled])

    @torch.no_grad()
    def add_moments(self, moments: Tensor, samples: int) -> None:
        """Update running statistics by the moments [M] of a batch of `samples` observations."""
        parts = torch.split(moments, [2 * layer.mean.numel() for layer in self._running])
        for layer, part in zip(self._running, parts, strict=True):
            layer.add(part, samples)

    def prepare(self, generator: Generator | None, *, learning: bool) -> None:
        """Draw new noise before an update or a step; remove it if there is no generator."""
        for layer in self._changing:
            layer.prepare(generator, learning=learning)


def _device_of(obs: Tensor) -> torch.device:
    """Return the device of a tensor, or of fields (see `Unpack`)."""
    device: torch.device = (obs if isinstance(obs, Tensor) else obs[0]).device
    return device


def build_network(
    config: NetworkConfig,
    kind: Callable[[NetworkParts], QNetwork],
    *,
    num_outputs: int,
    obs_space: gym.spaces.Box,
    num_actions: int,
    branches: tuple[int, ...] = (),
    device: torch.device,
) -> QNetwork:
    """Return the network that `kind` makes of its parts, with a head of `num_outputs` (M) numbers
    for each action; with `branches`, for each choice of each dimension. Initial weights
    come from torch's current random stream.

    Raises `ConfigError` if the torso cannot take the observations.
    """
    memory_format, hidden = torch.preserve_format, config.hidden_sizes
    scaling: nn.Module
    torso: nn.Module
    if isinstance(obs_space, RecordSpace):
        scaling = unpack = Unpack(config, obs_space)
        torso, features = make_joined(config, unpack)
    else:
        description = torso_of(config, obs_space.shape)
        torso, features = make_torso(config, obs_space.shape)
        scaling = make_scaling(config, obs_space)
        hidden = () if description.has_hidden_layers else hidden
        if description.channels_last(config):
            memory_format = torch.channels_last
    head = (DuelingHead if config.dueling else Head)(
        config, (features, *hidden), sum(branches) or num_actions, num_outputs
    )
    network = kind(NetworkParts(scaling, torso, head, features))
    network.branches = Branches(branches) if branches else None
    network.precision = config.precision
    network.memory_format = memory_format
    return network.to(device)


def multiply_adds(network: QNetwork, obs_shape: tuple[int, ...], batch_size: int) -> int:
    """Return the multiply-adds of one forward pass of a batch."""
    counts: list[int] = []

    def count(layer: nn.Module, _: object, outputs: Tensor) -> None:
        # every output of a layer [B, F] or [B, C, H, W] is a row of its matrix of weights
        counts.append(layer.weight.numel() * outputs.numel() // outputs.shape[1])  # type: ignore[operator]

    layers = [m for m in network.modules() if isinstance(m, _LAYERS_OF_WORK)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        device = next(network.parameters()).device
        network(torch.zeros(1, *obs_shape, dtype=torch.uint8, device=device))
    for hook in hooks:
        hook.remove()
    return batch_size * sum(counts)
