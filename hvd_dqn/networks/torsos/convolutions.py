"""Plain convolutions: of Mnih et al. 2013 (`mnih2013`) and 2015 (`nature`), and of Young & Tian
2019 (`minatar`).
"""

from __future__ import annotations

from torch import nn

from hvd_dqn.config import NetworkConfig
from hvd_dqn.networks.torsos.torso import Torso, require_image

SMALLEST_NATURE_IMAGE = 36
"""Rows and columns that the three convolutions of `nature` need."""
SMALLEST_MNIH2013_IMAGE = 20
"""Rows and columns that the two convolutions of `mnih2013` need."""
SMALLEST_MINATAR_IMAGE = 3
"""Rows and columns that the convolution of `minatar` needs."""


def _nature(config: NetworkConfig, obs_shape: tuple[int, ...]) -> nn.Module:
    require_image("nature", obs_shape, SMALLEST_NATURE_IMAGE)
    return _convolutions(config, obs_shape, [(32, 8, 4), (64, 4, 2), (64, 3, 1)])


def _mnih2013(config: NetworkConfig, obs_shape: tuple[int, ...]) -> nn.Module:
    require_image("mnih2013", obs_shape, SMALLEST_MNIH2013_IMAGE)
    return _convolutions(config, obs_shape, [(16, 8, 4), (32, 4, 2)])


def _minatar(config: NetworkConfig, obs_shape: tuple[int, ...]) -> nn.Module:
    require_image("minatar", obs_shape, SMALLEST_MINATAR_IMAGE)
    return _convolutions(config, obs_shape, [(16, 3, 1)])


def _convolutions(
    config: NetworkConfig, obs_shape: tuple[int, ...], shapes: list[tuple[int, int, int]]
) -> nn.Module:
    """`shapes`: channels, kernel and stride of each layer (Mnih et al. 2013, section 4.1; 2015,
    methods; Young & Tian 2019, section 4).
    """
    layers: list[nn.Module] = []
    channels = obs_shape[0]
    for channels_out, kernel, stride in shapes:
        layers += [nn.Conv2d(channels, channels_out, kernel, stride)]
        layers += [nn.GroupNorm(1, channels_out)] if config.layer_norm else []
        layers += [nn.ReLU()]
        channels = channels_out
    return nn.Sequential(*layers, nn.Flatten())


NATURE = Torso(_nature, channels_last=lambda config: config.precision == "float32")
MNIH2013 = Torso(_mnih2013, channels_last=lambda config: config.precision == "float32")
MINATAR = Torso(_minatar)
