"""Ids whose package registers them only when it is imported, and what to type for them."""

from __future__ import annotations

import importlib.util
import re
from typing import NamedTuple


class Hint(NamedTuple):
    """ids: regular expression for the start of ids; package: its name at PyPI; module: the module
    that registers them.
    """

    ids: str
    package: str
    module: str


_HINTS = (
    Hint(r"MiniWorld-", "miniworld", "miniworld"),
    Hint(r"Vizdoom", "vizdoom", "vizdoom.gymnasium_wrapper"),
    Hint(
        r"(AntMaze|PointMaze|Fetch|HandReach|HandManipulate|Adroit|FrankaKitchen)",
        "gymnasium-robotics",
        "gymnasium_robotics",
    ),
    Hint(r"Panda(Reach|Push|Slide|PickAndPlace|Stack|Flip)", "panda-gym", "panda_gym"),
    Hint(r"mo-", "mo-gymnasium", "mo_gymnasium"),
    Hint(r"(dm_control|bsuite)/", "shimmy", "shimmy"),
    Hint(r"FlappyBird-", "flappy-bird-gymnasium", "flappy_bird_gymnasium"),
    Hint(r"Crafter", "crafter", "crafter"),
    Hint(r"nasim", "nasim", "nasim"),
    Hint(r"retro$", "stable-retro", "retro"),
    Hint(r"(stocks|forex)-v", "gym-anytrading", "gym_anytrading"),
    Hint(r"PyFlyt/", "PyFlyt", "PyFlyt.gym_envs"),
)
_RETRO = re.compile(r"[A-Za-z0-9.]+-(Genesis|Nes|Snes|Sms|Gb|GbColor|GbAdvance|PCEngine|Atari2600)")


def hint(env_id: str) -> str:
    """Return what to type for an id that Gymnasium does not know, or ""."""
    name = env_id.rpartition(":")[2]
    if _RETRO.match(name):
        return (
            "games of stable-retro are made by a function, each in a process of its own: pip "
            f"install stable-retro; --env.id retro:make --env.kwargs.game {name} "
            "--env.vectorization async"
        )
    if re.match(r".*NoFrameskip-v4$", name):
        game = name.removesuffix("NoFrameskip-v4")
        return f"this is an old id of Atari; --env.id ALE/{game}-v5 is the game, with its protocol"
    for known in _HINTS:
        if re.match(known.ids, name):
            missing = importlib.util.find_spec(known.module.partition(".")[0]) is None
            install = f"pip install {known.package}; " if missing else ""
            return f"{install}name the module that registers it: --env.id {known.module}:{name}"
    return ""


def package_of(module: str) -> str:
    """Return the package that contains `module`, or ""."""
    top = module.partition(".")[0]
    return next((known.package for known in _HINTS if known.module.partition(".")[0] == top), "")
