"""Tell Docker whether the newest run under /data/runs makes progress in this container.

    python -I -S healthcheck.py [DIRECTORY]

Exit code 1 if a rank that runs here has not written its heartbeat for longer than
`distributed.hang_seconds` of its run; otherwise 0, also if no run is active. A hung rank normally
ends its run by itself; this finds runs whose processes are stopped as a whole, or wait for a file
system. Heartbeats of other hosts and of processes that no longer exist are ignored.

It imports nothing heavy: it runs every minute on the cores that train (20 ms).
"""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path

_DEFAULT_HANG_SECONDS = 60.0


def unhealthy(runs: Path) -> str | None:
    """Return what is wrong with the newest run in `runs`, or `None`.

    A run may be in a directory of its own name or one deeper (`runs/sweep/seed-0`).
    """
    beats = [*runs.glob("*/heartbeats/rank-*.json"), *runs.glob("*/*/heartbeats/rank-*.json")]
    ages = {beat: age for beat in beats if (age := _age(beat)) is not None}
    if not ages:
        return None
    run = min(ages, key=lambda beat: ages[beat]).parent.parent
    limit = _hang_seconds(run)
    for beat, age in sorted(ages.items()):
        if beat.parent.parent == run and age > limit and _runs_here(beat):
            return f"{run}: {beat.stem} has written no heartbeat for {age:.0f} s"
    return None


def _age(beat: Path) -> float | None:
    """Return the seconds since it was written; `None` if it has just been removed."""
    try:
        return time.time() - beat.stat().st_mtime
    except OSError:
        return None


def _hang_seconds(run: Path) -> float:
    try:
        config = json.loads((run / "config.json").read_text())
        return float(config["distributed"]["hang_seconds"])
    except (OSError, ValueError, TypeError, KeyError):
        return _DEFAULT_HANG_SECONDS


def _runs_here(beat: Path) -> bool:
    """Whether the rank's process is in this container. See `hvd_dqn.run.watchdog.Heartbeat`."""
    try:
        host, pid, *_ = json.loads(beat.read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError, TypeError, IndexError):
        return False
    return bool(host == socket.gethostname().partition(".")[0]) and state != "Z"


if __name__ == "__main__":
    found = unhealthy(Path(sys.argv[1] if len(sys.argv) > 1 else "/data/runs"))
    if found is not None:
        sys.exit(found)
