"""The interface of a logger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

Outcome = Literal["finished", "stopped"]
"""`stopped`: the run was asked to stop, or failed; it may be resumed."""


class LoggedRun(NamedTuple):
    """The run that a logger records.

    id: unique to the run and the same after every resume; name: the run directory's name; config:
    every option by its name, `section.field`; env_steps: the env steps that the run is resumed
    from, 0 for a new run.
    """

    id: str
    name: str
    directory: Path
    config: Mapping[str, Any]
    env_steps: int

    @property
    def group(self) -> str:
        """A name for all runs that share preset and environment, such as the seeds of a study."""
        return f"{self.config['preset']} {self.config['env.id']}"


class Logger(Protocol):
    """Sends the records of a run to a tracker. A logger is a class in a file of its own.

    A class of your own needs no registration: `--logging.loggers module:Class`, with `module` on
    Python's path. A logger in this package has one more line, its name and `module:Class` in
    `config.running.LOGGERS`.

    The root calls the class with the `LoggedRun` whenever a run starts or is resumed, then the
    methods in order, all on one thread that loggers share. The x-axis is env steps. After a resume,
    records since the last checkpoint are sent again, with the same values at the same env steps.

    An error raised by the constructor ends a new run before it starts, as does a constructor that
    takes more than two minutes. Any later error, and any error in a resumed run, costs only the
    logger: a line on stderr names it, `close("stopped")` is called, and training continues.
    """

    def scalars(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Log a record: numbers by metric name, NaN and infinity included."""
        ...

    def histograms(self, env_steps: int, values: Mapping[str, np.ndarray]) -> None:
        """Log the distributions of arrays of any shape, by name (with `--logging.histograms`)."""
        ...

    def video(self, env_steps: int, path: Path) -> None:
        """Log an episode of the greedy policy, a GIF (with `--logging.video`)."""
        ...

    def close(self, outcome: Outcome) -> None:
        """Flush and close, within 60 s, or 10 s if the run did not finish."""
        ...
