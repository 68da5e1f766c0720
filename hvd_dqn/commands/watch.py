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
    """Follow a running job by the files in its run directory, until it is finished. Ctrl-C stops
    watching, not the job.
    """

    run_dir: RunDir
    """The run directory, or zoo:NAME."""
    once: bool = False
    """Show the current state and exit."""


def run(arguments: Sequence[str]) -> int:
    """Follow the run."""
    options = parse(WatchOptions, arguments, program="hvd-dqn watch", examples=_EXAMPLES)
    from hvd_dqn.tools.watch import watch

    with contextlib.suppress(KeyboardInterrupt):
        watch(options.run_dir, follow=not options.once)
    return EXIT_OK
