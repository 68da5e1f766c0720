"""Ready-made runs: each preset is a function that returns a `Config`; `hvd-dqn presets NAME` prints
one. Every setting is a command line option.
"""

from __future__ import annotations

from collections.abc import Callable

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import Config
from hvd_dqn.presets import atari, classic, driving, minatar

PRESETS: dict[str, Callable[[], Config]] = {
    **classic.PRESETS,
    **driving.PRESETS,
    **minatar.PRESETS,
    **atari.PRESETS,
}


def preset(name: str) -> Config:
    """Return the preset `name`. Raises `UserError` if there is none."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}: the presets are {', '.join(PRESETS)}")
    return PRESETS[name]()
