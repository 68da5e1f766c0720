"""TensorBoard: event files in `tensorboard/` of the run directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from hvd_dqn.reporting.loggers.logger import LoggedRun, Outcome

_COMPARED = ("evaluation/return_mean", "closing/return_mean")


class TensorBoard:
    """Writes all starts of a run to one directory; TensorBoard ignores what an earlier start logged
    after the checkpoint that this start resumes from.
    """

    def __init__(self, run: LoggedRun) -> None:
        self._writer: Any = SummaryWriter(
            str(run.directory / "tensorboard"),
            purge_step=run.env_steps + 1 if run.env_steps else 0,
        )
        settings = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in run.config.items()
        }
        self._events: Any = self._writer._get_file_writer()  # type: ignore[no-untyped-call]
        for summary in hparams(settings, dict.fromkeys(_COMPARED, 0.0)):  # type: ignore[no-untyped-call]
            self._events.add_summary(summary)

    def scalars(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Log a curve per metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, env_steps)

    def histograms(self, env_steps: int, values: Mapping[str, np.ndarray]) -> None:
        """Log a distribution per array."""
        for name, array in values.items():
            self._writer.add_histogram(name, array, env_steps)

    def video(self, env_steps: int, path: Path) -> None:
        """Log the GIF as an animated image."""
        with Image.open(path) as picture:
            width, height = picture.size
        image = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes()
        )
        summary = Summary(value=[Summary.Value(tag="video/episode", image=image)])
        self._events.add_summary(summary, env_steps)

    def close(self, outcome: Outcome) -> None:
        """Flush and close the file."""
        self._writer.close()
