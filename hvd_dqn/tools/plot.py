"""Learning curves from `metrics.jsonl`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hvd_dqn.errors import UserError
from hvd_dqn.tools.runs import read_facts, read_metrics, title_of

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f")


def plot_runs(run_dirs: list[Path], output: Path) -> None:
    """Returns over env steps: the median training episode with the 10th to 90th percentile over
    episodes of all ranks, and the greedy evaluations with one standard deviation. Several runs
    share one picture. `UserError` where a run holds no metrics.
    """
    # The object interface: no global state and no window, whatever the user's matplotlib settings
    # are.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, path in enumerate(run_dirs):
        _draw(axes, path, _COLOURS[number % len(_COLOURS)], several=len(run_dirs) > 1)
    axes.set_xlabel("env steps (all ranks)")
    axes.set_ylabel("episode return (undiscounted, unclipped)")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize="small")
    if len(run_dirs) == 1:
        axes.set_title(title_of(*read_facts(run_dirs[0])), fontsize="medium")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"the picture cannot be written to {output}: {error}") from error


def _draw(axes: Any, path: Path, colour: str, *, several: bool) -> None:
    records = read_metrics(path)
    training = [r for r in records if r.get("episode/return_median") is not None]
    evaluations = [r for r in records if r.get("evaluation/return_mean") is not None]
    if not training and not evaluations:
        raise UserError(f"{path} holds no finished episode and no evaluation yet: nothing to draw")
    label = f"{path.name}: " if several else ""
    steps = [r["env_steps"] for r in training]
    axes.plot(
        steps,
        [r["episode/return_median"] for r in training],
        color=colour,
        lw=1,
        alpha=0.7,
        label=f"{label}training, median",
    )
    low, high = ([r[f"episode/return_{p}"] for r in training] for p in ("p10", "p90"))
    axes.fill_between(
        steps,
        low,
        high,
        color=colour,
        alpha=0.15,
        lw=0,
        label=f"{label}training, 10–90 % of episodes",
    )
    axes.errorbar(
        [r["env_steps"] for r in evaluations],
        [r["evaluation/return_mean"] for r in evaluations],
        yerr=[r["evaluation/return_std"] for r in evaluations],
        color=colour, marker="o", ms=4, lw=1.5, capsize=2, label=f"{label}greedy evaluation, mean "
                                                                 "± std",
    )  # fmt: skip
