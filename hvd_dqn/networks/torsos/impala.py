"""The residual convolutions of Espeholt et al. 2018 (`impala`)."""

from __future__ import annotations

from torch import Tensor, nn

from hvd_dqn.config import ConfigError, NetworkConfig
from hvd_dqn.networks.layers import SpectralConv2d
from hvd_dqn.networks.torsos.torso import Torso, require_image

_CHANNELS = (16, 32, 32)


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
        """Input and output are [B, C, H, W]."""
        changed: Tensor = images + self.layers(images)
        return changed


def _impala(config: NetworkConfig, obs_shape: tuple[int, ...]) -> nn.Module:
    """Three stages, each a convolution, max pooling by 2 and two residual blocks."""
    require_image("impala", obs_shape)
    channels, *sides = obs_shape
    left = min(-(-side // 8) for side in sides)
    if config.pool_size is not None and config.pool_size > left:
        raise ConfigError(
            f"network.pool-size = {config.pool_size}: the convolutions reduce an observation of "
            f"shape {obs_shape} to {left} rows or columns; set it to {left} or less, or to None"
        )
    layers: list[nn.Module] = []
    for channels_out in (config.impala_width * width for width in _CHANNELS):
        layers.append(nn.Conv2d(channels, channels_out, 3, padding=1))
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        layers += [ResidualBlock(config, channels_out), ResidualBlock(config, channels_out)]
        layers += [nn.GroupNorm(1, channels_out)] if config.layer_norm else []
        channels = channels_out
    layers.append(nn.ReLU())
    if config.pool_size is not None:
        layers.append(nn.AdaptiveMaxPool2d(config.pool_size))
    return nn.Sequential(*layers, nn.Flatten())


IMPALA = Torso(_impala, channels_last=lambda config: True)
