"""Action-value networks: a torso makes features of observations, a head values the actions.

What is learned of the return is the class: its expectation, or its distribution in one of three
forms. Every one gives action values [B, A] when called, so whoever acts need not know which it is.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import gymnasium as gym
import numpy as np
import torch
from torch import Generator, Tensor, nn

from hvd_dqn.config import ConfigError, NetworkConfig, ObjectiveConfig
from hvd_dqn.networks.heads import DuelingHead, Head
from hvd_dqn.networks.layers import ChangingLayer, NoisyLinear, SpectralConv2d
from hvd_dqn.networks.torsos import BoundsScaling, ByteScaling, make_torso, torso_of

_NUM_COSINES = 64
_LAYERS_OF_WORK = (nn.Linear, nn.Conv2d, NoisyLinear, SpectralConv2d)


class QNetwork(nn.Module):
    """Observations [B, *shape] to action values [B, A]."""

    def __init__(self, scaling: nn.Module, torso: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.scaling = scaling
        self.torso = torso
        self.head = head
        self.precision = "float32"
        self.memory_format = torch.preserve_format
        self._changing = [m for m in self.modules() if isinstance(m, ChangingLayer)]

    def arithmetic(self, device: torch.device) -> AbstractContextManager[None]:
        """Within it, layers compute as `precision` says."""
        if self.precision == "float32":
            return nullcontext()
        context: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16)
        return context

    def features(self, obs: Tensor) -> Tensor:
        """[B, F]."""
        with self.arithmetic(obs.device):
            values = obs.to(torch.float32, memory_format=self.memory_format)
            features: Tensor = self.torso(self.scaling(values))
        return features

    def outputs(self, obs: Tensor) -> Tensor:
        """What the head says of each action, [B, A, M]."""
        features = self.features(obs)
        with self.arithmetic(obs.device):
            outputs: Tensor = self.head(features)
        return outputs.float()

    def forward(self, obs: Tensor) -> Tensor:
        """Action values [B, A]."""
        return self.outputs(obs).squeeze(2)

    def prepare(self, generator: Generator | None, *, learning: bool) -> None:
        """Draw new noise before an update or a step; without a generator there is none."""
        for layer in self._changing:
            layer.prepare(generator, learning=learning)


class CategoricalQNetwork(QNetwork):
    """`outputs` are logits of the probabilities of M fixed values, `support` [M] (C51)."""

    support: Tensor

    def __init__(
        self, scaling: nn.Module, torso: nn.Module, head: nn.Module, support: Tensor
    ) -> None:
        super().__init__(scaling, torso, head)
        self.register_buffer("support", support, persistent=False)

    def forward(self, obs: Tensor) -> Tensor:
        """Action values [B, A]: expectations."""
        return self.values(self.outputs(obs))

    def values(self, logits: Tensor) -> Tensor:
        """Expectations [B, A] of logits [B, A, M]."""
        return logits.softmax(dim=2) @ self.support


class QuantileQNetwork(QNetwork):
    """`outputs` are the return's values at M evenly spread quantiles (QR-DQN)."""

    def forward(self, obs: Tensor) -> Tensor:
        """Action values [B, A]: means over quantiles."""
        return self.outputs(obs).mean(dim=2)


class ImplicitQuantileQNetwork(QNetwork):
    """`quantiles` are the return's values at whatever quantiles are asked for (IQN)."""

    frequencies: Tensor
    policy_taus: Tensor

    def __init__(
        self,
        scaling: nn.Module,
        torso: nn.Module,
        head: nn.Module,
        *,
        num_features: int,
        num_policy_taus: int,
    ) -> None:
        super().__init__(scaling, torso, head)
        self.embedding = nn.Sequential(nn.Linear(_NUM_COSINES, num_features), nn.ReLU())
        self.register_buffer(
            "frequencies", math.pi * torch.arange(_NUM_COSINES).float(), persistent=False
        )
        self.register_buffer("policy_taus", midpoints(num_policy_taus), persistent=False)

    def quantiles(self, features: Tensor, taus: Tensor) -> Tensor:
        """Values [B, A, K] at quantiles `taus` [B, K] of features [B, F] (Dabney et al. 2018b,
        equation 4).
        """
        with self.arithmetic(taus.device):
            embedded = self.embedding(torch.cos(taus.unsqueeze(2) * self.frequencies))
            joint = (features.unsqueeze(1) * embedded).flatten(0, 1)
            values: Tensor = self.head(joint).float()
        return values.view(*taus.shape, -1).transpose(1, 2)

    def values(self, features: Tensor) -> Tensor:
        """Action values [B, A] of features [B, F]: means over the policy's quantiles."""
        return self.quantiles(features, self.policy_taus.expand(features.shape[0], -1)).mean(dim=2)

    def forward(self, obs: Tensor) -> Tensor:
        """Action values [B, A]."""
        return self.values(self.features(obs))


