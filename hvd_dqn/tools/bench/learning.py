"""What more ranks buy: how much experience and how many updates N ranks need to reach a score.

N ranks with n environments and batches of B learn as one rank with N·n environments and batches of
N·B, so one process computes what any number of ranks would learn. Only their seconds are predicted.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hvd_dqn.common.errors import RunError, UserError
from hvd_dqn.common.files import replacing
from hvd_dqn.config import Config
from hvd_dqn.methods.schedules import world_size_factor
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.tools.bench.allreduce import SumModel
from hvd_dqn.tools.bench.launched import Keep
from hvd_dqn.tools.bench.report import number, print_table, say
from hvd_dqn.tools.bench.training import parameter_bytes_of
from hvd_dqn.tools.drawing import load_matplotlib
from hvd_dqn.tools.launching.launchers import environment
from hvd_dqn.tools.runs import read_records

RULES = ("none", "sqrt", "linear")
"""How the learning rate grows with the ranks; `linear` warms up (Goyal et al. 2017)."""
_WARMUP = 0.05
"""Part of the updates over which `linear` warms up, if the preset has no warm-up of its own."""


class Network(NamedTuple):
    """What sums over ranks take: seconds of a message, and bytes per second."""

    latency: float
    bandwidth: float

    def sum_seconds(self, ranks: int, size: int) -> float:
        """Seconds of a ring's sum of `size` bytes."""
        if ranks == 1:
            return 0.0
        return SumModel(2, 2 * self.latency, 1 / self.bandwidth).ring(ranks, size)


def require_equivalent(config: Config) -> None:
    """Raise `UserError` if N ranks do not learn as one rank with N times as many environments."""
    average = config.distributed.average
    if average in ("parameters", "server"):
        raise UserError(
            f"distributed.average = {average!r}: N ranks are not one rank with a batch N times as "
            "large",
            "leave it gradients or delayed_gradients",
        )


def equivalent(config: Config, ranks: int, rule: str) -> dict[str, Any]:
    """Return the settings with which one rank learns what `ranks` ranks would."""
    optimizer = config.changed({"optimizer.world_size_scaling": rule}).optimizer
    changes: dict[str, Any] = {
        "env.num_envs": ranks * config.env.num_envs,
        "optimizer.learning_rate": optimizer.learning_rate * world_size_factor(optimizer, ranks),
        "optimizer.world_size_scaling": "none",
    }
    if not config.rollout.steps:  # whose batches grow with the environments
        changes["replay.batch_size"] = ranks * config.replay.batch_size
        changes["replay.capacity"] = ranks * config.replay.capacity
    if rule == "linear" and ranks > 1 and not optimizer.warmup_updates:
        changes["optimizer.warmup_updates"] = round(_WARMUP * config.planned_updates(ranks))
    return changes


def measure_learning(
    words: Sequence[str],
    config: Config,
    *,
    ranks: Sequence[int],
    rules: Sequence[str],
    seeds: Iterable[int],
    score: float,
    directory: Path,
    keep: Keep,
) -> dict[str, Any]:
    """Train the preset and options `words` as every number of ranks would, with every rule and
    seed. Runs are kept in `directory`, and continue if they are there.

    Raises `RunError` if a run fails.
    """
    require_equivalent(config)
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        for count in ranks:
            for rule in rules if count > 1 else ("none",):
                if config.planned_updates(count) == 0:
                    say(f"{count} ranks make no update within {config.total_env_steps:,} env steps")
                    continue
                changes = equivalent(config, count, rule)
                place = directory / f"{rule}-{count}-ranks-seed-{seed}"
                runs.append(
                    {"ranks": count, "rule": rule, "seed": seed}
                    | _train([*words, f"--seed={seed}"], changes, place, score)
                )
                say(_told(runs[-1]))
                keep({"preset": config.preset, "score": score, "runs": runs})
    return {"preset": config.preset, "score": score, "runs": runs}


