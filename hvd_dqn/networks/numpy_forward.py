"""Small networks in NumPy, for a few observations at a time.

Torch's calls take 45 to 90 µs per step of the environments and displace the rest of the step from
the nearest caches; NumPy's take 15 µs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController
from torch import nn

from hvd_dqn.networks.heads import DuelingHead, Head
from hvd_dqn.networks.layers import Dropout
from hvd_dqn.networks.places import LayersReplacedError, TensorPlaces
from hvd_dqn.networks.qnetwork import QNetwork
from hvd_dqn.networks.scaling import LARGEST, BoundsScaling, RunningScaling

_Layer = Callable[[np.ndarray], np.ndarray]

_MOST_MULTIPLY_ADDS = 2**20
"""Multiply-adds of a call above which torch is faster, since its matrix products are."""


class NumpyNetwork:
    """Computes the action values of a network of fully connected layers, equal to torch's up to
    rounding.

    It reads the memory of the network's parameters and buffers, so it sees every change of them. If
    they move in memory, or they or their layers are replaced, the next call follows (this check
    takes 1 to 2 µs for a network with two hidden layers).
    """

    def __init__(self, network: QNetwork) -> None:
        """Raises `LayerError` if the network has layers that are not implemented here."""
        if type(network) is not QNetwork or network.precision != "float32":
            raise LayerError
        self._network = network
        self._read_parameters()
        weights = [m.weight.numel() for m in network.modules() if isinstance(m, nn.Linear)]
        self._most_rows = _MOST_MULTIPLY_ADDS // max(1, sum(weights))

    def is_faster(self, rows: int) -> bool:
        """Whether this is faster than torch for this number of observations."""
        return rows <= self._most_rows

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Return action values [N, A] float32 for observations [N, *shape]."""
        if self._have_moved():
            self._read_parameters()
        return self._values(np.array(obs, dtype=np.float32))

    def _have_moved(self) -> bool:
        try:
            return self._places.addresses() != self._addresses
        except LayersReplacedError:
            return True

    def _read_parameters(self) -> None:
        """Take views of the parameters where they are now."""
        network = self._network
        self._places = TensorPlaces(network)
        self._addresses = self._places.addresses()
        self._values = _in_turn(
            [_layer_of(part) for part in (network.scaling, network.torso, network.head)]
        )


class LayerError(Exception):
    """A layer that only torch can compute."""


def numpy_network(network: QNetwork) -> NumpyNetwork | None:
    """Return the network in NumPy, or `None` if it has layers that are not implemented here."""
    try:
        on_host = NumpyNetwork(network)
    except LayerError:
        return None
    _keep_to_one_thread()
    return on_host


@functools.cache
def _keep_to_one_thread() -> None:
    """Limit NumPy's matrix products to one thread: they would otherwise wake a thread on every core
    for a few microseconds of work. Torch's threads are separate.
    """
    for library in ThreadpoolController().lib_controllers:
        if library.user_api == "blas" and "numpy" in str(library.filepath):
            library.set_num_threads(1)


def _layer_of(module: nn.Module) -> _Layer:
    """Return a function that computes the same as `module`, perhaps in the memory of its argument.
    Raises `LayerError` if there is none.
    """
    make = _MAKERS.get(type(module))
    if make is None:
        raise LayerError
    return make(module)


def _in_turn(layers: list[_Layer]) -> _Layer:
    layers = [layer for layer in layers if layer is not _unchanged]

    def apply(x: np.ndarray) -> np.ndarray:
        for layer in layers:
            x = layer(x)
        return x

    return apply


def _unchanged(x: np.ndarray) -> np.ndarray:
    return x


def _linear(layer: nn.Linear) -> _Layer:
    if layer.bias is None:
        raise LayerError
    weight, bias = layer.weight.detach().numpy().T, layer.bias.detach().numpy()

    def apply(x: np.ndarray) -> np.ndarray:
        out: np.ndarray = x @ weight
        out += bias
        return out

    return apply


def _relu(x: np.ndarray) -> np.ndarray:
    out: np.ndarray = np.maximum(x, 0, out=x)
    return out


def _layer_norm(layer: nn.LayerNorm) -> _Layer:
    if not layer.elementwise_affine or layer.bias is None or len(layer.normalized_shape) != 1:
        raise LayerError
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()

    def apply(x: np.ndarray) -> np.ndarray:
        x -= np.add.reduce(x, axis=1, keepdims=True) / x.shape[1]
        variance = np.einsum("bf,bf->b", x, x) / x.shape[1]
        x *= 1 / np.sqrt(variance + np.float32(layer.eps))[:, None]
        x *= weight
        x += bias
        return x

    return apply


def _flatten(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), math.prod(x.shape[1:]))


def _bounds_scaling(layer: BoundsScaling) -> _Layer:
    offset, factor = layer.offset.numpy(), layer.factor.numpy()
    return lambda x: (x - offset) * factor


def _running_scaling(layer: RunningScaling) -> _Layer:
    mean, factor = layer.mean.numpy(), layer.factor.numpy()
    return lambda x: np.clip((x - mean) * factor, -LARGEST, LARGEST)


def _head(head: Head) -> _Layer:
    return _layer_of(head.layers)


def _dueling_head(head: DuelingHead) -> _Layer:
    value, advantage = _layer_of(head.value), _layer_of(head.advantage)

    def apply(features: np.ndarray) -> np.ndarray:
        advantages = advantage(features)
        values: np.ndarray = value(features) + advantages
        values -= advantages.mean(axis=1, keepdims=True)
        return values

    return apply


_MAKERS: dict[type[nn.Module], Callable[[Any], _Layer]] = {
    nn.Sequential: lambda layers: _in_turn([_layer_of(layer) for layer in layers]),
    nn.Identity: lambda layer: _unchanged,
    nn.Flatten: lambda layer: _flatten,
    nn.Linear: _linear,
    nn.ReLU: lambda layer: _relu,
    nn.LayerNorm: _layer_norm,
    Dropout: lambda layer: _unchanged,
    BoundsScaling: _bounds_scaling,
    RunningScaling: _running_scaling,
    Head: _head,
    DuelingHead: _dueling_head,
}
