"""The report's figures as pictures for a paper: PNG, SVG or PDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hvd_dqn.common.errors import UserError
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.tools.report.figures import FIGURES, RETURN, Figure, Line, figures_of
from hvd_dqn.tools.report.reading import Run, groups_of
from hvd_dqn.tools.runs import title_of

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f")
_ALL = "all"
_FILES = {RETURN: "learning_curve"}
"""Figures whose files have another name."""


_UNDATED: dict[str, dict[str, None]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
"""The same runs give the same file."""


def plot_runs(
    run_dirs: Sequence[Path],
    *,
    names: Sequence[str] = (RETURN,),
    over: str = "env_steps",
    output: Path | None = None,
    kind: str = "png",
) -> list[Path]:
    """Draw the figures of these `names` (`FIGURES`) over `env_steps` or `seconds`; the files.

    `output` is a file for one figure, which its ending says the `kind` of, or, without an ending, a
    directory; by default `plots/` of the first run. `names` may be `all` that the runs have. Seeds
    of one configuration are one curve, their interquartile mean with its bootstrap interval.
    `UserError` where the runs have nothing for a figure, or a file cannot be written.
    """
    for name in names:
        if name not in (*FIGURES, _ALL):
            raise UserError(f"there is no figure {name!r}", f"take all, or {', '.join(FIGURES)}")
    runs = [Run(path) for path in run_dirs]
    having = {figure.name: figure for figure in figures_of(runs, groups_of(runs))}
    chosen = [*having] or [RETURN] if _ALL in names else [*dict.fromkeys(names)]
    missing = [name for name in chosen if name not in having]
    if missing:
        which = runs[0].path if len(runs) == 1 else "these runs"
        found = ", ".join(having) or "nothing"
        raise UserError(f"{which}: no record has what {missing[0]} draws", f"there is {found}")
    if output is not None and output.suffix and len(chosen) > 1:
        raise UserError(f"--output {output} is one file for {len(chosen)} figures", "name a folder")
    title = title_of(runs[0].config, runs[0].facts) if len(runs) == 1 else None
    files = []
    for name in chosen:
        path = output or RunDirectory(run_dirs[0]).plots
        if not path.suffix or path.is_dir():
            path /= f"{_FILES.get(name, name)}.{kind}"
        _draw(having[name], over, title, path)
        files.append(path)
    return files


def _draw(figure: Figure, over: str, title: str | None, output: Path) -> None:
    # The object interface: no global state and no window, whatever the user's matplotlib settings
    # are.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    for line in figure.lines:
        _draw_line(axes, line, over)
    axes.set_xlabel("env steps (all ranks)" if over == "env_steps" else "seconds")
    returns = figure.name == RETURN
    axes.set_ylabel("episode return (undiscounted, unclipped)" if returns else figure.title)
    axes.grid(alpha=0.3)
    if returns or len(figure.lines) > 1:
        axes.legend(loc="best", fontsize="small")
    if title is not None:
        axes.set_title(title, fontsize="medium")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "hvd_dqn", "pdf.fonttype": 42}):
            undated = _UNDATED.get(output.suffix, {})
            picture.savefig(output, dpi=150, metadata=undated)
    except (OSError, ValueError) as error:
        raise UserError(f"the picture cannot be written to {output}: {error}") from error


def _draw_line(axes: Any, line: Line, over: str) -> None:
    colour, curve = _COLOURS[line.colour], line.curve
    x = getattr(curve, over)
    if line.faint:
        axes.plot(x, curve.values, color=colour, lw=0.7, alpha=0.35)
        return
    marker = {"marker": "o", "ms": 4} if line.marked else {}
    axes.plot(x, curve.values, color=colour, lw=1.5, label=line.label, **marker)
    if curve.low is not None and curve.high is not None:
        axes.fill_between(x, curve.low, curve.high, color=colour, alpha=0.15, lw=0)
