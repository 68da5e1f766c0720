"""A state as one file: tensors by name, and the rest of it as JSON. Neither needs pickle."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch

State = dict[str, Any]
_SEPARATOR = "/"
_REST = "json"


class SplitState(NamedTuple):
    """What is the same on every rank, and what is this rank's own."""

    shared: State
    own: State


def snapshot(state: State) -> State:
    """A copy that later changes do not reach; its tensors are on the host."""
    return {key: _copied(value) for key, value in state.items()}


def pack(state: State) -> bytes:
    """The file, in the safetensors format. Values that are no tensors must be JSON's."""
    tensors: dict[str, torch.Tensor] = {}

    def visit(value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            tensors[path] = value.contiguous()
            return None
        if isinstance(value, dict):
            inner = {key: visit(item, f"{path}{_SEPARATOR}{key}") for key, item in value.items()}
            return {key: item for key, item in inner.items() if not _is_tensor(value[key])}
        return value

    rest = json.dumps(visit(state, "")).encode()
    tensors[_REST] = torch.frombuffer(bytearray(rest), dtype=torch.uint8)
    data: bytes = safetensors.torch.save(tensors)
    return data


def unpack(data: bytes) -> State:
    """What `pack` put together. `ValueError` where it is not that."""
    try:
        tensors = safetensors.torch.load(data)
        state: State = json.loads(tensors.pop(_REST).numpy().tobytes())
    except (safetensors.SafetensorError, KeyError, RecursionError) as error:
        raise ValueError(f"no saved state: {error}") from error
    for path, tensor in tensors.items():
        *keys, last = path.split(_SEPARATOR)[1:]
        place = state
        for key in keys:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ValueError(f"a tensor {path!r} inside a value")
        place[last] = tensor
    return state


def size(state: State) -> int:
    """Bytes of its tensors."""
    return sum(
        size(value) if isinstance(value, dict) else value.numel() * value.element_size()
        for value in state.values()
        if isinstance(value, dict | torch.Tensor)
    )


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    return snapshot(value) if isinstance(value, dict) else value


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