def _train(words: Sequence[str], changes: dict[str, Any], place: Path, score: float) -> Any:
    options = [f"--{name}={value}" for name, value in changes.items()]
    done = subprocess.run(
        [sys.executable, "-m", "hvd_dqn", "train", *words, *options, "--run-dir", str(place)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        check=False,
    )
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr)
        raise RunError(f"the run in {place} failed with exit code {done.returncode} (output above)")
    records = read_records(place)
    reached = next((r for r in records if r.get("evaluation/return_mean", -1e300) >= score), None)
    speeds = [r["speed/updates_per_second"] for r in records if "speed/updates_per_second" in r]
    return {
        "reached_env_steps": reached and reached["env_steps"],
        "reached_updates": reached and reached["updates"],
        "closing_mean": records[-1].get("closing/return_mean"),
        "updates_per_second": statistics.median(speeds[1:] or speeds),
        "parameter_bytes": parameter_bytes_of(RunDirectory(place)),
    }


def _told(run: dict[str, Any]) -> str:
    at = run["reached_env_steps"]
    what = "not reached" if at is None else f"{at:,} env steps, {run['reached_updates']:,} updates"
    return f"{run['ranks']} ranks, {run['rule']}, seed {run['seed']}: {what}"


class Row(NamedTuple):
    """Learning by one number of ranks with one rule, over the seeds that reached the score."""

    ranks: int
    rule: str
    seeds: int
    reached: int
    env_steps: float
    updates: float
    seconds: float
    """Predicted; the medians and this are NaN if no seed reached the score."""


def rows_of(
    result: dict[str, Any], network: Network, update_seconds: float | None = None
) -> list[Row]:
    """Return a row for each number of ranks and rule. An update takes `update_seconds`, with its
    part of the environments' steps; `None`: what was measured on one rank.
    """
    runs = result["runs"]
    size = runs[0]["parameter_bytes"]
    alone = [1 / run["updates_per_second"] for run in runs if run["ranks"] == 1]
    update = statistics.median(alone) if update_seconds is None else update_seconds
    rows = []
    for ranks, rule in dict.fromkeys((run["ranks"], run["rule"]) for run in runs):
        these = [run for run in runs if (run["ranks"], run["rule"]) == (ranks, rule)]
        good = [run for run in these if run["reached_updates"] is not None]
        env_steps, updates = (
            statistics.median(run[name] for run in good) if good else float("nan")
            for name in ("reached_env_steps", "reached_updates")
        )
        seconds = updates * (update + network.sum_seconds(ranks, size))
        rows.append(Row(ranks, rule, len(these), len(good), env_steps, updates, seconds))
    return rows


def print_learning(result: dict[str, Any], rows: Sequence[Row], network: Network) -> None:
    """Print a table."""
    alone = next((row.seconds for row in rows if row.ranks == 1), float("nan"))
    print_table(
        f"{result['preset']} to a mean return of {result['score']:g}: medians over the seeds that "
        f"reach it; seconds are predicted for messages of {1e6 * network.latency:g} µs and "
        f"{network.bandwidth / 1e9:g} GB/s",
        [
            "ranks",
            "learning rate",
            "seeds",
            "env steps",
            "updates",
            "seconds",
            "times as fast as one rank",
        ],
        [
            [
                str(row.ranks),
                "–" if row.ranks == 1 else row.rule,
                f"{row.reached} of {row.seeds}",
                number(row.env_steps),
                number(row.updates),
                number(row.seconds),
                number(alone / row.seconds),
            ]
            for row in rows
        ],
    )


def plot_learning(result: dict[str, Any], rows: Sequence[Row], path: Path) -> None:
    """Draw env steps and updates to the score over the number of ranks."""
    load_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    first = [row for row in rows if row.ranks == 1]
    for place, (name, label) in enumerate(
        (("env_steps", "env steps to the score"), ("updates", "updates to the score")), start=1
    ):
        axes = figure.add_subplot(1, 2, place)
        for rule in dict.fromkeys(row.rule for row in rows if row.ranks > 1):
            line = [*first, *(row for row in rows if row.ranks > 1 and row.rule == rule)]
            values = [getattr(row, name) for row in line]
            axes.plot([row.ranks for row in line], values, "o-", label=f"learning rate: {rule}")
        axes.set(xscale="log", yscale="log", xlabel="ranks", ylabel=label)
        axes.minorticks_off()
        axes.set_xticks(sorted({row.ranks for row in rows}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2, 3, 5, 7, 9), numticks=20))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3, which="both")
    figure.axes[0].legend(fontsize="small")
    figure.suptitle(f"{result['preset']}: to a mean return of {result['score']:g}")
    with replacing(path) as file:
        figure.savefig(file, dpi=150)
