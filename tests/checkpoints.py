"""Checkpoints read in another way than the package does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

_TIMES = ("seconds", "period_seconds", "on_its_way_seconds", "stages")


def everything(root: Path, back: int = 0) -> dict[str, Any]:
    """The newest checkpoint, or one so many `back`: its counters, every state, and of every ring
    the frames by row.
    """
    chosen = sorted(root.glob("step-*/manifest.json"))[-1 - back]
    body = json.loads(chosen.read_text())["body"]
    return {
        "env_steps": body["env_steps"],
        "updates": body["updates"],
        "shared": state(root / body["shared"][0]),
        "ranks": {str(k): rank(root, *files) for k, files in enumerate(body["ranks"])},
    }


def rank(root: Path, file: list[Any], segments: list[Any]) -> dict[str, Any]:
    """One rank's part."""
    own = state(root / file[0])
    return {"state": own, "frames": frames(root, segments, own["tensors"])}


def state(path: Path) -> dict[str, Any]:
    """Tensors by their paths, and the rest."""
    tensors: dict[str, Any] = safetensors.torch.load_file(path)
    rest = json.loads(bytes(tensors.pop("json").tolist()))
    return {"tensors": tensors, "rest": rest}


def frames(root: Path, segments: list[Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Bytes of every frame that the ring has, by its environment and row number; a later segment
    counts. Nothing, if there is no ring.
    """
    if "/replay/ring/moved" not in tensors:
        assert segments == []
        return {}
    moved = tensors["/replay/ring/moved"].tolist()
    rows = tensors["/replay/ring/kinds"].shape[1]
    found: dict[str, Any] = {}
    for (name, size, _), start, stop in segments:
        data = np.fromfile(root / name, dtype=np.uint8)
        assert len(data) == size
        pictures = iter(data.reshape(sum(stop) - sum(start), -1))
        for column, (a, b) in enumerate(zip(start, stop, strict=True)):
            for row in range(a, b):
                picture = next(pictures)
                if row > moved[column] - rows:
                    found[f"{column}:{row}"] = picture
    assert len(found) == sum(min(count, rows - 1) + 1 for count in moved)
    return found


def assert_equal(ours: Any, theirs: Any, path: str = "") -> None:
    """Bit for bit, but for how long it took."""
    assert type(ours) is type(theirs), path
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), path
        for key in ours:
            if key not in _TIMES:
                assert_equal(ours[key], theirs[key], f"{path}/{key}")
    elif isinstance(ours, torch.Tensor | np.ndarray):
        assert np.array_equal(ours, theirs), path
    elif isinstance(ours, float):
        assert np.array_equal(ours, theirs, equal_nan=True), path
    else:
        assert ours == theirs, path
