"""Runs of a second or two, for tests of what reads runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.training import train
from tests.distributed.workers import small_config

_SHORT = {
    "total_env_steps": 48,
    "learning_starts_env_steps": 24,
    "evaluation.episodes": 1,
    "evaluation.final_episodes": 1,
    "evaluation.max_episode_steps": 20,
}


def run_of(path: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Train a short run in `path`. Return `path`."""
    config = small_config().changed(_SHORT | dict(changes or {}))
    train(config, LocalCommunicator(), RunDirectory(path))
    return path
