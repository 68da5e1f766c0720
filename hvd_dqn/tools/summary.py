"""Several runs in one table, and their mean."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from hvd_dqn.tools.runs import read_facts, read_metrics


class RunSummary(NamedTuple):
    """Where a run is; `return_mean` and `return_std` are those of its closing evaluation, over
    greedy whole-game episodes, or `None` where it has not come to that.
    """

    run: str
    preset: str
    env: str
    seed: int
    ranks: int
    env_steps: int
    updates: int
    seconds: float
    return_mean: float | None
    return_std: float | None


def summarize(path: Path) -> RunSummary:
    """`UserError` where it is no run directory."""
    config, facts = read_facts(path)
    records = read_metrics(path)
    last = records[-1] if records else {}
    return RunSummary(
        str(path),
        config["preset"],
        config["env"]["id"],
        config["seed"],
        facts.get("resumed", [facts])[-1]["world_size"],
        last.get("env_steps", 0),
        last.get("updates", 0),
        last.get("seconds", 0.0),
        last.get("closing/return_mean"),
        last.get("closing/return_std"),
    )


def print_summaries(runs: list[RunSummary]) -> None:
    """A line a run, and one for the mean and the standard deviation of the runs that are over."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "preset", "environment"):
        table.add_column(name)
    for name in ("seed", "ranks", "env steps", "updates", "seconds", "return"):
        table.add_column(name, justify="right")
    for run in runs:
        over = run.return_mean is not None and run.return_std is not None
        table.add_row(
            *(run.run, run.preset, run.env, str(run.seed), str(run.ranks)),
            *(f"{run.env_steps:,}", f"{run.updates:,}", f"{run.seconds:,.0f}"),
            f"{run.return_mean:.1f} ± {run.return_std:.1f}" if over else "not over",
        )
    scores = [run.return_mean for run in runs if run.return_mean is not None]
    if len(scores) > 1:
        spread = f"{statistics.fmean(scores):.1f} ± {statistics.stdev(scores):.1f}"
        table.add_section()
        table.add_row(f"{len(scores)} runs, mean ± std", *[""] * 7, spread)
    Console(highlight=False, width=1000).print(table)  # lines as long as they are
