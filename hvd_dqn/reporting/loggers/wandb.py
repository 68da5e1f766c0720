"""Weights & Biases: one W&B run per run, also after a resume.

Reads WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME, WANDB_RUN_GROUP and WANDB_MODE. If nodes have no
network, set WANDB_MODE=offline and send the run later with `wandb sync`.
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
    """Writes to `wandb/` in the run directory; a process of wandb's own uploads it."""

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
        """Log a row of finite metrics. W&B ignores a row of an earlier step than its last, so
        records repeated after a resume do no harm.
        """
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._run.log({"env_steps": env_steps, **finite}, step=env_steps)

    def histograms(self, env_steps: int, values: Mapping[str, np.ndarray]) -> None:
        """Log each array as a histogram of 64 bins."""
        every = {
            name: wandb.Histogram(np_histogram=np.histogram(array, bins=64))
            for name, array in values.items()
        }
        self._run.log({"env_steps": env_steps, **every}, step=env_steps)

    def video(self, env_steps: int, path: Path) -> None:
        """Log the GIF as it is."""
        episode = wandb.Video(str(path), format="gif")
        self._run.log({"env_steps": env_steps, "video/episode": episode}, step=env_steps)

    def close(self, outcome: Outcome) -> None:
        """Upload the rest; mark a run that may be resumed as preempted."""
        if outcome == "stopped":
            self._run.mark_preempting()
        self._run.finish(exit_code=int(outcome == "stopped"))
