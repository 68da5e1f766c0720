"""`hvd-dqn build-horovod`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvd_dqn.commands.options import parse
from hvd_dqn.common.errors import EXIT_OK
from hvd_dqn.tools.horovod.build import build_horovod


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Build and install Horovod against this torch and this MPI; one that is there and works is
    kept.
    """

    force: bool = False
    """Build it anew, whatever is there or in the cache."""


def run(arguments: Sequence[str]) -> int:
    """Build."""
    build_horovod(force=parse(BuildOptions, arguments, program="hvd-dqn build-horovod").force)
    return EXIT_OK
