"""Action-value networks: scaling, torsos, heads and the Q-network that joins them."""

from hvd_dqn.networks.numpy_forward import NumpyNetwork, numpy_network
from hvd_dqn.networks.places import TensorPlaces
from hvd_dqn.networks.qnetwork import NetworkParts, QNetwork, build_network, multiply_adds

__all__ = [
    "NetworkParts",
    "NumpyNetwork",
    "QNetwork",
    "TensorPlaces",
    "build_network",
    "multiply_adds",
    "numpy_network",
]
