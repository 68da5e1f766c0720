"""`hvd-dqn report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hvd_dqn.command_line import parse
from hvd_dqn.errors import EXIT_OK, UserError


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write one HTML file about one or more runs, which opens anywhere, offline: curves, time by
    stage, ranks, settings, origin, videos; seeds of one configuration together.
    """

    run_dirs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN_DIR …")]
    """The runs' directories."""
    output: Path | None = None
    """The file; by default report.html in the first run's directory."""


def run(arguments: Sequence[str]) -> int:
    """Write."""
    options = parse(ReportOptions, arguments, program="hvd-dqn report")
    if not options.run_dirs:
        raise UserError("hvd-dqn report: name one run directory or more")
    from hvd_dqn.tools.report import write_report

    output = options.output or options.run_dirs[0] / "report.html"
    write_report(options.run_dirs, output)
    print(output)
    return EXIT_OK
