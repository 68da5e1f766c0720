"""Actions of several dimensions, and continuous ones, as one integer.

Actor, replay and checkpoints see a Discrete space. Its numbers are those of all combinations of
the dimensions' choices, the last dimension changing fastest.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np

MOST_COMBINATIONS = 2**31 - 1
"""Combinations that the replay can number."""


class ActionCodes(gym.spaces.Discrete):
    """The combinations of the choices in each dimension of `source`, numbered.

    counts: choices of each dimension. A Box of real numbers has `bins` evenly spaced choices in
    each dimension, bounds included. branches: `counts` if the network values the choices of each
    dimension apart, which it does beyond `joint` combinations; otherwise empty.
    """

    def __init__(self, source: gym.Space[Any], *, bins: int, joint: int) -> None:
        """Raises `ActionError` for other spaces, and for too many combinations."""
        self.source = source
        self.bins = bins
        self.joint = joint
        self.counts = _counts(source, bins)
        combinations = math.prod(self.counts)
        if combinations > MOST_COMBINATIONS:
            raise ActionError(
                f"{source} with {' · '.join(map(str, self.counts))} choices has {combinations:,} "
                f"combinations; {MOST_COMBINATIONS:,} are possible: use fewer dimensions"
                + (" or --env.action-bins 2" if _is_continuous(source) else "")
            )
        self.branches = self.counts if combinations > joint else ()
        super().__init__(combinations)

    def decode(self, codes: np.ndarray | int) -> np.ndarray:
        """Return the actions of these numbers [N] as rows [N, D] of what each dimension takes; [D]
        for one number.
        """
        choices = np.stack(np.unravel_index(codes, self.counts), axis=-1)
        if isinstance(self.source, gym.spaces.Box) and _is_continuous(self.source):
            low, high = (bound.reshape(-1) for bound in (self.source.low, self.source.high))
            shares = choices / (self.bins - 1)
            values: np.ndarray = low + shares * (high - low)
            return values
        starts = [int(part.start) for part in _parts(self.source)]
        shifted: np.ndarray = choices + np.array(starts)
        return shifted

    def action(self, code: int) -> Any:
        """Return the action of this number as the environment takes it."""
        row = self.decode(code)
        if isinstance(self.source, gym.spaces.Tuple):
            return tuple(int(choice) for choice in row)
        return row.reshape(self.source.shape).astype(self.source.dtype)

    def actions(self, codes: np.ndarray) -> Any:
        """Return the actions of these numbers [N] as a vector environment takes them."""
        rows = self.decode(codes)
        if isinstance(self.source, gym.spaces.Tuple):
            return tuple(rows.T)
        shape: tuple[int, ...] = self.source.shape or ()
        return rows.reshape(len(rows), *shape).astype(self.source.dtype)

    def summary(self) -> str:
        """Return what the network values."""
        sizes = " · ".join(map(str, self.counts))
        if self.branches:
            return f"{self.source}, the choices of each dimension ({sizes})"
        return f"{self.source}, {self.n} combinations ({sizes})"

    def names(self) -> list[str]:
        """Return a name for each value of the network: of each choice of each dimension if these
        are valued apart, otherwise of each combination.
        """
        if self.branches:
            corner = [self.decode(np.arange(count) * step) for count, step in self._strides()]
            return [
                f"{dimension}: {row[dimension]:.3g}"
                for dimension, rows in enumerate(corner)
                for row in rows
            ]
        rows = self.decode(np.arange(self.n))
        return ["(" + ", ".join(f"{value:.3g}" for value in row) + ")" for row in rows]

    def _strides(self) -> list[tuple[int, int]]:
        """Return the choices of each dimension, and by how much a number grows with a choice."""
        return [
            (count, math.prod(self.counts[dimension + 1 :]))
            for dimension, count in enumerate(self.counts)
        ]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ActionCodes)
            and self.source == other.source
            and (self.bins, self.joint) == (other.bins, other.joint)
        )

    def __repr__(self) -> str:
        return str(self.source)


class ActionError(Exception):
    """An action space of which no integers can be made."""


class CodedActions(gym.Wrapper[Any, Any, Any, Any]):
    """Takes numbers of `codes` as actions."""

    def __init__(self, env: gym.Env[Any, Any], codes: ActionCodes) -> None:
        super().__init__(env)
        self.action_space = self._codes = codes

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take the action of this number."""
        return self.env.step(self._codes.action(int(action)))


def branches_of(actions: gym.spaces.Discrete) -> tuple[int, ...]:
    """Return the choices of each dimension if the network values them apart, otherwise ()."""
    return actions.branches if isinstance(actions, ActionCodes) else ()


def best_actions(values: np.ndarray, branches: tuple[int, ...] = ()) -> np.ndarray:
    """Return the numbers [N] of the best actions by their values [N, A]; with `branches`, by the
    values [N, Σ n] of the choices of each dimension.
    """
    best: np.ndarray
    if not branches:
        best = values.argmax(axis=1)
        return best
    parts = np.split(values, np.cumsum(branches)[:-1], axis=1)
    best = np.ravel_multi_index([part.argmax(axis=1) for part in parts], branches)
    return best


def best_values(values: np.ndarray, branches: tuple[int, ...] = ()) -> np.ndarray:
    """Return the values [N] of the best actions; see `best_actions`."""
    if not branches:
        best: np.ndarray = values.max(axis=1)
        return best
    parts = np.split(values, np.cumsum(branches)[:-1], axis=1)
    mean: np.ndarray = np.mean([part.max(axis=1) for part in parts], axis=0)
    return mean


def places_of(action: int, branches: tuple[int, ...] = ()) -> list[int]:
    """Return the places of an action's values among those of the network."""
    if not branches:
        return [action]
    starts = np.cumsum((0, *branches[:-1]))
    choices = np.unravel_index(action, branches)
    return [int(start + choice) for start, choice in zip(starts, choices, strict=True)]


def _counts(space: gym.Space[Any], bins: int) -> tuple[int, ...]:
    if isinstance(space, gym.spaces.Box) and not space.is_bounded():
        raise ActionError(f"{space} is not bounded: rescale it with a wrapper")
    if _is_continuous(space):
        return (bins,) * math.prod(space.shape or ())
    return tuple(int(part.n) for part in _parts(space))


def _is_continuous(space: gym.Space[Any]) -> bool:
    return isinstance(space, gym.spaces.Box) and space.dtype.kind == "f"


def _parts(space: gym.Space[Any]) -> list[gym.spaces.Discrete]:
    """Return the dimensions of a space of several discrete ones."""
    if isinstance(space, gym.spaces.MultiDiscrete):
        pairs = zip(space.nvec.reshape(-1), space.start.reshape(-1), strict=True)
        return [gym.spaces.Discrete(int(count), start=int(start)) for count, start in pairs]
    if isinstance(space, gym.spaces.Box) and space.dtype.kind in "iu":
        bounds = zip(space.low.reshape(-1).tolist(), space.high.reshape(-1).tolist(), strict=True)
        return [gym.spaces.Discrete(high - low + 1, start=low) for low, high in bounds]
    if isinstance(space, gym.spaces.MultiBinary):
        return [gym.spaces.Discrete(2)] * math.prod(space.shape)
    if isinstance(space, gym.spaces.Tuple):
        parts = list(space.spaces)
        dimensions = [part for part in parts if isinstance(part, gym.spaces.Discrete)]
        if parts and len(dimensions) == len(parts):
            return dimensions
    raise ActionError(
        f"{space} is none of Discrete, MultiDiscrete, MultiBinary, Tuple of Discrete, Box: turn it "
        "into one with a wrapper"
    )
