"""`hvd-dqn build-horovod`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvd_dqn.commands.options import parse
from hvd_dqn.common.errors import EXIT_OK
from hvd_dqn.tools.horovod.build import build_horovod


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Build Horovod for the installed torch and MPI, and install it.

    An installed Horovod that works is kept, unless hvd-dqn built it from other patches, options or
    versions.
    """

    force: bool = False
    """Rebuild Horovod even if one is installed or cached."""


def run(arguments: Sequence[str]) -> int:
    """Run the command."""
    build_horovod(force=parse(BuildOptions, arguments, program="hvd-dqn build-horovod").force)
    return EXIT_OK
