"""Packages that bring environments: imported when an id of theirs is asked for, named when missing.

Gymnasium 1.x loads no plugins by itself: before its package is imported, an id does not exist.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import NamedTuple

import gymnasium as gym

from hvd_dqn.common.errors import UserError


class _Package(NamedTuple):
    """A package, the module whose import makes its ids known, our extra and its ids."""

    name: str
    module: str
    extra: str
    ids: str


_HIGHWAY = (
    "exit|highway|intersection|lane-keeping|merge|parking|racetrack|roundabout|two-way|u-turn"
)
_PACKAGES = (
    _Package("ale-py", "ale_py", "atari", r"ALE/"),
    _Package("minatar", "minatar.gym", "minatar", r"MinAtar/"),
    _Package("highway-env", "highway_env", "driving", rf"({_HIGHWAY})(-[a-z-]+)?-v\d"),
)
_EXTRAS = {"Box2D": "box2d", "box2d": "box2d"} | {
    package.module.partition(".")[0]: package.extra for package in _PACKAGES
}


def register(env_id: str) -> None:
    """Import the package whose id this is, if it is one of those known here. `UserError` where that
    package is missing.
    """
    name = env_id.rpartition(":")[2]
    for package in _PACKAGES:
        if name not in gym.registry and re.match(package.ids, name):
            try:
                module = import_module(package.module)
            except ModuleNotFoundError as error:
                raise UserError(
                    f"env.id {env_id!r} needs {package.name}, which is not installed: "
                    f"{how_to_install(package.module)}"
                ) from error
            if package.name == "minatar" and "MinAtar/Breakout-v1" not in gym.registry:
                module.register_envs()


def how_to_install(module: str) -> str:
    """The command that installs `module`, or the advice to find one."""
    extra = _EXTRAS.get(module.partition(".")[0])
    return (
        f"pip install 'hvd_dqn[{extra}]'" if extra else f"install the package that has {module!r}"
    )
