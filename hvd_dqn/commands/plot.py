"""`hvd-dqn plot`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hvd_dqn.command_line import parse
from hvd_dqn.errors import EXIT_OK, UserError


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """Draw the learning curves of one or more runs."""

    run_dirs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN_DIR …")]
    """The runs' directories."""
    output: Path | None = None
    """The picture; by default `plots/learning_curve.png` of the first run."""


def run(arguments: Sequence[str]) -> int:
    """Draw."""
    from hvd_dqn.run_directory import RunDirectory
    from hvd_dqn.tools.plot import plot_runs

    options = parse(PlotOptions, arguments, program="hvd-dqn plot")
    if not options.run_dirs:
        raise UserError("hvd-dqn plot: name one run directory or more")
    output = options.output or RunDirectory(options.run_dirs[0]).plots / "learning_curve.png"
    plot_runs(list(options.run_dirs), output)
    print(output)
    return EXIT_OK
