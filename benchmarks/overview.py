"""Draw the picture at the top of README.md from the results that are committed beside this script.

    python benchmarks/overview.py [--output docs/overview.png]

Learning curves come from `results/PRESET-curves-RANKSranks.json`, written by

    python benchmarks/learning.py cartpole --threshold 475 --seeds 5 --ranks 1 2 --label curves

and the scaling from `results/scaling*.json`, written by `hvd-dqn bench scaling`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))

from hvd_dqn.tools.bench.allreduce import SumModel
from hvd_dqn.tools.bench.launched import efficiencies, rates
from hvd_dqn.tools.bench.predictions import predict
from hvd_dqn.tools.bench.report import spread

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Okabe & Ito's palette: readers with a colour vision deficiency can tell these apart.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555"
RANKS = (1, 2, 4, 8, 16, 64, 256)
ALLREDUCES = {"2·log N messages": (SumModel.halving, "o--"), "ring": (SumModel.ring, "s:")}
LINE: dict[str, Any] = {"markersize": 4, "linewidth": 1.2}
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e5e5",
    "legend.fontsize": 8.5,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
}


def main() -> None:
    """Draw the learning curves and the scaling side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "overview.png")
    arguments = parser.parse_args()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.2), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        draw_curves(left, "cartpole", "CartPole-v1: learning")
        draw_scaling(right)
        figure.savefig(arguments.output, dpi=200)


def draw_curves(axes: Axes, preset: str, title: str) -> None:
    """Draw the returns of greedy evaluations over env steps, on one rank and on two: a thin line
    for each seed, a thick one for their mean, and the score to reach.
    """
    for ranks, color in ((1, BLUE), (2, ORANGE)):
        facts = read(f"{preset}-curves-{ranks}ranks.json")
        score = facts["threshold"]
        curves = [run["evaluations"] for run in facts["runs"]]
        steps = [env_steps / 1000 for env_steps, _ in curves[0]]
        returns = [[value for _, value in curve] for curve in curves]
        for values in returns:
            axes.plot(steps, values, color=color, linewidth=0.8, alpha=0.35)
        means = [statistics.fmean(values) for values in zip(*returns, strict=True)]
        label = f"{ranks} rank{'s' if ranks > 1 else ''}: mean of {len(curves)} seeds"
        axes.plot(steps, means, color=color, linewidth=2.2, label=label)
    axes.axhline(score, color=GREY, linewidth=1.2, linestyle="--", label=f"solved: {score:.0f}")
    axes.set(title=title, xlabel="env steps (thousands)", ylabel="return of greedy episodes")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.legend(loc="lower right")


def draw_scaling(axes: Axes) -> None:
    """Draw the efficiency of weak scaling: bars for one and two ranks as measured, with the range
    over the rounds, and a line for the prediction with each allreduce algorithm.
    """
    width = 0.36
    for offset, backend, file, color in (
        (-width / 2, "horovod", "scaling.json", GREEN),
        (width / 2, "mpi", "scaling-mpi.json", PURPLE),
    ):
        result = read(file)
        one, two = (rates(result["runs"], ranks, mode="weak") for ranks in (1, 2))
        measured = spread(efficiencies(two, 2, one))
        heights, places = [1.0, measured.median], [offset, 1 + offset]
        axes.bar(places, heights, width * 0.92, color=color, label=f"{backend}, measured")
        errors = [[measured.median - measured.low], [measured.high - measured.median]]
        axes.errorbar(
            places[1:], heights[1:], errors, fmt="none", ecolor="black", elinewidth=1, capsize=3
        )
        for seconds_of, style in ALLREDUCES.values():
            predicted = [p.exact for p in predict(result, RANKS[2:], seconds_of)]
            axes.plot(range(2, len(RANKS)), predicted, style, color=color, **LINE)
    for name, (_, style) in ALLREDUCES.items():
        axes.plot([], [], style, color=GREY, **LINE, label=f"predicted: {name}")
    axes.set(title="Weak scaling: CartPole, 68k parameters", xlabel="ranks", ylabel="efficiency")
    axes.set(xticks=range(len(RANKS)), xticklabels=[str(n) for n in RANKS], ylim=(0, 1.05))
    axes.grid(visible=False, axis="x")
    axes.legend(loc="lower left", bbox_to_anchor=(0.3, 0.0))


def read(name: str) -> Any:
    """Return the content of one of the committed results."""
    return json.loads((RESULTS / name).read_text())


if __name__ == "__main__":
    main()
