"""`hvd-dqn report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvd_dqn.commands.options import OptionalFile, RunDirs, parse
from hvd_dqn.common.errors import EXIT_OK, UserError
from hvd_dqn.run.zoo import place_for_files

_EXAMPLES = (
    "hvd-dqn report runs/a",
    "hvd-dqn report runs --output comparison.html",
)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write one HTML file about one or more runs: scores, curves, time by stage, ranks, settings,
    origin, videos. Runs that differ only in their seed are shown together. The file works offline.
    """

    run_dirs: RunDirs
    """Run directories, directories that contain some, or zoo:NAME."""
    output: OptionalFile = None
    """File to write; by default report.html in the first directory, or in ./NAME for zoo:NAME."""


def run(arguments: Sequence[str]) -> int:
    """Write the report."""
    options = parse(ReportOptions, arguments, program="hvd-dqn report", examples=_EXAMPLES)
    if not options.run_dirs:
        raise UserError("hvd-dqn report", "name at least one run directory, before the options")
    from hvd_dqn.tools.report.page import write_report

    first = next((path for path in options.run_dirs if path.is_dir()), options.run_dirs[0])
    output = options.output or place_for_files(first) / "report.html"
    write_report(options.run_dirs, output)
    print(output)
    return EXIT_OK
