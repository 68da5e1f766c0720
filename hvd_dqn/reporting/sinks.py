"""Where a run's records are written, on the root."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from hvd_dqn.common.structs import Progress
from hvd_dqn.reporting.loggers import Loggers
from hvd_dqn.reporting.metrics import Metrics


class Sink(Protocol):
    """Takes what a run says of itself."""

    @property
    def position(self) -> int:
        """Bytes of records written so far, to be taken up again from there."""
        ...

    def write(self, progress: Progress, seconds: float, metrics: Metrics) -> None:
        """Keep one record."""
        ...

    def histograms(self, env_steps: int, values: Mapping[str, np.ndarray]) -> None:
        """Hand arrays on to whoever draws their distributions."""
        ...

    def video(self, env_steps: int, path: Path) -> None:
        """Hand an episode on to whoever shows it."""
        ...

    def close(self) -> None:
        """Write out what is held back."""
        ...


class NullSink:
    """For the ranks that do not write."""

    position = 0

    def write(self, progress: Progress, seconds: float, metrics: Metrics) -> None:
        """Keep nothing."""

    def histograms(self, env_steps: int, values: Mapping[str, np.ndarray]) -> None:
        """Nobody draws them."""

    def video(self, env_steps: int, path: Path) -> None:
        """Nobody shows it."""

    def close(self) -> None:
        """Nothing is held back."""


class FileSink:
    """`metrics.jsonl`, one object a line, and loggers besides.

    A run that goes on takes up the file at the byte where its checkpoint left it. What the disk
    does not take is kept and tried again with the next record.
    """

    def __init__(self, run_dir: Path, loggers: Loggers, *, position: int = 0) -> None:
        self._loggers = loggers
        self._file = (run_dir / "metrics.jsonl").open("ab+", buffering=0)
        self._file.seek(0)
        whole_lines = self._file.read(position).rpartition(b"\n")
        self._position = len(whole_lines[0] + whole_lines[1])
        self._file.truncate(self._position)
        self._unwritten = b""

    @property
    def position(self) -> int:
        """See `Sink`."""
        return self._position

    def write(self, progress: Progress, seconds: float, metrics: Metrics) -> None:
        """Append one line, and tell the loggers."""
        record = {
            "env_steps": progress.env_steps,
            "updates": progress.updates,
            "seconds": round(seconds, 3),
        }
        # JSON has no NaN: what is not a number is null.
        numbers = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        line = (json.dumps(record | numbers, allow_nan=False) + "\n").encode()
        self._position += len(line)
        self._unwritten += line
        self._try_to_write()
        self._loggers.scalars(progress.env_steps, metrics)

    def histograms(self, env_steps: int, values: Mapping[str, np.ndarray]) -> None:
        """See `Sink`."""
        self._loggers.histograms(env_steps, values)

    def video(self, env_steps: int, path: Path) -> None:
        """See `Sink`."""
        self._loggers.video(env_steps, path)

    def close(self) -> None:
        """Flush and close all."""
        self._try_to_write()
        self._file.close()
        self._loggers.close()

    def _try_to_write(self) -> None:
        with contextlib.suppress(OSError):
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
