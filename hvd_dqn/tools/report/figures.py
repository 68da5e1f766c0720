"""What is drawn of runs: curves by figure, for the page and for pictures alike."""

from __future__ import annotations

from typing import NamedTuple

from hvd_dqn.tools.report.reading import Curve, Group, Run

COLOURS = 8
RETURN = "return"
_MEASURES = {
    "epsilon": ("Exploration ε", "exploration/epsilon"),
    "loss": ("Loss", None),
    "q-values": ("Action values of actions taken", "q/taken_mean"),
    "td-error": ("|TD error|", "td/abs_error_mean"),
    "gradient-norm": ("Gradient norm", "gradient/norm_mean"),
    "speed": ("Env steps a second, all ranks", "speed/env_steps_per_second"),
    "replay-age": ("Replay: age of what is drawn, in env steps", "replay/age_env_steps"),
    "replay-ratio": ("Replay: samples drawn per env step", "replay/ratio"),
    "waiting": ("Waiting for other ranks, share of the time", "time/averaging"),
}
FIGURES = (RETURN, *_MEASURES)


class Line(NamedTuple):
    """A curve and what it is called; `marked` where its points are few and stand for themselves."""

    label: str
    curve: Curve
    colour: int
    marked: bool = False
    faint: bool = False


class Figure(NamedTuple):
    """One picture."""

    name: str
    title: str
    lines: list[Line]


def figures_of(runs: list[Run], groups: list[Group]) -> list[Figure]:
    """Those that the runs have something for, in the order of `FIGURES`."""
    figures = [Figure(RETURN, "Return of an episode", _returns(runs, groups))]
    for name, (title, metric) in _MEASURES.items():
        lines = []
        for index, group in enumerate(groups):
            own = metric or _loss_name(group)
            curve = group.score_curve(own)
            if curve is not None:
                lines.append(Line(_seeds(group, own), curve, index % COLOURS))
        figures.append(Figure(name, title, lines))
    return [figure for figure in figures if figure.lines]


def _returns(runs: list[Run], groups: list[Group]) -> list[Line]:
    """Of one run, training and evaluation; of several, the evaluations of each group and seed."""
    lines: list[Line] = []
    if len(runs) == 1:
        (run,) = runs
        median, low, high = (f"episode/return_{name}" for name in ("median", "p10", "p90"))
        training = run.columns(median, low, high)
        if training is not None:
            steps, seconds = training["env_steps"], training["seconds"]
            curve = Curve(steps, seconds, training[median], training[low], training[high])
            lines.append(Line("training episodes, median and 10 to 90 %", curve, 1))
        mean, std = "evaluation/return_mean", "evaluation/return_std"
        judged = run.columns(mean, std)
        if judged is not None:
            around = judged[mean] - judged[std], judged[mean] + judged[std]
            curve = Curve(judged["env_steps"], judged["seconds"], judged[mean], *around)
            lines.append(Line("greedy evaluation, mean ± std", curve, 0, marked=True))
        return lines
    for index, group in enumerate(groups):
        each = [run.curve("evaluation/return_mean") for run in group.runs]
        if len(group.runs) > 1:
            lines += [
                Line(run.name, curve, index % COLOURS, faint=True)
                for run, curve in zip(group.runs, each, strict=True)
                if curve is not None
            ]
        whole = group.score_curve("evaluation/return_mean")
        if whole is not None:
            name = _seeds(group, "evaluation/return_mean")
            lines.append(Line(name, whole, index % COLOURS, marked=True))
    return lines


def _seeds(group: Group, name: str) -> str:
    """The group, and how many of its runs have the metric."""
    count = sum(run.curve(name) is not None for run in group.runs)
    return group.label if count == 1 else f"{group.label}, {count} seeds"


def _loss_name(group: Group) -> str:
    names = {
        name for run in group.runs for r in run.records for name in r if name.startswith("loss/")
    }
    return min(names, default="loss/none")
