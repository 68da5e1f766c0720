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
    """Draw figures of one or more runs for a paper, as the report has them: of one run its training
    and evaluations, of several their evaluations, seeds of one configuration together.
    """

    run_dirs: RunDirs
    """The runs' directories."""
    figures: tuple[str, ...] = ("return",)
    """Behind the runs: all, or any of return, epsilon, loss, q-values, td-error, gradient-norm,
    speed, replay-age, replay-ratio, waiting.
    """
    over: Literal["env_steps", "seconds"] = "env_steps"
    """The x-axis."""
    format: Literal["png", "svg", "pdf"] = "png"
    """Of files whose names do not say it."""
    output: OptionalFile = None
    """The picture, or, without an ending, a folder for several; by default plots/ of the first run.
    """


def run(arguments: Sequence[str]) -> int:
    """Draw."""
    from hvd_dqn.tools.plot import plot_runs

    options = parse(PlotOptions, arguments, program="hvd-dqn plot", examples=_EXAMPLES)
    if not options.run_dirs:
        raise UserError("hvd-dqn plot", "name one run directory or more, before the options")
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
