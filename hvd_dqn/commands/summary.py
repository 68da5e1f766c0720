"""`hvd-dqn summary`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from hvd_dqn.commands.options import RunDirs, parse
from hvd_dqn.common.errors import EXIT_OK, UserError
from hvd_dqn.common.output import print_data
from hvd_dqn.tools.runs import find_runs
from hvd_dqn.tools.summary import print_summaries, summarize

_EXAMPLES = (
    "hvd-dqn summary runs",
    "hvd-dqn summary runs/a --json",
)


@dataclass(frozen=True, kw_only=True)
class SummaryOptions:
    """Print the progress and score of one or more runs as a table."""

    run_dirs: RunDirs
    """Run directories, directories that contain some, or zoo:NAME."""
    json: bool = False
    """Print a JSON list instead."""


def run(arguments: Sequence[str]) -> int:
    """Print the table."""
    options = parse(SummaryOptions, arguments, program="hvd-dqn summary", examples=_EXAMPLES)
    if not options.run_dirs:
        raise UserError("hvd-dqn summary", "name at least one run directory, before the options")
    runs = [summarize(run) for run in find_runs(options.run_dirs)]
    if options.json:
        print_data(json.dumps([run._asdict() for run in runs], indent=2))
    else:
        print_summaries(runs)
    return EXIT_OK
