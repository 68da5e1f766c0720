"""`hvd-dqn watch`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from hvd_dqn.commands.options import RunDir, parse
from hvd_dqn.common.errors import EXIT_OK

_EXAMPLES = (
    "hvd-dqn watch runs/a",
    "hvd-dqn watch runs/a --once",
)


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Follow a run that goes on elsewhere, by its directory, until it is over; Ctrl-C stops the
    watching alone.
    """

    run_dir: RunDir
    """The run's directory."""
    once: bool = False
    """Show where it is, and end."""


def run(arguments: Sequence[str]) -> int:
    """Watch."""
    options = parse(WatchOptions, arguments, program="hvd-dqn watch", examples=_EXAMPLES)
    from hvd_dqn.tools.watch import watch

    with contextlib.suppress(KeyboardInterrupt):
        watch(options.run_dir, follow=not options.once)
    return EXIT_OK
