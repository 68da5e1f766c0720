"""Action-value networks."""

from hvd_dqn.networks.host import HostNetwork, host_network
from hvd_dqn.networks.qnetwork import (
    CategoricalQNetwork,
    ImplicitQuantileQNetwork,
    QNetwork,
    QuantileQNetwork,
    make_network,
    midpoints,
    multiply_adds,
)

__all__ = [
    "CategoricalQNetwork",
    "HostNetwork",
    "ImplicitQuantileQNetwork",
    "QNetwork",
    "QuantileQNetwork",
    "host_network",
    "make_network",
    "midpoints",
    "multiply_adds",
]
