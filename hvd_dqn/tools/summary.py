"""Several runs in one table, with the mean of their scores."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from hvd_dqn.common.numbers import mean_and_std
from hvd_dqn.tools.runs import Run


class RunSummary(NamedTuple):
    """Progress and score of one run. `return_mean` and `return_std` are those of the final
    evaluation (greedy, whole games), or `None` if the run is not finished.
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


def summarize(run: Run) -> RunSummary:
    """Return the progress and score of a run."""
    last = run.last_record
    return RunSummary(
        str(run.path),
        str(run.config.get("preset")),
        str(run.config["env"].get("id")),
        run.config.get("seed", 0),
        run.last_start.get("world_size", 1),
        last.get("env_steps", 0),
        last.get("updates", 0),
        last.get("seconds", 0.0),
        last.get("closing/return_mean"),
        last.get("closing/return_std"),
    )


def _score(run: RunSummary) -> str:
    if run.return_mean is None or run.return_std is None:
        return "not finished"
    return mean_and_std(run.return_mean, run.return_std)


def print_summaries(runs: list[RunSummary]) -> None:
    """Print one line per run, then the mean and standard deviation over the finished runs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "preset", "environment"):
        table.add_column(name)
    for name in ("seed", "ranks", "env steps", "updates", "seconds", "return"):
        table.add_column(name, justify="right")
    for run in runs:
        table.add_row(
            *(run.run, run.preset, run.env, str(run.seed), str(run.ranks)),
            *(f"{run.env_steps:,}", f"{run.updates:,}", f"{run.seconds:,.0f}"),
            _score(run),
        )
    scores = [run.return_mean for run in runs if run.return_mean is not None]
    if len(scores) > 1:
        spread = mean_and_std(statistics.fmean(scores), statistics.stdev(scores))
        table.add_section()
        table.add_row(f"{len(scores)} runs, mean ± std", *[""] * 7, spread)
    # Rows are never wrapped or cut, and text is printed as it is.
    Console(highlight=False, markup=False, emoji=False, width=1000).print(table)
