"""Small networks on the host, for a few observations at a time, without torch.

Torch's calls take 45 to 90 µs of a step of the environments, and what they leave of the nearest
caches slows the rest of it; NumPy's take 15.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController
from torch import nn

from hvd_dqn.networks.heads import DuelingHead, Head
from hvd_dqn.networks.layers import Dropout
from hvd_dqn.networks.qnetwork import QNetwork
from hvd_dqn.networks.torsos import BoundsScaling

_Layer = Callable[[np.ndarray], np.ndarray]

_MOST_MULTIPLY_ADDS = 2**20
"""Of a call: with more, torch's faster products win back what its calls take."""


class NumpyNetwork:
    """The action values of a network of fully connected layers, for acting: as torch computes them,
    but for rounding.

    It reads the network's parameters where they were when it was made: they may change, not move.
    """

    def __init__(self, network: QNetwork) -> None:
        """Raises `LayerError` for a network with layers that are not known here."""
        if type(network) is not QNetwork or network.precision != "float32":
            raise LayerError
        self._values = _in_turn(
            [_layer_of(part) for part in (network.scaling, network.torso, network.head)]
        )
        weights = [m.weight.numel() for m in network.modules() if isinstance(m, nn.Linear)]
        self._most_rows = _MOST_MULTIPLY_ADDS // max(1, sum(weights))

    def is_faster(self, rows: int) -> bool:
        """Than torch, for so many observations."""
        return rows <= self._most_rows

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Action values [N, A] float32 of observations [N, *shape]."""
        return self._values(np.array(obs, dtype=np.float32))


class LayerError(Exception):
    """A layer that is computed by torch alone."""


def numpy_network(network: QNetwork) -> NumpyNetwork | None:
    """The same network for the host, where it has only layers that are known here."""
    try:
        on_host = NumpyNetwork(network)
    except LayerError:
        return None
    _keep_to_one_thread()
    return on_host


@functools.cache
def _keep_to_one_thread() -> None:
    """NumPy's products would wake a thread on every core, for a few microseconds of work. Torch's
    have threads of their own.
    """
    for library in ThreadpoolController().lib_controllers:
        if library.user_api == "blas" and "numpy" in str(library.filepath):
            library.set_num_threads(1)


def _layer_of(module: nn.Module) -> _Layer:
    """What computes the same, perhaps in its argument's memory. `LayerError` where there is
    none.
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
    return x.reshape(len(x), -1)


def _bounds_scaling(layer: BoundsScaling) -> _Layer:
    offset, factor = layer.offset.numpy(), layer.factor.numpy()
    return lambda x: (x - offset) * factor


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
    Head: _head,
    DuelingHead: _dueling_head,
}
