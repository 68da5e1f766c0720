"""Where a module keeps its tensors, for code that keeps the tensors or their addresses."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, nn


class TensorPlaces:
    """The parameters and buffers of a module by where they are stored, in a fixed order.

    `tensor.data = …`, `module.to(…)`, `load_state_dict(…, assign=True)` and assigning to an
    attribute move a tensor or replace it: an address or a tensor that somebody kept is then no
    longer the module's. Reading all places takes a microsecond for a network with two hidden
    layers.
    """

    def __init__(self, module: nn.Module) -> None:
        parts = list(module.named_modules())
        self._layer_places = _Places(parts, "_modules")
        self._layers = self._layer_places.read()
        self._tensor_places = _Places(parts, "_parameters", "_buffers")
        self.names = self._tensor_places.names  # as those of `state_dict`

    def tensors(self) -> list[Tensor]:
        """Return the tensors that are there now, parameters first. Raises `LayersReplacedError` if
        the layers are not those of the beginning.
        """
        if self._layer_places.read() != self._layers:
            raise LayersReplacedError("a layer of the network was replaced by another one")
        return self._tensor_places.read()

    def addresses(self) -> list[int]:
        """Return where in memory the tensors are now. Raises as `tensors` does."""
        return list(map(Tensor.data_ptr, self.tensors()))


class _Places:
    """The entries of all parts of a module in its dictionaries of these kinds."""

    def __init__(self, parts: list[tuple[str, nn.Module]], *kinds: str) -> None:
        self.names: list[str] = []
        self._owners: list[dict[str, Any]] = []
        self._keys: list[str] = []
        for kind in kinds:
            for prefix, part in parts:
                owner = getattr(part, kind)
                keys = [key for key, value in owner.items() if value is not None]
                self._owners += [owner] * len(keys)
                self._keys += keys
                self.names += [f"{prefix}.{key}".lstrip(".") for key in keys]

    def read(self) -> list[Any]:
        return list(map(operator.getitem, self._owners, self._keys))


class LayersReplacedError(RuntimeError):
    """A module has other layers than before."""
