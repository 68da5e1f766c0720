"""The user's wrappers, which `env.wrappers` names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gymnasium as gym

from hvd_dqn.common.errors import UserError, typed_line
from hvd_dqn.common.extensions import import_attribute
from hvd_dqn.envs.interface import RAISED, Place, close_env


class IntegerActions(gym.ActionWrapper[Any, Any, Any]):
    """Passes actions as Python integers, for environments that refuse those of NumPy."""

    def action(self, action: Any) -> int:
        """Return the action as a Python integer."""
        return int(action)


def wrap(env: Any, wrappers: Sequence[str], place: Place) -> Any:
    """Return `env` in `wrappers`, `module:Wrapper` or `module:Wrapper={"argument": value}`, the
    first innermost. `place` fills the placeholders in their arguments. What is no `gymnasium.Env`
    is returned as it is, for the caller to refuse.

    Raises `UserError`, and closes `env`, if a wrapper cannot be imported or raises.
    """
    if not isinstance(env, gym.Env):
        return env
    for text in wrappers:
        path, _, arguments = text.partition("=")
        found = f"env.wrappers {path!r}"
        try:
            kind = import_attribute(found, path)
            wrapped = kind(env, **place.fill(shapes_as_tuples(json.loads(arguments or "{}"))))
            if not isinstance(wrapped, gym.Env):
                raise UserError(
                    f"{found} returns {type(wrapped).__name__}, not a gymnasium.Env",
                    "name a subclass of gymnasium.Wrapper, or a function that returns one",
                )
            env = wrapped
        except UserError:
            close_env(env, path)
            raise
        except RAISED as error:  # a wrapper may raise anything
            close_env(env, path)
            raise UserError(f"{found} cannot wrap the environment: {typed_line(error)}") from error
    return env


def shapes_as_tuples(value: Any) -> Any:
    """JSON has no tuples, and code that takes a shape may require one (highway-env's images do)."""
    if isinstance(value, dict):
        return {name: shapes_as_tuples(inner) for name, inner in value.items()}
    is_shape = isinstance(value, list) and all(type(number) is int for number in value)
    return tuple(value) if is_shape else value
