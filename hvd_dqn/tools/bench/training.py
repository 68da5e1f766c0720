"""How fast a preset trains, by the records that a real run writes of itself."""

from __future__ import annotations

import contextlib
import json
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
from hvd_dqn.training import train

WARM_UP = 3
"""Records that do not count: caches are cold, and the first of them began before the updates."""


def shortened(config: Config, *, records: int, world_size: int) -> Config:
    """The same run, with updates early, and of so many records; nothing is evaluated and no
    checkpoint saved but at its end.
    """
    period = config.logging.period_env_steps
    starts = min(config.learning_starts_env_steps, max(1_000, 2 * config.replay.batch_size))
    begins = config.changed({"learning_starts_env_steps": starts})
    total = begins.updates_start_env_steps(world_size) + (records + WARM_UP) * period
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
    """Env steps and updates a second, record by record, and shares of the time. Collective.

    `AgreedError` where a record is shorter than an iteration, and would hold nothing.
    """
    period, iteration = (
        config.logging.period_env_steps,
        config.env_steps_per_iteration(comm.world_size),
    )
    if period < iteration:
        raise AgreedError(
            f"logging.period_env_steps = {period} is less than the {iteration} env steps of an "
            "iteration, so that a record would hold nothing",
            f"--logging.period_env_steps={20 * iteration}",
        )
    config = shortened(config, records=records, world_size=comm.world_size)
    path = Path(comm.gather(str(default_path("bench")))[0])
    run_dir = RunDirectory(path)
    try:
        train(config, comm, run_dir, resume="never")
        lines = run_dir.metrics_file.read_text().splitlines() if comm.is_root else []
        files = run_dir.networks.rglob("*.safetensors")
        sizes = [path.stat().st_size for path in files]  # 4 bytes a parameter, and a short header
        shown = [json.loads(line) for line in comm.gather(lines)[0]]
    finally:
        if comm.is_root:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):  # others' runs are in there
                path.parent.rmdir()
    timed = [r for r in shown if "gradient/norm_mean" in r and "time/envs" in r]
    timed = timed[-records:]

    def of(name: str) -> list[float]:
        return [record[name] for record in timed]

    return {
        "preset": config.preset,
        "ranks": comm.world_size,
        "hosts": len(set(comm.gather(hostname()))),
        "threads": torch.get_num_threads(),
        "backend": comm.backend,
        "average": config.distributed.average,
        "num_envs": config.env.num_envs,
        "batch_size": config.replay.batch_size,
        "parameter_bytes": max(sizes, default=0),
        "env_steps_per_second": of("speed/env_steps_per_second"),
        "updates_per_second": of("speed/updates_per_second"),
        "shares": {stage: statistics.fmean(of(f"time/{stage}")) for stage in STAGES},
        "transfer_share": statistics.fmean(of("distributed/transfer_share")),
        "hidden_share": statistics.fmean(of("distributed/hidden_share")),
    }


def print_training(result: dict[str, Any]) -> None:
    """Two small tables."""
    ranks = result["ranks"]
    print_table(
        f"{result['preset']}, {ranks} rank{'s' if ranks > 1 else ''} ({result['backend']}), "
        f"{result['num_envs']} environments and batches of {result['batch_size']} each",
        ["a second", "median (least … greatest)"],
        [
            ["env steps", str(spread(result["env_steps_per_second"]))],
            ["updates", str(spread(result["updates_per_second"]))],
        ],
    )
    per_update = 1e3 / statistics.median(result["updates_per_second"])
    rows = [
        [stage, f"{share:.1%}", number(share * per_update)]
        for stage, share in result["shares"].items()
    ]
    rows.append(["(between sending and waiting)", f"{result['hidden_share']:.1%}",
                 number(result["hidden_share"] * per_update)])  # fmt: skip
    print_table("where the time goes, mean of all ranks",
                ["stage", "share", "ms an update"], rows)  # fmt: skip
