"""Ready-made runs: each preset is a function that returns a `Config`. `hvd-dqn presets` lists them,
and `hvd-dqn presets NAME` prints the settings of one.
"""

from __future__ import annotations

from collections.abc import Callable

from hvd_dqn.common.errors import UserError, did_you_mean
from hvd_dqn.config import Config
from hvd_dqn.presets import atari, atari_cpu, classic, driving, general, minatar, pqn

PRESETS: dict[str, Callable[[], Config]] = {
    **classic.PRESETS,
    **driving.PRESETS,
    **minatar.PRESETS,
    **atari.PRESETS,
    **atari_cpu.PRESETS,
    **pqn.PRESETS,
    **general.PRESETS,
}


def preset(name: str) -> Config:
    """Return the preset `name`. Raises `UserError` if there is none."""
    if name not in PRESETS:
        is_env_id = "/" in name or "-v" in name
        elsewhere = f"for an environment: --env.id {name}"
        raise UserError(
            f"unknown preset {name!r}", did_you_mean(name, PRESETS, elsewhere if is_env_id else "")
        )
    return PRESETS[name]()


def require_own_name(config: Config, start: str) -> None:
    """Raise `UserError` if `config`, which started from the preset `start`, bears another one's
    name: its settings would not be that preset's. Any other name is a label of the user's own.
    """
    name = config.preset
    if name != start and name in PRESETS:
        raise UserError(
            f"preset = {name!r} would only rename a run with the settings of {start!r}",
            f"start from it: hvd-dqn train {name}, or hvd_dqn.train({name!r})",
        )
