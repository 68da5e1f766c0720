"""Action-value networks."""

from hvd_dqn.networks.numpy_forward import NumpyNetwork, numpy_network
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
    "NumpyNetwork",
    "QNetwork",
    "QuantileQNetwork",
    "make_network",
    "midpoints",
    "multiply_adds",
    "numpy_network",
]
