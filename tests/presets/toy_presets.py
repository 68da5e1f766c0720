"""Presets of toy size. The `sitecustomize` module of a test's sandbox calls `shrink`, so that any
launcher runs documented commands as they are written, in a few seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvd_dqn.config import Config
from hvd_dqn.presets import PRESETS

_TOY = {
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

_TOY_FOR_SLOW_ENVIRONMENTS = _TOY | {
    "total_env_steps": 120,
    "learning_starts_env_steps": 60,
    "evaluation.episodes": 1,
    "evaluation.final_episodes": 1,
    "env.num_envs": 2,
}

_TOY_ROLLOUTS = {
    **{name: value for name, value in _TOY.items() if name != "replay.capacity"},
    "env.num_envs": 4,
    "rollout.steps": 8,
    "rollout.minibatches": 4,
}


def shrink() -> None:
    """Replace some presets of this process by toy ones that finish in a few seconds."""
    for name in ("cartpole", "acrobot", "lunarlander", "general"):
        PRESETS[name] = _changed(PRESETS[name], _TOY)
    PRESETS["cartpole-pqn"] = _changed(PRESETS["cartpole-pqn"], _TOY_ROLLOUTS)
    PRESETS["highway"] = _changed(PRESETS["highway"], _TOY_FOR_SLOW_ENVIRONMENTS)


def _changed(preset: Callable[[], Config], changes: dict[str, Any]) -> Callable[[], Config]:
    def toy() -> Config:
        return preset().changed(changes)

    toy.__doc__ = preset.__doc__
    return toy
