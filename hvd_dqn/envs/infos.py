"""Numbers in an environment's `info`, by the keys that the run names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from hvd_dqn.envs.interface import InterfaceError

NUMBERS = "hvd_dqn numbers"
"""The only key of the infos that `InfoNumbers` returns."""


class InfoNumbers(gym.Wrapper[Any, Any, Any, Any]):
    """Replaces the info of a step by the numbers [K] at `keys`; one that is missing is NaN.

    A key `a.b` is `info["a"]["b"]` unless there is a key of that name.
    """

    def __init__(self, env: gym.Env[Any, Any], keys: Sequence[str]) -> None:
        super().__init__(env)
        self._keys = keys

    def step(self, action: Any) -> Any:
        """Raises `InterfaceError` if one of the values is not a number."""
        result: Any = self.env.step(action)
        if not isinstance(result, tuple) or len(result) != 5:
            return result  # the caller reports it
        numbers = np.array([_number(result[4], key) for key in self._keys], dtype=np.float64)
        return *result[:4], {NUMBERS: numbers}


def array_of(infos: Mapping[str, Any], keys: Sequence[str], count: int) -> np.ndarray | None:
    """Return the numbers [N, K] in the infos of a vector environment, in which each value is an
    array [N], with its mask at `_key` if it is not there for all. `None` if `keys` is empty.

    Raises `InterfaceError` if one of the values is not an array of `count` numbers.
    """
    if not keys:
        return None
    columns = np.full((count, len(keys)), np.nan)
    for number, key in enumerate(keys):
        value, mask = _at(infos, key), _at(infos, f"_{key}")
        if value is None:
            continue
        array = np.asarray(value)
        if array.shape != (count,) or array.dtype.kind not in "biuf":
            raise InterfaceError(
                f"info[{key!r}] has the shape {array.shape} and the type {array.dtype}; "
                f"logging.info-keys takes {count} numbers, one for each copy"
            )
        there = np.ones(count, np.bool_) if mask is None else np.asarray(mask, dtype=np.bool_)
        columns[there, number] = array[there]
    return columns


def _number(info: Any, key: str) -> float:
    value = _at(info, key)
    if value is None:
        return float("nan")
    array = None if isinstance(value, str) else np.asarray(value)
    if array is None or array.size != 1 or array.dtype.kind not in "biuf":
        raise InterfaceError(
            f"info[{key!r}] is {value!r:.60}; logging.info-keys takes keys of numbers"
        )
    return float(array.reshape(()))


def _at(info: Any, key: str) -> Any:
    """Return the value at `key`, or `None`."""
    if not isinstance(info, Mapping):
        return None
    if key in info:
        return info[key]
    first, dot, rest = key.partition(".")
    return _at(info.get(first), rest) if dot else None
