"""Draw the report's figures as PNG, SVG or PDF files, for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import replacing
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.zoo import place_for_files
from hvd_dqn.tools.drawing import load_matplotlib
from hvd_dqn.tools.report.curves import group_runs
from hvd_dqn.tools.report.figures import (
    FIGURES,
    LIGHT,
    RETURN,
    Figure,
    Line,
    make_figures,
    short_number,
)
from hvd_dqn.tools.runs import find_runs

_ALL = "all"
_FILE_NAMES = {RETURN: "learning_curve"}
"""Figures whose files are not named after them."""
_UNDATED: dict[str, dict[str, None]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
"""Metadata left out, so that the same runs give the same file."""


def plot_runs(
    run_dirs: Sequence[Path],
    *,
    names: Sequence[str] = (RETURN,),
    over: str = "env_steps",
    output: Path | None = None,
    kind: str = "png",
) -> list[Path]:
    """Draw the figures `names` over `env_steps` or `seconds` and return the files.

    `names` are from `FIGURES`, or `all` for those the runs have data for. `output` is a file, whose
    extension sets the format, or, without an extension, a directory for files of format `kind`; by
    default `plots/` of the first run. `run_dirs` are as for `find_runs`. Seeds of one configuration
    become one curve: their interquartile mean with its bootstrap interval.

    Raises `UserError` if the runs have no data for a figure or a file cannot be written.
    """
    for name in names:
        if name not in (*FIGURES, _ALL):
            raise UserError(
                f"unknown figure {name!r}", f"choose {_ALL}, or any of {', '.join(FIGURES)}"
            )
    runs = find_runs(run_dirs)
    figures = {figure.name: figure for figure in make_figures(runs, group_runs(runs))}
    chosen = [*figures] or [RETURN] if _ALL in names else [*dict.fromkeys(names)]
    missing = [name for name in chosen if name not in figures]
    if missing:
        which = f"{runs[0].path} has" if len(runs) == 1 else "these runs have"
        raise UserError(
            f"{which} no data for the figure {missing[0]!r}",
            f"available: {', '.join(figures) or 'none'}",
        )
    if output is not None and output.suffix and len(chosen) > 1:
        raise UserError(
            f"--output {output} is one file for {len(chosen)} figures", "name a directory"
        )
    title = runs[0].title if len(runs) == 1 else None
    files = []
    for name in chosen:
        path = output or RunDirectory(place_for_files(runs[0].path)).plots
        if not path.suffix or path.is_dir():
            path /= f"{_FILE_NAMES.get(name, name)}.{kind}"
        _draw(figures[name], over, title, path)
        files.append(path)
    return files


def _draw(figure: Figure, over: str, title: str | None, output: Path) -> None:
    load_matplotlib()
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    for line in figure.lines:
        _draw_line(axes, line, over)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: short_number(value))
    axes.set_xlim(left=0)
    axes.set_xlabel("env steps (all ranks)" if over == "env_steps" else "seconds")
    returns = figure.name == RETURN
    axes.set_ylabel("episode return (undiscounted, unclipped)" if returns else figure.title)
    axes.grid(alpha=0.3)
    if returns or len(figure.lines) > 1:
        for text in axes.legend(loc="best", fontsize="small").get_texts():
            text.set_parse_math(False)  # the names of runs may have dollar signs
    if title is not None:
        axes.set_title(title, fontsize="medium", parse_math=False)
    undated = _UNDATED.get(output.suffix, {})
    try:
        with (
            replacing(output) as file,
            rc_context({"svg.fonttype": "none", "svg.hashsalt": "hvd_dqn", "pdf.fonttype": 42}),
        ):
            picture.savefig(file, dpi=150, metadata=undated)
    except ValueError as error:
        raise UserError(f"{output} cannot be written: {error}") from error


def _draw_line(axes: Any, line: Line, over: str) -> None:
    colour, curve = LIGHT[line.colour], line.curve
    x = getattr(curve, over)
    if line.faint:
        axes.plot(x, curve.values, color=colour, lw=0.7, alpha=0.35)
        return
    marker = {"marker": "o", "ms": 4} if line.marked else {}
    label = line.label.replace("_", " _", 1) if line.label.startswith("_") else line.label
    axes.plot(x, curve.values, color=colour, lw=1.5, label=label, **marker)  # _… has no legend
    if curve.low is not None and curve.high is not None:
        axes.fill_between(x, curve.low, curve.high, color=colour, alpha=0.15, lw=0)
