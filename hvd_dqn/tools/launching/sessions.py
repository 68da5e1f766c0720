"""Find and kill the processes of a launch by their session: mpirun puts its ranks in process groups
of their own, but in the same session.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def members(session: int) -> list[tuple[int, str]]:
    """Return the id and name of every process in a session, oldest first."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            front, _, fields = stat.read_text().rpartition(")")
        except OSError:
            continue  # it has exited
        if int(fields.split()[3]) == session:
            found.append((int(stat.parent.name), front.partition("(")[2]))
    return sorted(found)


def end(session: int) -> None:
    """Kill the remaining processes of a session on this host."""
    for pid, _ in members(session):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
