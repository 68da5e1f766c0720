"""The torsos that `network.torso` names, and the user's own."""

from __future__ import annotations

import torch
from torch import nn

from hvd_dqn.common.errors import ConfigError, one_line
from hvd_dqn.common.extensions import lookup
from hvd_dqn.config import NetworkConfig
from hvd_dqn.networks.torsos.convolutions import (
    MINATAR,
    MNIH2013,
    NATURE,
    SMALLEST_MINATAR_IMAGE,
    SMALLEST_NATURE_IMAGE,
)
from hvd_dqn.networks.torsos.impala import IMPALA
from hvd_dqn.networks.torsos.mlp import MLP
from hvd_dqn.networks.torsos.torso import Torso

TORSOS = {"mlp": MLP, "minatar": MINATAR, "mnih2013": MNIH2013, "nature": NATURE, "impala": IMPALA}
"""A new torso is one module with a `Torso`, and one entry here."""

_MODAL = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


def torso_of(config: NetworkConfig, obs_shape: tuple[int, ...]) -> Torso:
    """Return the torso that `network.torso` names; for `auto`, by the shape of the observation.

    Raises `ConfigError` for an unknown name.
    """
    name = _automatic(obs_shape) if config.torso == "auto" else config.torso
    if name in TORSOS:
        return TORSOS[name]
    names = {"auto": MLP.make} | {name: torso.make for name, torso in TORSOS.items()}  # for errors
    return Torso(lookup("network.torso", name, names))


def _automatic(obs_shape: tuple[int, ...]) -> str:
    """Return the torso of observations that are images [C, H, W] if H and W are not too small."""
    if len(obs_shape) != 3 or min(obs_shape[1:]) < SMALLEST_MINATAR_IMAGE:
        return "mlp"
    return "nature" if min(obs_shape[1:]) >= SMALLEST_NATURE_IMAGE else "minatar"


def make_torso(config: NetworkConfig, obs_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """Return the torso for observations [B, *obs_shape], and its number of features F.

    Raises `ConfigError` if it cannot take these observations.
    """
    torso = torso_of(config, obs_shape).make(config, obs_shape)
    if config.torso != "auto" and config.torso not in TORSOS:
        return torso, _features_of_own(torso, f"network.torso = {config.torso!r}", obs_shape)
    with torch.no_grad():
        return torso, torso(torch.zeros(1, *obs_shape)).shape[1]


def _features_of_own(torso: nn.Module, found: str, obs_shape: tuple[int, ...]) -> int:
    """Return the number of features of a user's torso, after a test with two observations."""
    try:
        with torch.no_grad():
            features = torso(torch.zeros(2, *obs_shape))
    except Exception as error:  # the user's module may raise anything
        raise ConfigError(
            f"{found}: raises {type(error).__name__} for two observations of shape {obs_shape}: "
            f"{one_line(error)}"
        ) from error
    shape = tuple(getattr(features, "shape", ()))
    if not isinstance(torso, nn.Module) or len(shape) != 2 or shape[0] != 2:
        raise ConfigError(
            f"{found}: must return a torch module from [B, *shape] to [B, F], which gives "
            f"{shape or type(features).__name__} for two observations of shape {obs_shape}"
        )
    modal = [type(m).__name__ for m in torso.modules() if isinstance(m, _MODAL)]
    if modal:
        raise ConfigError(
            f"{found}: contains {modal[0]}, which behaves differently in training mode and has "
            "state that checkpoints lack: use network.dropout and layer normalisation"
        )
    return int(shape[1])
