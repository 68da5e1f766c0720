"""Observations against the space that their environment declares."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from hvd_dqn.common.errors import UserError
from hvd_dqn.envs.interface import warn
from hvd_dqn.spaces.records import stored_dtype

_REMEDY = (
    "correct the environment's observation_space or its observations; --env.check-observations 0 "
    "trains on the values as they are cast"
)
_ROUNDING = 1e-5
"""How far a float may be outside a bound, in shares of the bound or absolutely: environments clip
in another precision than they declare."""
_WHOLE_FLOATS = 2.0**24
"""float32 has every whole number up to this one."""

_told_of_outliers: set[str] = set()
"""Ids of environments for which this process has printed a warning."""


class CheckedObservations(gym.Wrapper[Any, Any, Any, Any]):
    """Refuses observations that differ from the declared space.

    It checks the first `count` observations, of resets and steps: they must have the declared
    shape, their values must be numbers that the declared type and float32 can hold, and integers
    must be within the bounds. A float out of bounds costs a warning: it is stored as it is, and
    Gymnasium's own LunarLander passes its bounds. Later observations go around this wrapper, and
    the simulators check their shapes.
    """

    def __init__(self, env: gym.Env[Any, Any], env_id: str, count: int) -> None:
        super().__init__(env)
        self._env_id = env_id
        self._left = count
        space = env.observation_space
        assert isinstance(space, gym.spaces.Box)
        self._space: gym.spaces.Box = space
        self._shape = space.shape

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Raises `UserError` if the observation does not fit."""
        result = self.env.reset(**kwargs)
        if _has(2, result):
            self._check(result[0])
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Raises `UserError` if the observation does not fit."""
        result = self.env.step(action)
        if _has(5, result):
            self._check(result[0])
        return result

    def _check(self, obs: Any) -> None:
        shape = obs.shape if isinstance(obs, np.ndarray) else _shape(obs)
        if shape != self._shape:
            raise UserError(
                f"env.id {self._env_id!r} declares {self._space} and observes {_received(obs)}",
                "correct the environment's observation_space or its observations",
            )
        problem = find_problem(np.asarray(obs), self._space)
        if problem:
            raise UserError(
                f"env.id {self._env_id!r} declares {self._space} and observes {problem}", _REMEDY
            )
        is_told = self._env_id in _told_of_outliers
        outlier = "" if is_told else find_outlier(np.asarray(obs), self._space)
        if outlier:
            _told_of_outliers.add(self._env_id)
            warn(f"env.id {self._env_id!r} observes {outlier}; it is used as it is")
        self._left -= 1
        if self._left == 0:
            self.reset, self.step = self.env.reset, self.env.step  # type: ignore[method-assign, assignment]


def _has(count: int, result: Any) -> bool:
    """Whether an environment returned this many values; the caller reports any other number."""
    return isinstance(result, tuple) and len(result) == count


def find_problem(obs: np.ndarray, space: gym.spaces.Box) -> str:
    """Return what is wrong with the values of an observation of the shape of `space`: the first
    value that is not a finite number, would change when it is cast to the declared type and stored,
    or is an integer out of bounds. Return "" if all fit.
    """
    is_float = space.dtype.kind == "f"
    return find_lost_value(obs, space) or ("" if is_float else find_outlier(obs, space))


def find_lost_value(obs: np.ndarray, space: gym.spaces.Box) -> str:
    """Return what is wrong with the values of `obs`, [*shape] or [N, *shape], apart from bounds."""
    declared, stored = space.dtype, stored_dtype(space.dtype)
    if obs.dtype == declared == stored and declared.kind != "f":
        return ""
    if obs.dtype.kind not in "biuf":
        return f"values of type {_type(obs.dtype)}, which are not numbers"
    if obs.dtype.kind == "f":
        infinite = ~np.isfinite(obs)
        if infinite.any():
            return f"{_first(obs, infinite)}, from which nothing can be learned"
    with np.errstate(invalid="ignore", over="ignore"):
        cast = obs.astype(declared)
        kept = cast.astype(stored)
    if declared.kind != "f":
        changed = cast != obs
        if changed.any():
            return f"{_first(obs, changed)}, which becomes {cast[changed].flat[0]} in that space"
    # A float may be rounded, but a whole number counts something.
    exact = obs.dtype.kind != "f" or declared.itemsize > stored.itemsize
    changed = np.isinf(kept) if stored.kind == "f" else np.zeros(obs.shape, np.bool_)
    if exact and stored.kind == "f" and (np.abs(kept) >= _WHOLE_FLOATS).any():
        wide = obs.astype(np.longdouble)
        changed |= (kept != wide) & (_is_counted(wide) if obs.dtype.kind == "f" else True)
    if changed.any():
        value = kept[changed].flat[0]
        becomes = int(value) if np.isfinite(value) else value
        return (
            f"{_first(obs, changed)}, which becomes {becomes} in {stored}, the type that networks "
            "take"
        )
    return ""


def find_outlier(obs: np.ndarray, space: gym.spaces.Box) -> str:
    """Return the first value out of bounds, apart from rounding; "" if there is none."""
    lowest, highest = space.low, space.high
    if space.dtype.kind == "f":
        lowest, highest = _widened(lowest, -_ROUNDING), _widened(highest, _ROUNDING)
    for side, bound, outside in (
        ("below", space.low, obs < lowest),
        ("above", space.high, obs > highest),
    ):
        if outside.any():
            return f"{_first(obs, outside)}, {side} the bound {bound[outside].flat[0]}"
    return ""


def _widened(bound: np.ndarray, share: float) -> np.ndarray:
    bound = bound.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        widened: np.ndarray = bound + share * np.maximum(np.abs(bound), 1)
    return widened


def _is_counted(values: np.ndarray) -> np.ndarray:
    """Whether each float is a whole number by its value; above 2**53, all float64 are."""
    counted: np.ndarray = (values == np.floor(values)) & (np.abs(values) <= 2.0**53)
    return counted


def _first(obs: np.ndarray, chosen: np.ndarray) -> str:
    """Return the first of the chosen values, with its type and its place."""
    place = ", ".join(map(str, np.argwhere(chosen)[0]))
    value = obs[chosen].flat[0]
    return f"{value!s} ({_type(obs.dtype)}) at [{place}]"


def _type(dtype: np.dtype[Any]) -> str:
    return "bool" if dtype == np.bool_ else str(dtype)


def _shape(obs: Any) -> tuple[int, ...] | None:
    """Return the shape of an observation that is not an array, or `None` if its parts differ."""
    try:
        return tuple(np.shape(obs))
    except ValueError:  # lists of different lengths
        return None


def _received(obs: Any) -> str:
    if isinstance(obs, np.ndarray):
        return f"an array of {_type(obs.dtype)} of shape {obs.shape}"
    shape = _shape(obs) or ()
    return f"a {type(obs).__name__}" + (f" of shape {shape}" if shape else "")
