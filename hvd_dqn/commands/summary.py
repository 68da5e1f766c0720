"""`hvd-dqn summary`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hvd_dqn.command_line import parse, switches
from hvd_dqn.errors import EXIT_OK, UserError
from hvd_dqn.tools.summary import print_summaries, summarize


@dataclass(frozen=True, kw_only=True)
class SummaryOptions:
    """Where one or more runs are, and their scores, in one table."""

    run_dirs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN_DIR …")]
    """The runs' directories."""
    json: bool = False
    """Print a JSON list."""


def run(arguments: Sequence[str]) -> int:
    """Print."""
    options = parse(SummaryOptions, switches(arguments, "json"), program="hvd-dqn summary")
    if not options.run_dirs:
        raise UserError("hvd-dqn summary: name one run directory or more")
    runs = [summarize(path) for path in options.run_dirs]
    if options.json:
        print(json.dumps([run._asdict() for run in runs], indent=2))
    else:
        print_summaries(runs)
    return EXIT_OK
