"""Weights & Biases: one run there, whenever the run goes on here.

Of its own variables these hold: WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME, WANDB_RUN_GROUP, and
WANDB_MODE=offline where nodes have no network (`wandb sync` sends it later).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import wandb

from hvd_dqn.reporting.loggers.logger import LoggedRun, Outcome


class WeightsAndBiases:
    """Its service keeps files in `wandb/` of the run directory and sends them in a process of its
    own.
    """

    def __init__(self, run: LoggedRun) -> None:
        self._run = wandb.init(
            id=run.id,
            resume="allow",
            name=os.environ.get("WANDB_NAME", run.name),
            project=os.environ.get("WANDB_PROJECT", "hvd_dqn"),
            group=os.environ.get("WANDB_RUN_GROUP", run.group),
            config=dict(run.config),
            allow_val_change=True,
            dir=str(run.directory),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("*", step_metric="env_steps")

    def scalars(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """A row; the service leaves out one before the last it has, which a run that goes on from a
        checkpoint repeats.
        """
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._run.log({"env_steps": env_steps, **finite}, step=env_steps)

    def histograms(self, env_steps: int, values: Mapping[str, np.ndarray]) -> None:
        """64 bins each."""
        every = {
            name: wandb.Histogram(np_histogram=np.histogram(array, bins=64))
            for name, array in values.items()
        }
        self._run.log({"env_steps": env_steps, **every}, step=env_steps)

    def video(self, env_steps: int, path: Path) -> None:
        """As it is."""
        episode = wandb.Video(str(path), format="gif")
        self._run.log({"env_steps": env_steps, "video/episode": episode}, step=env_steps)

    def close(self, outcome: Outcome) -> None:
        """Send what is left; a run that may go on is marked as preempted."""
        if outcome == "stopped":
            self._run.mark_preempting()
        self._run.finish(exit_code=int(outcome == "stopped"))
