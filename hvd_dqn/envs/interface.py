"""The calls of one Gymnasium environment, with checks of what it returns.

Users write environments. What they return by mistake is refused here, by name, and what they raise
is reported with the copy that raised it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from hvd_dqn.common.errors import UserError, one_line, typed_line

SECONDS_TO_CLOSE = 20.0
"""How long an environment may take to close."""
RAISED = (Exception, SystemExit)
"""What an environment may raise: some call `sys.exit`."""
_OLD_INTERFACE = "this is the interface of gym before 0.26"


class EnvironmentFailedError(Exception):
    """An environment raised, or returned what it must not; the message names the copy."""


class GroupLostError(EnvironmentFailedError):
    """Ranks of an environment do not answer. MPI cannot replace them, so the job must end."""


class InterfaceError(Exception):
    """An environment returned what Gymnasium's interface does not allow."""


class Place(NamedTuple):
    """Which copy of the environment it is: its rank and its number on that rank, of `copies`. The
    copies that train come first, then those of evaluations, then that of videos.
    """

    rank: int = 0
    copy: int = 0
    copies: int = 1

    def __str__(self) -> str:
        return f"copy {self.copy} of rank {self.rank}"

    def fill(self, value: Any) -> Any:
        """Return `value`, JSON, with the placeholders in its strings replaced. A string that is one
        placeholder becomes an integer.
        """
        if isinstance(value, dict):
            return {name: self.fill(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.fill(inner) for inner in value)
        if not isinstance(value, str):
            return value
        index = self.rank * self.copies + self.copy
        for name, number in (("rank", self.rank), ("copy", self.copy), ("index", index)):
            if value == f"{{{name}}}":
                return number
            value = value.replace(f"{{{name}}}", str(number))
        return value


ONLY = Place()
"""The place of an environment that is made alone."""


def told(error: BaseException) -> str:
    """Return on one line what an environment raised, or what it did wrong."""
    known = isinstance(error, InterfaceError | EnvironmentFailedError | UserError)
    return one_line(error) if known else typed_line(error)


def reset_env(env: gym.Env[Any, Any], seed: int) -> Any:
    """Start an episode and return its first observation."""
    try:
        result: Any = env.reset(seed=seed)
    except TypeError as error:
        if "unexpected keyword argument 'seed'" not in str(error):
            raise
        raise InterfaceError(
            f"reset() does not accept a seed ({error}): {_OLD_INTERFACE}; define "
            "reset(self, *, seed=None, options=None)"
        ) from error
    if not isinstance(result, tuple) or len(result) != 2:
        raise InterfaceError(
            f"reset() returned {_described(result)} instead of (observation, info): "
            f"{_OLD_INTERFACE}; return observation, {{}}"
        )
    return result[0]


def step_env(env: gym.Env[Any, Any], action: Any) -> tuple[Any, float, bool, bool, Any]:
    """Take one step and return observation, reward, terminated, truncated and info."""
    result: Any = env.step(action)
    if type(result) is not tuple or len(result) != 5:
        _require_five(result)
    obs, reward, terminated, truncated, info = result
    if not isinstance(reward, float):
        reward = _reward(reward)
    if type(terminated) is not bool:
        terminated = _flag("terminated", terminated)
    if type(truncated) is not bool:
        truncated = _flag("truncated", truncated)
    return obs, reward, terminated, truncated, info


def require_shape(obs: Any, space: gym.spaces.Box) -> None:
    """Raise `InterfaceError` if the observation does not have the shape of its space."""
    shape = np.shape(obs)
    if shape != space.shape:
        raise InterfaceError(
            f"the environment's space is {space}, but its observation has the shape {shape}"
        )


def require_same_spaces(
    env: gym.Env[Any, Any], observations: gym.Space[Any], actions: gym.Space[Any]
) -> None:
    """Raise `InterfaceError` if the spaces of `env` are not these, which are the first copy's."""
    for kind, own, first in (
        ("observation", env.observation_space, observations),
        ("action", env.action_space, actions),
    ):
        if own != first:
            bounds = " with other bounds" if str(own) == str(first) else ""
            raise InterfaceError(
                f"its {kind} space is {own}{bounds}, but that of the first copy is {first}; all "
                "copies need the same spaces"
            )


def require_gymnasium(env_id: str, env: Any) -> None:
    """Raise `UserError` if the environment, or a space of it, is of the old package gym."""
    if not isinstance(env, gym.Env) and any(_is_of_gym(kind) for kind in type(env).__mro__):
        raise UserError(
            f"env.id {env_id!r} is an environment of the old package gym",
            "port it to gymnasium (import gymnasium as gym), or wrap it with shimmy",
        )
    for name in ("action_space", "observation_space"):
        space = getattr(env, name, None)
        if any(_is_of_gym(kind) for kind in type(space).__mro__):
            raise UserError(
                f"env.id {env_id!r}: its {name} is a {type(space).__name__} of the old package gym",
                "make it from gymnasium.spaces",
            )


def close_env(env: Any, name: str) -> None:
    """Close an environment. Whatever it raises costs a line, not the run: its results are there.

    In the main thread it is interrupted if it does not return within `SECONDS_TO_CLOSE`.
    """
    try:
        with _interrupted_after(SECONDS_TO_CLOSE):
            env.close()
    except RAISED as error:
        warn(f"{name}: close() raised {typed_line(error)}")


def warn(text: str) -> None:
    """Print a warning, on one line."""
    with suppress(OSError, ValueError):
        print(f"hvd-dqn: warning: {text}", file=sys.stderr, flush=True)


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in the block after `seconds`. Has no effect outside the main thread, in
    a call of a C library, or if other code uses SIGALRM.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it did not return within {seconds:g} s")

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _require_five(result: Any) -> None:
    if not isinstance(result, tuple | list) or len(result) != 5:
        old = f"{_OLD_INTERFACE}; " if isinstance(result, tuple) and len(result) == 4 else ""
        raise InterfaceError(
            f"step() returned {_described(result)} instead of (observation, reward, terminated, "
            f"truncated, info): {old}return both flags and an info"
        )


def _reward(value: Any) -> float:
    """Return a reward of NumPy, torch or Python as a float; an array must have one element."""
    array = None if isinstance(value, str) else np.asarray(value)
    if array is None or array.size != 1 or array.dtype.kind not in "biuf":
        several = (
            "; combine several objectives into one, for example in a gymnasium.RewardWrapper that "
            "--env.wrappers names"
            if array is not None and array.size > 1
            else ""
        )
        raise InterfaceError(f"the reward is {_described(value)}; it must be one number{several}")
    return float(array.reshape(()))


def _flag(name: str, value: Any) -> bool:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise InterfaceError(f"{name} is {_described(value)}; it must be True or False")
    return bool(array.reshape(()))


def _described(value: Any) -> str:
    """Return what a value is, in a few words."""
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if value is None or isinstance(value, str):
        return repr(value)[:80]
    shape = getattr(value, "shape", None)
    article = "an" if type(value).__name__[0].lower() in "aeiou" else "a"
    return f"{article} {type(value).__name__}" + ("" if shape is None else f" of shape {shape}")


def _is_of_gym(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "gym"
