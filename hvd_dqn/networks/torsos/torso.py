"""What the registry knows of a torso."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from hvd_dqn.common.errors import ConfigError
from hvd_dqn.config import NetworkConfig

TorsoFunction = Callable[[NetworkConfig, tuple[int, ...]], nn.Module]
"""Takes the `network` section and the shape of an observation; returns the torso."""


def _never(config: NetworkConfig) -> bool:
    return False


class Torso(NamedTuple):
    """A torso: the function that makes it, and what differs between torsos.

    has_hidden_layers: the torso uses `network.hidden_sizes` itself; behind the others, each stream
    of the head has hidden layers of these widths. channels_last: whether images with channels last
    in memory are faster on CPUs (benchmarks/NOTES.md; not measured on a GPU).
    """

    make: TorsoFunction
    has_hidden_layers: bool = False
    channels_last: Callable[[NetworkConfig], bool] = _never


def require_image(name: str, obs_shape: tuple[int, ...], smallest: int = 1) -> None:
    """Raise `ConfigError` unless observations are images [C, H, W] of at least `smallest` rows and
    columns.
    """
    if len(obs_shape) != 3:
        raise ConfigError(
            f"network.torso = {name!r}: takes images, and the observation has shape {obs_shape}; "
            "set it to mlp or auto"
        )
    if min(obs_shape[1:]) < smallest:
        raise ConfigError(
            f"network.torso = {name!r}: takes images of at least {smallest} rows and columns, and "
            f"the observation has shape {obs_shape}; set it to auto, which chooses by the size"
        )
