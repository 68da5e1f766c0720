"""Training speed, from the metrics that a real run records."""

from __future__ import annotations

import contextlib
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch

from hvd_dqn.common.errors import AgreedError
from hvd_dqn.common.stages import STAGES
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.communicator import hostname
from hvd_dqn.run.directory import RunDirectory, default_path
from hvd_dqn.tools.bench.report import number, print_table, spread
from hvd_dqn.tools.runs import read_records
from hvd_dqn.training import train

WARM_UP = 3
"""Records to discard: caches are cold, and the first record begins before the updates do."""


def shortened(config: Config, *, records: int, world_size: int) -> Config:
    """Shorten a run to `records` records after the warm-up.

    Updates start early; the run is evaluated and saved only at its end.
    """
    period = config.logging.period_env_steps
    starts = min(config.learning_starts_env_steps, max(1_000, 2 * config.batch_size))
    early = config.changed({"learning_starts_env_steps": starts})
    total = early.updates_start_env_steps(world_size) + (records + WARM_UP) * period
    return config.changed(
        {
            "learning_starts_env_steps": starts,
            "total_env_steps": total,
            "evaluation.period_env_steps": total,
            "evaluation.episodes": 1,
            "evaluation.final_episodes": 1,
            "evaluation.max_episode_steps": 1,
            "checkpoint.period_env_steps": total,
            "logging.loggers": (),
        }
    )


def measure_training(config: Config, comm: Communicator, *, records: int) -> dict[str, Any]:
    """Measure env steps and updates per second of each record, and the time share of each stage.

    Collective. Raises `AgreedError` if a record is shorter than an iteration.
    """
    _require_whole_iterations(config, comm)
    config = shortened(config, records=records, world_size=comm.world_size)
    metrics, parameter_bytes = _train_and_read(config, comm)
    timed = [r for r in metrics if "gradient/norm_mean" in r and "time/envs" in r]
    timed = timed[-records:]

    def each(name: str) -> list[float]:
        return [record[name] for record in timed]

    return {
        "preset": config.preset,
        "ranks": comm.world_size,
        "hosts": len(set(comm.gather(hostname()))),
        "threads": torch.get_num_threads(),
        "backend": comm.backend,
        "average": config.distributed.average,
        "num_envs": config.env.num_envs,
        "batch_size": config.batch_size,
        "parameter_bytes": parameter_bytes,
        "env_steps_per_second": each("speed/env_steps_per_second"),
        "updates_per_second": each("speed/updates_per_second"),
        "shares": {stage: statistics.fmean(each(f"time/{stage}")) for stage in STAGES},
        "transfer_share": statistics.fmean(each("distributed/transfer_share")),
        "hidden_share": statistics.fmean(each("distributed/hidden_share")),
    }


def _require_whole_iterations(config: Config, comm: Communicator) -> None:
    period = config.logging.period_env_steps
    iteration = config.env_steps_per_iteration(comm.world_size)
    if period < iteration:
        raise AgreedError(
            f"--logging.period-env-steps {period} is less than the {iteration} env steps of one "
            "iteration, so some records would be empty",
            f"pass --logging.period-env-steps {20 * iteration}",
        )


def _train_and_read(config: Config, comm: Communicator) -> tuple[list[dict[str, Any]], int]:
    """Train in a temporary run directory; returns the metrics and the size of all parameters."""
    run_dir = RunDirectory(Path(comm.gather(str(default_path("bench")))[0]))
    path = run_dir.path
    try:
        train(config, comm, run_dir, resume="never")
        found = (read_records(path), parameter_bytes_of(run_dir)) if comm.is_root else None
        metrics, parameter_bytes = comm.gather(found)[0]
    finally:
        if comm.is_root:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):  # the parent may hold other runs
                path.parent.rmdir()
    return metrics, parameter_bytes


def parameter_bytes_of(run_dir: RunDirectory) -> int:
    """Return the size of a run's parameters, by its saved networks."""
    files = run_dir.networks.rglob("*.safetensors")
    return max((file.stat().st_size for file in files), default=0)  # 4 per parameter, and a header


def print_training(result: dict[str, Any]) -> None:
    """Print the speed and the time of each stage as two tables."""
    ranks = result["ranks"]
    print_table(
        f"{result['preset']}, {ranks} rank{'s' if ranks > 1 else ''} ({result['backend']}), "
        f"{result['num_envs']} environments and batches of {result['batch_size']} each",
        ["per second", "median (min … max)"],
        [
            ["env steps", str(spread(result["env_steps_per_second"]))],
            ["updates", str(spread(result["updates_per_second"]))],
        ],
    )
    per_update = 1e3 / statistics.median(result["updates_per_second"])
    shares = {**result["shares"], "(between sending and waiting)": result["hidden_share"]}
    rows = [[stage, f"{share:.1%}", number(share * per_update)] for stage, share in shares.items()]
    print_table("time of each stage, mean of all ranks", ["stage", "share", "ms per update"], rows)
