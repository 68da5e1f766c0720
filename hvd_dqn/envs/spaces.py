"""Spaces as JSON, so that a network can be loaded without its environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


def describe(space: gym.spaces.Box | gym.spaces.Discrete) -> dict[str, Any]:
    """Return the space as JSON: the number and the start of discrete values; shape, type and bounds
    of a Box. A bound is one number if it is the same for all components, and `None` if it is
    infinite.
    """
    if isinstance(space, gym.spaces.Discrete):
        return {"n": int(space.n), "start": int(space.start)}
    return {
        "shape": list(space.shape),
        "dtype": str(space.dtype),
        "low": _bounds(space.low),
        "high": _bounds(space.high),
    }


def actions_of(description: dict[str, Any]) -> gym.spaces.Discrete:
    """Return the discrete space that `describe` described. Raises `KeyError`, `TypeError` or
    `ValueError` for other values.
    """
    count, start = (description[name] for name in ("n", "start"))
    if type(count) is not int or type(start) is not int or count < 1:
        raise ValueError(f"{description} is not a discrete space")
    actions: gym.spaces.Discrete = gym.spaces.Discrete(count, start=start)
    return actions


def observations_of(description: dict[str, Any]) -> gym.spaces.Box:
    """Return the Box that `describe` described. Raises `KeyError`, `TypeError` or `ValueError` for
    other values.
    """
    shape, dtype = tuple(description["shape"]), np.dtype(description["dtype"])

    def bound(name: str, unbounded: float) -> np.ndarray:
        if dtype.kind != "f":
            return np.broadcast_to(np.array(description[name], dtype=dtype), shape)
        values = np.array(description[name], dtype=np.float64)  # null becomes NaN
        values = np.where(np.isnan(values), unbounded, values)
        return np.broadcast_to(values, shape).astype(dtype)

    space: gym.spaces.Box = gym.spaces.Box(
        bound("low", -np.inf), bound("high", np.inf), dtype=dtype.type
    )
    return space


def _bounds(values: np.ndarray) -> Any:
    if values.size and (values == values.flat[0]).all():
        values = values.reshape(-1)[0]
    if values.dtype.kind != "f":
        return values.astype(np.uint8).tolist() if values.dtype.kind == "b" else values.tolist()
    return _without_nan(np.where(np.isfinite(values), values.astype(np.float64), np.nan).tolist())


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if value != value else value
