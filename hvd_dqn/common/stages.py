"""Measures the time that a rank spends in each stage of the loop."""

from __future__ import annotations

import time
from collections.abc import Mapping

STAGES = (
    "acting",
    "envs",
    "replay",
    "gradients",
    "averaging",
    "step",
    "records",
    "checkpoints",
)
"""The stages of the loop: choosing actions; stepping environments; adding to and sampling from the
replay; both passes through the networks; waiting for the sum over ranks; the optimizer's step and
the target network; records; checkpoints. Evaluations are excluded.
"""


class StageClock:
    """Seconds spent in each stage since the last `take`. They are the host's: a GPU may still be
    computing.
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to `stage`."""
        now = time.perf_counter()
        self._seconds[stage] += now - self._since
        self._since = now

    def restart(self) -> None:
        """Discard the time since the last lap."""
        self._since = time.perf_counter()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far."""
        return dict(self._seconds)

    def take(self) -> dict[str, float]:
        """Return the seconds of each stage, and reset them to 0."""
        taken, self._seconds = self._seconds, dict.fromkeys(STAGES, 0.0)
        return taken

    def put_back(self, seconds: Mapping[str, float]) -> None:
        """Continue from these `seconds`."""
        self._seconds = dict(seconds)
        self.restart()
