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
from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import publish
from hvd_dqn.common.stages import STAGES
from hvd_dqn.tools.report.charts import line_chart, number
from hvd_dqn.tools.report.figures import RETURN, Figure, figures_of
from hvd_dqn.tools.report.reading import Curve, Group, Run, groups_of
from hvd_dqn.tools.runs import title_of
from hvd_dqn.tools.scores import score

__all__ = ["Run", "groups_of", "write_report"]


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
    figures = figures_of(runs, groups)
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
        returns=next((_chart(figure) for figure in figures if figure.name == RETURN), None),
        charts=[_chart(figure) for figure in figures if figure.name != RETURN],
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


def _chart(figure: Figure) -> Chart:
    shown = [line for line in figure.lines if not line.faint]
    return Chart(
        figure.title,
        line_chart(figure.title, figure.lines, over="env_steps"),
        line_chart(figure.title, figure.lines, over="seconds"),
        [(line.colour, line.label) for line in shown],
        [_row(line.label, line.curve) for line in shown],
    )


def _row(label: str, curve: Curve) -> tuple[str, str, str, str, str]:
    values = curve.values
    figures = values[0], values[-1], values.min(), values.max()
    return (label, *(number(float(value)) for value in figures))  # type: ignore[return-value]


def _data_url(video: Path) -> str:
    kind = "video/mp4" if video.suffix == ".mp4" else "image/gif"
    return f"data:{kind};base64,{base64.b64encode(video.read_bytes()).decode()}"
