"""`hvd-dqn summary`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from hvd_dqn.commands.options import RunDirs, parse
from hvd_dqn.common.errors import EXIT_OK, UserError
from hvd_dqn.tools.summary import print_summaries, summarize

_EXAMPLES = (
    "hvd-dqn summary runs/*",
    "hvd-dqn summary runs/a --json",
)


@dataclass(frozen=True, kw_only=True)
class SummaryOptions:
    """Where one or more runs are, and their scores, in one table."""

    run_dirs: RunDirs
    """The runs' directories."""
    json: bool = False
    """Print a JSON list."""


def run(arguments: Sequence[str]) -> int:
    """Print."""
    options = parse(SummaryOptions, arguments, program="hvd-dqn summary", examples=_EXAMPLES)
    if not options.run_dirs:
        raise UserError("hvd-dqn summary", "name one run directory or more, before the options")
    runs = [summarize(path) for path in options.run_dirs]
    if options.json:
        print(json.dumps([run._asdict() for run in runs], indent=2))
    else:
        print_summaries(runs)
    return EXIT_OK