def midpoints(count: int) -> Tensor:
    """The middles of `count` equal parts of [0, 1]."""
    return (torch.arange(count) + 0.5) / count


def make_network(
    config: NetworkConfig,
    objective: ObjectiveConfig,
    *,
    obs_space: gym.spaces.Box,
    num_actions: int,
    device: torch.device,
) -> QNetwork:
    """The network of these settings; initial weights from torch's current random stream.

    Raises `ConfigError` where the torso cannot take the observations.
    """
    torso, features = make_torso(config, obs_space.shape)
    # An MLP's hidden layers are its torso; behind convolutions each stream has its own.
    hidden = () if torso_of(config, obs_space.shape) == "mlp" else config.hidden_sizes
    outputs = {"categorical": objective.num_atoms, "quantile": objective.num_quantiles}
    head = (DuelingHead if config.dueling else Head)(
        config, (features, *hidden), num_actions, outputs.get(objective.distribution, 1)
    )
    parts = _scaling(config, obs_space), torso, head
    network: QNetwork
    if objective.distribution == "categorical":
        support = torch.linspace(objective.v_min, objective.v_max, objective.num_atoms)
        network = CategoricalQNetwork(*parts, support)
    elif objective.distribution == "quantile":
        network = QuantileQNetwork(*parts)
    elif objective.distribution == "implicit_quantile":
        network = ImplicitQuantileQNetwork(
            *parts, num_features=features, num_policy_taus=objective.num_policy_taus
        )
    else:
        network = QNetwork(*parts)
    network.precision = config.precision
    network.memory_format = _memory_format(config, torso_of(config, obs_space.shape))
    return network.to(device)


def _memory_format(config: NetworkConfig, torso: str) -> torch.memory_format:
    """How images are laid out for the convolutions: channels side by side where that is quicker on
    cores (benchmarks/NOTES.md); not measured on a GPU.
    """
    quicker = torso == "impala" or (torso == "nature" and config.precision == "float32")
    return torch.channels_last if quicker else torch.preserve_format


def _scaling(config: NetworkConfig, obs_space: gym.spaces.Box) -> nn.Module:
    is_bytes = obs_space.dtype == np.uint8
    if is_bytes and config.scale_observations:
        raise ConfigError(
            "network.scale_observations = True: images of bytes are scaled to 0 … 1 anyway; set it "
            "to False"
        )
    if is_bytes and obs_space.high.max() > 1:
        return ByteScaling(float(obs_space.high.max()))
    if config.scale_observations:
        return BoundsScaling(*(b.astype(np.float64) for b in (obs_space.low, obs_space.high)))
    return nn.Identity()


def multiply_adds(network: QNetwork, obs_shape: tuple[int, ...], batch_size: int) -> int:
    """Multiply-adds of one forward pass of a batch: what an update's work is made of."""
    counts: list[int] = []

    def count(layer: nn.Module, _: object, outputs: Tensor) -> None:
        # every output of a layer [B, F] or [B, C, H, W] is a row of its matrix of weights
        counts.append(layer.weight.numel() * outputs.numel() // outputs.shape[1])  # type: ignore[operator]

    layers = [m for m in network.modules() if isinstance(m, _LAYERS_OF_WORK)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        network(torch.zeros(1, *obs_shape, device=next(network.parameters()).device))
    for hook in hooks:
        hook.remove()
    return batch_size * sum(counts)
