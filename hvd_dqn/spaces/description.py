"""Spaces as JSON, so that a network can be loaded without its environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from hvd_dqn.spaces.actions import ActionCodes, ActionError
from hvd_dqn.spaces.records import RecordSpace, SpaceError


def describe(space: gym.Space[Any]) -> dict[str, Any]:
    """Return the space as JSON: the number and the start of discrete values; shape, type and bounds
    of a Box; the parts of a Dict or Tuple by name. A bound is one number if it is the same for all
    components, and `None` if it is infinite. A record is described by its source.
    """
    if isinstance(space, RecordSpace):
        return {
            "record": describe(space.source),
            "masked_actions": space.num_actions,
            "text": space.text,
            "channels": space.channels,
        }
    if isinstance(space, ActionCodes):
        return {"coded": describe(space.source), "bins": space.bins, "joint": space.joint}
    if isinstance(space, gym.spaces.Discrete):
        return {"n": int(space.n), "start": int(space.start)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"nvec": space.nvec.tolist(), "starts": space.start.tolist()}
    if isinstance(space, gym.spaces.MultiBinary):
        return {"flags": int(space.n) if isinstance(space.n, int) else list(space.shape)}
    if isinstance(space, gym.spaces.Dict):
        return {"dict": {str(name): describe(part) for name, part in space.spaces.items()}}
    if isinstance(space, gym.spaces.Tuple):
        return {"tuple": [describe(part) for part in space.spaces]}
    if isinstance(space, gym.spaces.Text):
        return {"text_of": space.max_length}
    assert isinstance(space, gym.spaces.Box)
    return {
        "shape": list(space.shape),
        "dtype": str(space.dtype),
        "low": _bounds(space.low),
        "high": _bounds(space.high),
    }


def actions_of(description: dict[str, Any]) -> gym.spaces.Discrete:
    """Return the discrete space, or the codes of actions, that `describe` described. Raises
    `KeyError`, `TypeError` or `ValueError` for other values.
    """
    if "coded" in description:
        bins, joint = description["bins"], description["joint"]
        try:
            return ActionCodes(_part_of(description["coded"]), bins=bins, joint=joint)
        except ActionError as error:
            raise ValueError(str(error)) from error
    count, start = (description[name] for name in ("n", "start"))
    if type(count) is not int or type(start) is not int or count < 1:
        raise ValueError(f"{description} is not a discrete space")
    actions: gym.spaces.Discrete = gym.spaces.Discrete(count, start=start)
    return actions


def observations_of(description: dict[str, Any]) -> gym.spaces.Box:
    """Return the Box or the records that `describe` described. Raises `KeyError`, `TypeError` or
    `ValueError` for other values.
    """
    if "record" in description:
        masked, text = description["masked_actions"], description["text"]
        channels = description["channels"]
        if not (masked is None or type(masked) is int) or text not in (None, "drop", "tokens"):
            raise ValueError(f"{masked!r} actions and text {text!r} are not those of a record")
        try:
            source = _part_of(description["record"])
            return RecordSpace(source, num_actions=masked, text=text, channels=channels)
        except SpaceError as error:
            raise ValueError(str(error)) from error
    return _box_of(description)


def _part_of(description: dict[str, Any]) -> gym.Space[Any]:
    if "n" in description:
        return actions_of(description)
    if "nvec" in description:
        counts, starts = (np.array(description[name]) for name in ("nvec", "starts"))
        return gym.spaces.MultiDiscrete(counts, start=starts)
    if "flags" in description:
        return gym.spaces.MultiBinary(description["flags"])
    if "dict" in description:
        return gym.spaces.Dict({name: _part_of(part) for name, part in description["dict"].items()})
    if "tuple" in description:
        return gym.spaces.Tuple([_part_of(part) for part in description["tuple"]])
    if "text_of" in description:
        return gym.spaces.Text(description["text_of"])
    return _box_of(description)


def _box_of(description: dict[str, Any]) -> gym.spaces.Box:
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
