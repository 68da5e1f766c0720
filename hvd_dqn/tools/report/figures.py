"""Which curves each figure shows, for the page (`svg`) and for image files (`tools.plot`)."""

from __future__ import annotations

import re
from typing import NamedTuple

from hvd_dqn.tools.report.curves import Curve, Group, columns, metric_curve
from hvd_dqn.tools.runs import Run

LIGHT = ("#0b62a8", "#b3261e", "#1b7a3d", "#7a3e9d", "#a15c00", "#00717a", "#a3316f", "#555b66")
DARK = ("#6cb4f0", "#ff8a80", "#6fd08c", "#c99bea", "#f0b35a", "#56cfd8", "#f08fc0", "#b0b6c0")
"""Colours of lines on a light and on a dark background."""
RETURN = "return"
_INFO = "info/"
_METRICS = {
    "epsilon": ("Exploration rate ε", "exploration/epsilon"),
    "loss": ("Loss", None),
    "q-values": ("Q-value of the actions in the batches", "q/taken_mean"),
    "td-error": ("Absolute TD error", "td/abs_error_mean"),
    "gradient-norm": ("Gradient norm before clipping", "gradient/norm_mean"),
    "speed": ("Env steps per second, all ranks", "speed/env_steps_per_second"),
    "replay-age": ("Age of sampled transitions, in env steps", "replay/age_env_steps"),
    "replay-ratio": ("Samples drawn per env step", "replay/ratio"),
    "waiting": ("Fraction of time waiting for other ranks", "time/averaging"),
}
"""Title and metric of each figure; the name of the loss depends on the configuration."""
FIGURES = (RETURN, *_METRICS)


class Line(NamedTuple):
    """One curve of a figure. `colour` is an index into `LIGHT` and `DARK`; `marked` draws a dot at
    each point; `faint` is for single seeds beside their mean.
    """

    label: str
    curve: Curve
    colour: int
    marked: bool = False
    faint: bool = False


class Figure(NamedTuple):
    """The lines of one figure."""

    name: str
    title: str
    lines: list[Line]


def make_figures(runs: list[Run], groups: list[Group]) -> list[Figure]:
    """Return the figures for which the runs have data, in the order of `FIGURES`, then one for each
    number of infos.
    """
    returns = _returns_of_run(runs[0]) if len(runs) == 1 else _returns_of_groups(groups)
    figures = [Figure(RETURN, "Episode return", returns)]
    for name, (title, metric) in _METRICS.items():
        lines = []
        for index, group in enumerate(groups):
            if name == "waiting" and group.runs[0].last_start.get("world_size") == 1:
                continue
            own = metric or _loss_name(group)
            curve = group.curve(own)
            if curve is not None:
                lines.append(Line(_legend(group, own), curve, index % len(LIGHT)))
        figures.append(Figure(name, title, lines))
    figures += _figures_of_infos(runs, groups)
    return [figure for figure in figures if figure.lines]


def _figures_of_infos(runs: list[Run], groups: list[Group]) -> list[Figure]:
    recorded = {name for run in runs for record in run.records for name in record}
    figures = []
    for metric in sorted(name for name in recorded if name.startswith(_INFO)):
        key, lines = metric.removeprefix(_INFO), []
        for index, group in enumerate(groups):
            sources = [(metric, _legend(group, metric), index)]
            if len(groups) == 1:
                sources = [(metric, "training episodes", 1)]
                sources += [(f"evaluation/{metric}", "greedy evaluation", 0)]
            for name, label, colour in sources:
                curve = group.curve(name)
                if curve is not None:
                    lines.append(Line(label, curve, colour % len(LIGHT), marked=colour == 0))
        slug = re.sub(r"[^A-Za-z0-9_.]+", "-", key)
        figures.append(Figure(f"info-{slug}", f"{key}, at the end of episodes", lines))
    return figures


def short_number(value: float) -> str:
    """Format a value with three digits and a unit: `12.5k`."""
    size = abs(value)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= 0.9995 * unit:  # three digits would round it up to the unit
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def _returns_of_run(run: Run) -> list[Line]:
    lines = []
    median, low, high = (f"episode/return_{name}" for name in ("median", "p10", "p90"))
    training = columns(run, median, low, high)
    if training is not None:
        steps, seconds = training["env_steps"], training["seconds"]
        curve = Curve(steps, seconds, training[median], training[low], training[high])
        lines.append(Line("training episodes: median, 10th to 90th percentile", curve, 1))
    mean, std = "evaluation/return_mean", "evaluation/return_std"
    evaluated = columns(run, mean, std)
    if evaluated is not None:
        around = evaluated[mean] - evaluated[std], evaluated[mean] + evaluated[std]
        curve = Curve(evaluated["env_steps"], evaluated["seconds"], evaluated[mean], *around)
        lines.append(Line("greedy evaluation: mean ± standard deviation", curve, 0, marked=True))
    return lines


def _returns_of_groups(groups: list[Group]) -> list[Line]:
    lines = []
    name = "evaluation/return_mean"
    for index, group in enumerate(groups):
        colour = index % len(LIGHT)
        if len(group.runs) > 1:
            lines += [
                Line(run.name, curve, colour, faint=True)
                for run in group.runs
                if (curve := metric_curve(run, name)) is not None
            ]
        mean = group.curve(name)
        if mean is not None:
            lines.append(Line(_legend(group, name), mean, colour, marked=True))
    return lines


def _legend(group: Group, metric: str) -> str:
    """Return the group's label and how many of its runs have the metric."""
    count = sum(metric_curve(run, metric) is not None for run in group.runs)
    return group.label if count == 1 else f"{group.label}, {count} seeds"


def _loss_name(group: Group) -> str:
    names = {
        name for run in group.runs for r in run.records for name in r if name.startswith("loss/")
    }
    return min(names, default="loss/none")
