"""What a logger is given and what it must take: the whole of the interface."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

Outcome = Literal["finished", "stopped"]
"""`stopped` is a run that may go on: asked to stop, or failed."""


class LoggedRun(NamedTuple):
    """The run that a logger follows.

    id: the same whenever the run goes on, and no other run's; name: its directory's; config: every
    setting by its name, `section.field`; env_steps: where it goes on from, 0 at its beginning.
    """

    id: str
    name: str
    directory: Path
    config: Mapping[str, Any]
    env_steps: int

    @property
    def group(self) -> str:
        """What its seeds have in common."""
        return f"{self.config['preset']} {self.config['env.id']}"


class Logger(Protocol):
    """Made with the `LoggedRun` at every start of it, on the root, and called in order, all on a
    thread of its own; the x-axis is env steps.

    A run that goes on from a checkpoint gives the same values at the same env steps again. What a
    logger raises when it is made ends a run before it begins; of one that goes on, and later, it
    ends only the logger, with a line.
    """

    def scalars(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Take a record; a number may be no number (NaN)."""
        ...

    def histograms(self, env_steps: int, values: Mapping[str, np.ndarray]) -> None:
        """Take arrays of any shape, by name."""
        ...

    def video(self, env_steps: int, path: Path) -> None:
        """Take an episode of the policy: a GIF."""
        ...

    def close(self, outcome: Outcome) -> None:
        """Write out what is held back."""
        ...
