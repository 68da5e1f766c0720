"""Action-value networks."""

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
    "ImplicitQuantileQNetwork",
    "QNetwork",
    "QuantileQNetwork",
    "make_network",
    "midpoints",
    "multiply_adds",
]
