"""The processes of a launch: mpirun gives its ranks process groups of their own, but no session."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def members(session: int) -> list[tuple[int, str]]:
    """Processes of a session, by age, with their names."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            front, _, fields = stat.read_text().rpartition(")")
        except OSError:
            continue  # it ended by itself meanwhile
        if int(fields.split()[3]) == session:
            found.append((int(stat.parent.name), front.partition("(")[2]))
    return sorted(found)


def end(session: int) -> None:
    """End what is left of it on this host."""
    for pid, _ in members(session):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
