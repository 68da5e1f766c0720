"""Follow a run from outside, by the files that it writes."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hvd_dqn.common.output import is_lost
from hvd_dqn.common.structs import Progress
from hvd_dqn.reporting.display import Countdown, Display, make_display
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.tools.runs import RecordReader, Run

_POLL_SECONDS = 0.5
_SILENCE_SECONDS = 60.0
_SILENT = (
    f"no record and no heartbeat for {_SILENCE_SECONDS:.0f} s: the run has stopped (run its "
    "command again to resume it), or its files are not visible on this host yet"
)
_EVALUATION, _FINAL = "evaluation/return_mean", "closing/return_mean"


def watch(
    path: Path,
    *,
    follow: bool = True,
    display: Display | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Show the newest figures of the run in `path`, once or, with `follow`, until it is finished.
    Return whether it is.

    Raises `UserError` if `path` is not a run directory.
    """
    run_dir, run = RunDirectory(path), Run(path)
    total = run.config.get("total_env_steps", 0)
    shown = _ShownRun(display or make_display(total), total)
    reader = RecordReader(run_dir.metrics_file)
    past = reader.read_new()
    shown.display.start(run.title, "", path, past[-1]["env_steps"] if past else 0)
    silent_since, has_warned = time.monotonic(), False
    try:
        shown.catch_up(past)
        if not follow and not shown.is_finished and not _is_alive(run_dir):
            shown.display.say(_SILENT)
        while follow and not shown.is_finished and not is_lost(sys.stdout):
            sleep(_POLL_SECONDS)
            new = reader.read_new()
            for record in new:
                shown.show(record)
            if new or _is_alive(run_dir):
                silent_since, has_warned = time.monotonic(), False
            elif not has_warned and time.monotonic() - silent_since > _SILENCE_SECONDS:
                has_warned = True
                shown.display.say(_SILENT)
        return shown.is_finished
    finally:
        shown.display.stop()


class _ShownRun:
    """Tells a display about a run, record by record, and keeps its best evaluation."""

    def __init__(self, display: Display, total_env_steps: int) -> None:
        self.display = display
        self._countdown = Countdown(total_env_steps)
        self.is_finished = False
        self._best: tuple[float, int] | None = None

    def catch_up(self, records: list[dict[str, Any]]) -> None:
        """Show the newest figures of `records`, and only the last evaluation of each kind."""
        newest: dict[str, Any] = {}
        last_evaluations: dict[str, dict[str, Any]] = {}
        for record in records:
            newest |= record
            self._countdown.seconds_left(record["env_steps"], record["seconds"])
            self._rank(record)
            last_evaluations |= {kind: record for kind in (_EVALUATION, _FINAL) if kind in record}
        if newest:
            training = {k: v for k, v in newest.items() if k not in (_EVALUATION, _FINAL)}
            self.show(training)
        for record in last_evaluations.values():
            self.show(record)
        self.is_finished = bool(records) and _FINAL in records[-1]

    def show(self, record: dict[str, Any]) -> None:
        """Show the next record."""
        metrics = {name: math.nan if value is None else value for name, value in record.items()}
        env_steps = record["env_steps"]
        if _EVALUATION in record or _FINAL in record:
            self._rank(record)
            self.display.evaluated(env_steps, metrics, self._best)
        else:
            left = self._countdown.seconds_left(env_steps, record["seconds"])
            self.display.update(Progress(env_steps, record["updates"]), metrics, left)
        self.is_finished = _FINAL in record

    def _rank(self, record: dict[str, Any]) -> None:
        """Keep the evaluation as the best one if it is; of equal ones the run keeps the newest."""
        mean = record.get(_EVALUATION)
        if mean is not None and (self._best is None or mean >= self._best[0]):
            self._best = mean, record["env_steps"]


def _is_alive(run_dir: RunDirectory) -> bool:
    """Return whether a rank has written a heartbeat lately."""
    now = time.time()
    try:
        ages = [now - file.stat().st_mtime for file in run_dir.heartbeats.glob("rank-*.json")]
    except OSError:
        return False
    return any(age < _SILENCE_SECONDS for age in ages)
