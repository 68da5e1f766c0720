"""One HTML file about one or more runs, which needs nothing else: no network, no script."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

import hvd_dqn
from hvd_dqn.errors import UserError
from hvd_dqn.files import publish
from hvd_dqn.stages import STAGES
from hvd_dqn.tools.report.charts import COLOURS, Line, line_chart, number
from hvd_dqn.tools.report.reading import Curve, Group, Run, groups_of
from hvd_dqn.tools.runs import title_of
from hvd_dqn.tools.scores import score

__all__ = ["Run", "groups_of", "write_report"]

_MEASURES = (
    ("Exploration ε", "exploration/epsilon"),
    ("Loss", None),
    ("Action values of actions taken", "q/taken_mean"),
    ("|TD error|", "td/abs_error_mean"),
    ("Gradient norm", "gradient/norm_mean"),
    ("Env steps a second, all ranks", "speed/env_steps_per_second"),
    ("Replay: age of what is drawn, in env steps", "replay/age_env_steps"),
    ("Replay: samples drawn per env step", "replay/ratio"),
    ("Waiting for other ranks, share of the time", "time/averaging"),
)


class Chart(NamedTuple):
    """One picture over env steps and over seconds, and what its lines are called."""

    title: str
    by_steps: Markup
    by_seconds: Markup
    legend: list[tuple[int, str]]
    rows: list[tuple[str, str, str, str, str]]


def write_report(paths: Sequence[Path], output: Path) -> None:
    """Read the runs and write the page. `UserError` where one is no run directory or the file
    cannot be written.
    """
    runs = [Run(path) for path in paths]
    page = _render(runs)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        publish(output, page.encode())
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}") from error


def _render(runs: list[Run]) -> str:
    groups = groups_of(runs)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hvd_dqn.tools.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,  # what an older run does not say stays blank
    )
    environment.filters["number"] = number
    single = runs[0] if len(runs) == 1 else None
    title = title_of(single.config, single.facts) if single else f"{len(runs)} runs"
    return environment.get_template("page.html.j2").render(
        title=title,
        runs=runs,
        groups=groups,
        single=single,
        scores=[_score_row(group) for group in groups],
        returns=_return_chart(runs, groups),
        charts=_measure_charts(groups),
        stages=STAGES,
        shares=[(run, run.stage_shares()) for run in runs],
        videos=[(run, video.name, _data_url(video)) for run in runs for video in run.videos()],
        version=hvd_dqn.__version__,
        now=time.strftime("%Y-%m-%d %H:%M"),
    )


def _score_row(group: Group) -> dict[str, Any]:
    closing = [run.closing["closing/return_mean"] for run in group.runs if run.closing]
    return {
        "group": group,
        "over": len(closing),
        "score": score(closing) if closing else None,
        "env_steps": max((run.last.get("env_steps", 0) for run in group.runs), default=0),
        "seconds": max((run.last.get("seconds", 0.0) for run in group.runs), default=0.0),
    }


def _return_chart(runs: list[Run], groups: list[Group]) -> Chart | None:
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
    else:
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
    return _chart("Return of an episode", lines)


def _measure_charts(groups: list[Group]) -> list[Chart]:
    charts = []
    for title, name in _MEASURES:
        lines = []
        for index, group in enumerate(groups):
            own = name or _loss_name(group)
            curve = group.score_curve(own)
            if curve is not None:
                lines.append(Line(_seeds(group, own), curve, index % COLOURS))
        chart = _chart(title, lines)
        if chart is not None:
            charts.append(chart)
    return charts


def _chart(title: str, lines: list[Line]) -> Chart | None:
    if not lines:
        return None
    shown = [line for line in lines if not line.faint]
    return Chart(
        title,
        line_chart(title, lines, over="env_steps"),
        line_chart(title, lines, over="seconds"),
        [(line.colour, line.label) for line in shown],
        [_row(line.label, line.curve) for line in shown],
    )


def _row(label: str, curve: Curve) -> tuple[str, str, str, str, str]:
    values = curve.values
    figures = values[0], values[-1], values.min(), values.max()
    return (label, *(number(float(value)) for value in figures))  # type: ignore[return-value]


def _seeds(group: Group, name: str) -> str:
    """The group, and how many of its runs have the metric."""
    count = sum(run.curve(name) is not None for run in group.runs)
    return group.label if count == 1 else f"{group.label}, {count} seeds"


def _loss_name(group: Group) -> str:
    names = {
        name for run in group.runs for r in run.records for name in r if name.startswith("loss/")
    }
    return min(names, default="loss/none")


def _data_url(video: Path) -> str:
    kind = "video/mp4" if video.suffix == ".mp4" else "image/gif"
    return f"data:{kind};base64,{base64.b64encode(video.read_bytes()).decode()}"
