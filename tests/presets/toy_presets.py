"""Presets at toy size, for running the commands of the documentation unchanged, under any launcher:
`sitecustomize` of a sandbox calls `shrink`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvd_dqn.config import Config
from hvd_dqn.presets import PRESETS

_SIZE = {
    "total_env_steps": 1_200,
    "learning_starts_env_steps": 300,
    "evaluation.period_env_steps": 400,
    "evaluation.episodes": 2,
    "evaluation.final_episodes": 2,
    "evaluation.max_episode_steps": 30,
    "logging.period_env_steps": 200,
    "replay.capacity": 2_000,
    "network.hidden_sizes": (16,),
    "distributed.threads_per_rank": 1,
}


_SLOW = _SIZE | {
    "total_env_steps": 120,
    "learning_starts_env_steps": 60,
    "evaluation.episodes": 1,
    "evaluation.final_episodes": 1,
    "env.num_envs": 2,
}


def shrink() -> None:
    """Replace the presets of this process by versions that train for a few seconds."""
    for name in ("cartpole", "acrobot", "lunarlander"):
        PRESETS[name] = _small(PRESETS[name], _SIZE)
    PRESETS["highway"] = _small(PRESETS["highway"], _SLOW)


def _small(preset: Callable[[], Config], size: dict[str, Any]) -> Callable[[], Config]:
    def small() -> Config:
        return preset().changed(size)

    small.__doc__ = preset.__doc__
    return small
