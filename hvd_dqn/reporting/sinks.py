"""Sinks write the records of a run; only the root has one that writes."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from hvd_dqn.common.files import publish
from hvd_dqn.common.structs import Progress
from hvd_dqn.reporting.loggers import Loggers
from hvd_dqn.reporting.metrics import Metrics


class Sink(Protocol):
    """Takes records, arrays and videos."""

    @property
    def position(self) -> int:
        """Bytes of records so far; a resumed run continues the file from there."""
        ...

    def write(self, progress: Progress, seconds: float, metrics: Metrics) -> None:
        """Write one record."""
        ...

    def histograms(self, env_steps: int, values: Mapping[str, np.ndarray]) -> None:
        """Pass arrays to the loggers, which log their distributions."""
        ...

    def video(self, env_steps: int, path: Path) -> None:
        """Pass a video file to the loggers."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class NullSink:
    """Ignores everything: for ranks other than the root."""

    position = 0

    def write(self, progress: Progress, seconds: float, metrics: Metrics) -> None:
        """Ignore the record."""

    def histograms(self, env_steps: int, values: Mapping[str, np.ndarray]) -> None:
        """Ignore the arrays."""

    def video(self, env_steps: int, path: Path) -> None:
        """Ignore the video."""

    def close(self) -> None:
        """Do nothing."""


class FileSink:
    """Writes `metrics.jsonl`, one JSON object per line, and passes records to the loggers.

    A resumed run truncates the file to the `position` of its checkpoint; if it is a link (DVC,
    git-annex), a copy replaces it. If the disk refuses a record, it is kept in memory and written
    with the next one.
    """

    def __init__(self, run_dir: Path, loggers: Loggers, *, position: int = 0) -> None:
        self._loggers = loggers
        path = run_dir / "metrics.jsonl"
        if path.is_symlink():
            publish(path, path.read_bytes())
        self._file = path.open("ab+", buffering=0)
        self._file.seek(0)
        whole_lines = self._file.read(position).rpartition(b"\n")
        self._position = len(whole_lines[0] + whole_lines[1])
        self._file.truncate(self._position)
        self._unwritten = b""

    @property
    def position(self) -> int:
        """See `Sink.position`."""
        return self._position

    def write(self, progress: Progress, seconds: float, metrics: Metrics) -> None:
        """Append one line and pass the metrics to the loggers. NaN and infinity are written as
        `null`.
        """
        record = {
            "env_steps": progress.env_steps,
            "updates": progress.updates,
            "seconds": round(seconds, 3),
        }
        # JSON has no NaN.
        numbers = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        line = (json.dumps(record | numbers, allow_nan=False) + "\n").encode()
        self._position += len(line)
        self._unwritten += line
        self._try_to_write()
        self._loggers.scalars(progress.env_steps, metrics)

    def histograms(self, env_steps: int, values: Mapping[str, np.ndarray]) -> None:
        """See `Sink.histograms`."""
        self._loggers.histograms(env_steps, values)

    def video(self, env_steps: int, path: Path) -> None:
        """See `Sink.video`."""
        self._loggers.video(env_steps, path)

    def close(self) -> None:
        """Write what is left, then close the file and the loggers."""
        self._try_to_write()
        self._file.close()
        self._loggers.close()

    def _try_to_write(self) -> None:
        with contextlib.suppress(OSError):
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
