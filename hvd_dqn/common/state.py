"""Stores a state in one file without pickle: tensors by name, the rest as JSON."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch

State = dict[str, Any]
_SEPARATOR = "/"
_REST = "json"


class DistributedState(NamedTuple):
    """The state of a part of the run: `shared` is the same on every rank and saved by the root;
    `per_rank` belongs to this rank.
    """

    shared: State
    per_rank: State


def snapshot(state: State) -> State:
    """Return a deep copy with all tensors on the host."""
    return {key: _copied(value) for key, value in state.items()}


def pack(state: State) -> bytes:
    """Return the contents of a safetensors file. Values that are not tensors must be JSON's."""
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
    """Return the state that `pack` was given. Raises `ValueError` if `data` is not such a file."""
    try:
        tensors = safetensors.torch.load(data)
        state: State = json.loads(tensors.pop(_REST).numpy().tobytes())
    except (safetensors.SafetensorError, KeyError, RecursionError) as error:
        raise ValueError(f"not a saved state: {error}") from error
    for path, tensor in tensors.items():
        *keys, last = path.split(_SEPARATOR)[1:]
        place = state
        for key in keys:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ValueError(f"tensor {path!r} is inside another value")
        place[last] = tensor
    return state


def state_bytes(state: State) -> int:
    """Return the number of bytes of all tensors."""
    return sum(
        state_bytes(value) if isinstance(value, dict) else value.numel() * value.element_size()
        for value in state.values()
        if isinstance(value, dict | torch.Tensor)
    )


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    return snapshot(value) if isinstance(value, dict) else value


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
