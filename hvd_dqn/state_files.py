"""A state as two plain things: tensors by name, and JSON. Neither needs pickle."""

from __future__ import annotations

import json
from typing import Any

import torch

from hvd_dqn.errors import UserError

State = dict[str, Any]
_SEPARATOR = "/"


def split(state: State) -> tuple[dict[str, torch.Tensor], str]:
    """Tensors by their path, contiguous on the host; and the rest as a JSON text."""
    tensors: dict[str, torch.Tensor] = {}

    def visit(value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            tensors[path] = value.detach().cpu().contiguous()
            return None
        if isinstance(value, dict):
            inner = {key: visit(item, f"{path}{_SEPARATOR}{key}") for key, item in value.items()}
            return {key: item for key, item in inner.items() if not _is_tensor(value[key])}
        return value

    tree = visit(state, "")
    return tensors, json.dumps(tree)


def join(tensors: dict[str, torch.Tensor], text: str) -> State:
    """What `split` took apart. `UserError` where the two do not belong together."""
    state: State = json.loads(text)
    for path, tensor in tensors.items():
        *keys, last = path.split(_SEPARATOR)[1:]
        place = state
        for key in keys:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise UserError(f"the saved state has a tensor {path!r} inside a value")
        place[last] = tensor
    return state


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
