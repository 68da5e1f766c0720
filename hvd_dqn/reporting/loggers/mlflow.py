"""MLflow: one MLflow run per run, found by its tag `hvd_dqn.run_id` after a resume.

Reads MLflow's own environment variables: MLFLOW_TRACKING_URI and those that belong to it, and
MLFLOW_EXPERIMENT_NAME (default: hvd_dqn).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from hvd_dqn.reporting.loggers.logger import LoggedRun, Outcome

_TAG = "hvd_dqn.run_id"
_STATUS: dict[Outcome, str] = {"finished": "FINISHED", "stopped": "KILLED"}


class MLflow:
    """Sends every record at once; the loggers' thread waits for the server."""

    def __init__(self, run: LoggedRun) -> None:
        self._client = MlflowClient()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "hvd_dqn"))
        found = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{run.id}'")
        self._is_resumed = bool(found)
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._client.create_run(experiment, run_name=run.name).info.run_id
            self._client.log_batch(
                self._id,
                params=[Param(name, str(value)) for name, value in run.config.items()],
                tags=[RunTag(_TAG, run.id), RunTag("hvd_dqn.group", run.group)],
            )
        self._newest: dict[str, int] = {}

    def scalars(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Log the finite metrics that the run does not have yet at these env steps."""
        now = int(1000 * time.time())
        new = [
            Metric(name, value, now, env_steps)
            for name, value in metrics.items()
            if math.isfinite(value) and env_steps > self._newest_of(name)
        ]
        self._client.log_batch(self._id, metrics=new)

    def histograms(self, env_steps: int, values: Mapping[str, np.ndarray]) -> None:
        """Log nothing: MLflow has no histograms."""

    def video(self, env_steps: int, path: Path) -> None:
        """Log the video as an artifact."""
        self._client.log_artifact(self._id, str(path), "videos")

    def close(self, outcome: Outcome) -> None:
        """Set the status: FINISHED, or KILLED if the run may be resumed."""
        self._client.set_terminated(self._id, _STATUS[outcome])

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        try:
            return self._client.create_experiment(name)
        except MlflowException:
            made = self._client.get_experiment_by_name(name)
            if made is None:
                raise
            return made.experiment_id  # another job created it at the same time

    def _newest_of(self, name: str) -> int:
        """Env steps of a metric's last value before this start, −1 if it has none. Asks the server
        once per metric.
        """
        if not self._is_resumed:
            return -1
        if name not in self._newest:
            history = self._client.get_metric_history(self._id, name)
            self._newest[name] = max((metric.step for metric in history), default=-1)
        return self._newest[name]
