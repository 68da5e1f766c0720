"""From observations to features [B, F]: the published shapes."""

from __future__ import annotations

import importlib
import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from hvd_dqn.common.errors import typed_line
from hvd_dqn.config import ConfigError, NetworkConfig
from hvd_dqn.networks.layers import Dropout, NoisyLinear, SpectralConv2d

_UNBOUNDED = 1e6
_MODAL = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
_SMALLEST_NATURE_IMAGE = 36
_IMPALA_CHANNELS = (16, 32, 32)


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


class ByteScaling(nn.Module):
    """Maps an image's bytes from 0 … `high` to 0 … 1."""

    def __init__(self, high: float) -> None:
        super().__init__()
        self._factor = 1.0 / high

    def forward(self, obs: Tensor) -> Tensor:
        """Scaled observations, [B, *shape] both."""
        return obs * self._factor


def torso_of(config: NetworkConfig, obs_shape: tuple[int, ...]) -> str:
    """Which torso `auto` stands for. `ConfigError` where one is asked for that cannot take the
    observations.
    """
    is_image = len(obs_shape) == 3
    large = is_image and min(obs_shape[1:]) >= _SMALLEST_NATURE_IMAGE
    if config.torso == "auto":
        return ("nature" if large else "minatar") if is_image else "mlp"
    if ":" in config.torso:
        return config.torso
    if config.torso != "mlp" and not is_image:
        raise ConfigError(
            f"network.torso = {config.torso!r}: convolves images, and the observation is of shape "
            f"{obs_shape}; set it to mlp or auto"
        )
    if config.torso == "nature" and not large:
        raise ConfigError(
            f"network.torso = 'nature': takes images of {_SMALLEST_NATURE_IMAGE} rows and columns "
            f"or more, and the observation is of shape {obs_shape}; set it to minatar or auto"
        )
    return config.torso


def linear(config: NetworkConfig, fan_in: int, fan_out: int) -> nn.Module:
    """A fully connected layer, noisy where the configuration says so."""
    if config.noisy:
        return NoisyLinear(fan_in, fan_out, sigma=config.noisy_sigma)
    return nn.Linear(fan_in, fan_out)


def hidden_layers(config: NetworkConfig, sizes: tuple[int, ...]) -> list[nn.Module]:
    """Fully connected layers of these widths, the first of which is the input's."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers.append(linear(config, fan_in, fan_out))
        layers += [nn.LayerNorm(fan_out)] if config.layer_norm else []
        layers.append(nn.ReLU())
        layers += [Dropout(config.dropout)] if config.dropout else []
    return layers


def make_torso(config: NetworkConfig, obs_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """The torso for observations [B, *obs_shape], and its number of features F."""
    name = torso_of(config, obs_shape)
    if ":" in name:
        return _own_torso(config, obs_shape)
    if name == "mlp":
        sizes = (math.prod(obs_shape), *config.hidden_sizes)
        return nn.Sequential(nn.Flatten(), *hidden_layers(config, sizes)), sizes[-1]
    if name == "impala":
        layers = _impala(config, obs_shape)
    else:
        # channels, kernel, stride (Mnih et al. 2015, methods; Young & Tian 2019, section 4)
        shapes = {"nature": [(32, 8, 4), (64, 4, 2), (64, 3, 1)], "minatar": [(16, 3, 1)]}[name]
        layers, channels = [], obs_shape[0]
        for channels_out, kernel, stride in shapes:
            layers += [nn.Conv2d(channels, channels_out, kernel, stride)]
            layers += [nn.GroupNorm(1, channels_out)] if config.layer_norm else []
            layers += [nn.ReLU()]
            channels = channels_out
    torso = nn.Sequential(*layers, nn.Flatten())
    with torch.no_grad():
        features = torso(torch.zeros(1, *obs_shape)).shape[1]
    return torso, features


def _own_torso(config: NetworkConfig, obs_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """That of `module:function`, tried on two observations."""
    module, _, function = config.torso.partition(":")
    told = f"network.torso = {config.torso!r}"
    try:
        make = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{told}: there is no module {error.name!r} here") from error
    except AttributeError as error:
        raise ConfigError(f"{told}: the module has no {function!r}") from error
    except (ImportError, SyntaxError, ValueError) as error:
        raise ConfigError(f"{told} cannot be imported: {typed_line(error)}") from error
    try:
        torso = make(config, obs_shape)
        with torch.no_grad():
            features = torso(torch.zeros(2, *obs_shape))
    except Exception as error:  # another's code may raise anything
        raise ConfigError(
            f"{told}: made for observations of shape {obs_shape} and called with two of them, it "
            f"raises {typed_line(error)}"
        ) from error
    shape = tuple(getattr(features, "shape", ()))
    if not isinstance(torso, nn.Module) or len(shape) != 2 or shape[0] != 2:
        raise ConfigError(
            f"{told}: must give a torch module from [B, *shape] to [B, F], and gives "
            f"{shape or type(features).__name__} for two observations of shape {obs_shape}"
        )
    modal = [type(m).__name__ for m in torso.modules() if isinstance(m, _MODAL)]
    if modal:
        raise ConfigError(
            f"{told}: holds {modal[0]}, which does something else while it trains, by a state that "
            "checkpoints do not have: take network.dropout and layer normalisation"
        )
    return torso, features.shape[1]


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))) (Espeholt et al. 2018, figure 3)."""

    def __init__(self, config: NetworkConfig, channels: int) -> None:
        super().__init__()

        def convolution() -> nn.Module:
            if config.spectral_norm:
                return SpectralConv2d(channels, channels, 3, padding=1)
            return nn.Conv2d(channels, channels, 3, padding=1)

        self.layers = nn.Sequential(nn.ReLU(), convolution(), nn.ReLU(), convolution())

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        changed: Tensor = images + self.layers(images)
        return changed


def _impala(config: NetworkConfig, obs_shape: tuple[int, ...]) -> list[nn.Module]:
    """Three stages of a convolution, pooling by half and two residual blocks."""
    channels, *sides = obs_shape
    left = min(-(-side // 8) for side in sides)
    if config.pool_size is not None and config.pool_size > left:
        raise ConfigError(
            f"network.pool_size = {config.pool_size}: of an observation of shape {obs_shape} the "
            f"convolutions leave {left} rows or columns; set it to {left} or less, or to None"
        )
    layers: list[nn.Module] = []
    for channels_out in (config.impala_width * width for width in _IMPALA_CHANNELS):
        layers.append(nn.Conv2d(channels, channels_out, 3, padding=1))
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        layers += [ResidualBlock(config, channels_out), ResidualBlock(config, channels_out)]
        layers += [nn.GroupNorm(1, channels_out)] if config.layer_norm else []
        channels = channels_out
    layers.append(nn.ReLU())
    if config.pool_size is not None:
        layers.append(nn.AdaptiveMaxPool2d(config.pool_size))
    return layers
