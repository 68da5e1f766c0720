"""Distributed deep Q-network training on MPI clusters, with Horovod."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvd_dqn.config import Config
    from hvd_dqn.distributed.launcher import environment_of_programs
    from hvd_dqn.interface import TrainedRun, train
    from hvd_dqn.policy import Policy, load_policy
    from hvd_dqn.presets import PRESETS
    from hvd_dqn.reporting.metrics import Event

__version__ = "0.2.0"
__all__ = [
    "PRESETS",
    "Config",
    "Event",
    "Policy",
    "TrainedRun",
    "__version__",
    "environment_of_programs",
    "load_policy",
    "train",
]
_HOMES = {
    "Config": "config",
    "Event": "reporting.metrics",
    "Policy": "policy",
    "PRESETS": "presets",
    "TrainedRun": "interface",
    "environment_of_programs": "distributed.launcher",
    "load_policy": "policy",
    "train": "interface",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `hvd-dqn --help` does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hvd_dqn' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"hvd_dqn.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, also those that are not imported yet."""
    return sorted(__all__)
