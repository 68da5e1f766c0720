"""One HTML file about one or more runs. It works offline and contains no script."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

import hvd_dqn
from hvd_dqn.common.files import replacing
from hvd_dqn.common.stages import STAGES
from hvd_dqn.config.run import flatten
from hvd_dqn.presets import PRESETS
from hvd_dqn.tools.report.curves import Group, columns, group_runs, option_name, setting_text
from hvd_dqn.tools.report.figures import (
    DARK,
    LIGHT,
    RETURN,
    Figure,
    Line,
    make_figures,
    short_number,
)
from hvd_dqn.tools.report.svg import draw_svg
from hvd_dqn.tools.runs import Run, find_runs
from hvd_dqn.tools.scores import score

_MOST_VIDEOS, _MOST_VIDEO_BYTES = 3, 20 << 20


class Chart(NamedTuple):
    """A figure as the page shows it: drawn over env steps and over seconds, its legend (colour and
    label), and a table with each line's label and its first, last, lowest and highest value.
    """

    title: str
    by_steps: Markup
    by_seconds: Markup
    legend: list[tuple[int, str]]
    rows: list[list[str]]


class Setting(NamedTuple):
    """A setting of a run. `preset` is the preset's value if it differs."""

    name: str
    value: str
    preset: str | None


def write_report(paths: Sequence[Path], output: Path) -> None:
    """Write the page about the runs in `paths`, see `find_runs`, to `output`.

    Raises `UserError` if `paths` contain no run or the file cannot be written.
    """
    runs = find_runs(paths)
    page = _render(runs)
    with replacing(output) as file:
        file.write_bytes(page.encode(errors="replace"))


def _render(runs: list[Run]) -> str:
    groups = group_runs(runs)
    figures = make_figures(runs, groups)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hvd_dqn.tools.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,  # facts that an older version did not write stay blank
    )
    environment.filters["number"] = short_number
    environment.filters["plural"] = _plural
    single = runs[0] if len(runs) == 1 else None
    return environment.get_template("page.html.j2").render(
        title=single.title if single else f"{len(runs)} runs",
        runs=runs,
        single=single,
        light=LIGHT,
        dark=DARK,
        scores=[_score_row(group) for group in groups],
        returns=next((_chart(figure) for figure in figures if figure.name == RETURN), None),
        charts=[_chart(figure) for figure in figures if figure.name != RETURN],
        stages=STAGES,
        shares=[(run, stage_shares(run)) for run in runs],
        ranks=[(run, _rank_rows(run)) for run in runs],
        settings=[(run, run_settings(run)) for run in runs],
        videos=[(run, video.name, _data_url(video)) for run in runs for video in _videos(run)],
        version=hvd_dqn.__version__,
        now=time.strftime("%Y-%m-%d %H:%M"),
    )


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _score_row(group: Group) -> dict[str, Any]:
    scores = [run.final["closing/return_mean"] for run in group.runs if run.final]
    return {
        "group": group,
        "finished": len(scores),
        "score": score(scores) if scores else None,
        "env_steps": max(run.last_record.get("env_steps", 0) for run in group.runs),
        "seconds": max(run.last_record.get("seconds", 0.0) for run in group.runs),
    }


def _chart(figure: Figure) -> Chart:
    wide = figure.name == RETURN
    shown = [line for line in figure.lines if not line.faint]
    return Chart(
        figure.title,
        draw_svg(figure, over="env_steps", wide=wide),
        draw_svg(figure, over="seconds", wide=wide),
        [(line.colour, line.label) for line in shown],
        [_table_row(line) for line in shown],
    )


def _table_row(line: Line) -> list[str]:
    values = line.curve.values
    numbers = values[0], values[-1], values.min(), values.max()
    return [line.label, *(short_number(float(value)) for value in numbers)]


def stage_shares(run: Run) -> dict[str, float]:
    """Return the mean share of time of each stage; empty if no record has them."""
    found = columns(run, *(f"time/{stage}" for stage in STAGES))
    if found is None:
        return {}
    return {stage: float(found[f"time/{stage}"].mean()) for stage in STAGES}


def _rank_rows(run: Run) -> list[dict[str, Any]]:
    """Return host, device, speed and mean share of waiting time of each rank of the last start."""
    start = run.last_start
    hosts, devices = start.get("hosts", []), start.get("devices", [])
    speed = columns(run, "speed/env_steps_per_second")
    rows = []
    for rank, host in enumerate(hosts):
        name = f"rank/waiting/{rank}"
        waiting = columns(run, name)
        rows.append(
            {
                "rank": rank,
                "host": host,
                "device": devices[rank] if rank < len(devices) else "",
                "speed": speed and np.median(speed["speed/env_steps_per_second"]) / len(hosts),
                "waiting": waiting and waiting[name].mean(),
            }
        )
    return rows


def run_settings(run: Run) -> list[Setting]:
    """Return all settings of the run, as options."""
    own = flatten(run.config)
    make_preset = PRESETS.get(run.config.get("preset", ""))
    preset = flatten(json.loads(make_preset().to_json())) if make_preset is not None else own
    return [
        Setting(
            option_name(name),
            setting_text(value),
            setting_text(preset.get(name)) if preset.get(name) != value else None,
        )
        for name, value in own.items()
    ]


def _videos(run: Run) -> list[Path]:
    """Return the newest MP4 and GIF files of the run that fit in the page, newest first."""
    found = [p for kind in ("*.mp4", "*.gif") for p in run.path.rglob(kind) if p.is_file()]
    chosen: list[Path] = []
    room = _MOST_VIDEO_BYTES
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        size = path.stat().st_size
        if 0 < size <= room and len(chosen) < _MOST_VIDEOS:
            chosen.append(path)
            room -= size
    return chosen


def _data_url(video: Path) -> str:
    kind = "video/mp4" if video.suffix == ".mp4" else "image/gif"
    return f"data:{kind};base64,{base64.b64encode(video.read_bytes()).decode()}"
