"""`hvd-dqn plot`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hvd_dqn.commands.options import OptionalFile, RunDirs, parse
from hvd_dqn.common.errors import EXIT_OK, UserError

_EXAMPLES = (
    "hvd-dqn plot runs/a",
    "hvd-dqn plot runs/seed-* --figures return loss --format svg --output figures",
)


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """Draw the report's figures as image files, for a paper. For one run: its training episodes and
    evaluations; for several: their evaluations, with the seeds of one configuration as one curve.
    """

    run_dirs: RunDirs
    """Run directories, directories that contain some, or zoo:NAME."""
    figures: tuple[str, ...] = ("return",)
    """Figures to draw: all, or any of return, epsilon, loss, q-values, td-error, gradient-norm,
    speed, replay-age, replay-ratio, waiting. Write this option after the run directories.
    """
    over: Literal["env_steps", "seconds"] = "env_steps"
    """Horizontal axis."""
    format: Literal["png", "svg", "pdf"] = "png"
    """Format to use if `--output` has no extension."""
    output: OptionalFile = None
    """File for one figure, or, without an extension, a directory; by default plots/ in the first
    run directory.
    """


def run(arguments: Sequence[str]) -> int:
    """Draw the figures."""
    from hvd_dqn.tools.plot import plot_runs

    options = parse(PlotOptions, arguments, program="hvd-dqn plot", examples=_EXAMPLES)
    if not options.run_dirs:
        raise UserError("hvd-dqn plot", "name at least one run directory, before the options")
    files = plot_runs(
        options.run_dirs,
        names=options.figures,
        over=options.over,
        output=options.output,
        kind=options.format,
    )
    for file in files:
        print(file)
    return EXIT_OK
