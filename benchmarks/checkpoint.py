"""How long checkpoints delay training, and how much they write.

    python benchmarks/checkpoint.py cartpole --checkpoint.period-env-steps 1000

Runs a preset in this process with the options that follow its name, and times what the training
loop waits for: copying the state, and, at the next record, the rest of the writing.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from command import execute

from hvd_dqn.checkpoint import Saver
from hvd_dqn.commands.options import parse_train
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.tools.bench.report import print_table
from hvd_dqn.training import train


def timed(method: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Wrap `method` so that the duration of each call is appended to `seconds`."""

    def call(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        result = method(*arguments, **options)
        seconds.append(time.perf_counter() - began)
        return result

    return call


def main() -> None:
    """Train, and print the table."""
    config = parse_train([*sys.argv[1:], "--logging.loggers"]).config
    parts: dict[str, list[float]] = {"begin": [], "finish": [], "wait_before_overwriting": []}
    for name, seconds in parts.items():
        setattr(Saver, name, timed(getattr(Saver, name), seconds))
    with tempfile.TemporaryDirectory() as scratch:
        run_dir = RunDirectory(Path(scratch) / "run")
        began = time.perf_counter()
        summary = train(config, LocalCommunicator(), run_dir)
        whole = time.perf_counter() - began
        kept = sum(f.stat().st_size for f in run_dir.checkpoints.rglob("*") if f.is_file())
    count = len(parts["begin"])
    waits = [s for s in parts["finish"] if s > 1e-4]
    columns = [
        "preset",
        "checkpoints",
        "copying, median / max",
        "waiting for the disk, median / max",
        "share of the run",
        "kept",
    ]
    row = [
        f"{config.preset} ({summary.progress.env_steps:,} env steps)",
        str(count),
        milliseconds(parts["begin"]),
        milliseconds(waits),
        f"{sum(map(sum, parts.values())) / whole:.2%}",
        f"{kept / 1e6:.1f} MB",
    ]
    print_table("", columns, [row])


def milliseconds(seconds: list[float]) -> str:
    """Median and maximum."""
    if not seconds:
        return "–"
    return f"{1e3 * statistics.median(seconds):.1f} / {1e3 * max(seconds):.1f} ms"


if __name__ == "__main__":
    execute(main)
