"""Where the time of a rank goes."""

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
"""The loop's stages: choosing actions, stepping environments, keeping and drawing experience, both
passes through the networks, waiting for the ranks' sum, the optimizer's step and the target
network, records, checkpoints. Evaluations are left out."""


class StageClock:
    """Seconds spent in each stage since they were taken: the host's, which goes on where a GPU is
    still at work.
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """All time since the last lap went into this stage."""
        now = time.perf_counter()
        self._seconds[stage] += now - self._since
        self._since = now

    def restart(self) -> None:
        """The time since the last lap counts for nothing."""
        self._since = time.perf_counter()

    @property
    def seconds(self) -> dict[str, float]:
        """Of each stage so far."""
        return dict(self._seconds)

    def take(self) -> dict[str, float]:
        """Seconds of each stage, which begin at 0 again."""
        taken, self._seconds = self._seconds, dict.fromkeys(STAGES, 0.0)
        return taken

    def put_back(self, seconds: Mapping[str, float]) -> None:
        """Go on from these `seconds`, now."""
        self._seconds = dict(seconds)
        self.restart()
