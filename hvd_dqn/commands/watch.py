"""`hvd-dqn watch`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hvd_dqn.command_line import parse, switches
from hvd_dqn.errors import EXIT_OK


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Follow a run that goes on elsewhere, by its directory, until it is over; Ctrl-C stops the
    watching alone.
    """

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """The run's directory."""
    once: bool = False
    """Show where it is, and end."""


def run(arguments: Sequence[str]) -> int:
    """Watch."""
    options = parse(WatchOptions, switches(arguments, "once"), program="hvd-dqn watch")
    from hvd_dqn.tools.watch import watch

    with contextlib.suppress(KeyboardInterrupt):
        watch(options.run_dir, follow=not options.once)
    return EXIT_OK
