"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(root: Path = Path("/")) -> int | None:
    """What the host has left, or what its control group leaves to this job where that is less;
    `None` where neither is told.
    """
    figures = [_host_bytes(root / "proc/meminfo"), *_control_group_bytes(root)]
    known = [figure for figure in figures if figure is not None]
    return min(known, default=None)


def _host_bytes(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_group_bytes(root: Path) -> list[int]:
    """What each limit from this process's control group to the root leaves (version 2)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = [line[3:].lstrip("/") for line in lines if line.startswith("0::")]
    mount = root / _CGROUP.relative_to("/")
    left = []
    for group in own:
        directory = mount / group
        while directory.is_relative_to(mount):
            limit, used = (_number(directory / name) for name in ("memory.max", "memory.current"))
            if limit is not None and used is not None:
                left.append(limit - used + _reclaimable(directory / "memory.stat"))
            directory = directory.parent
    return left


def _reclaimable(stat: Path) -> int:
    """Cached files' pages: they count as used and are given up when memory is asked for."""
    try:
        fields = dict(line.split() for line in stat.read_text().splitlines())
        return int(fields["inactive_file"])
    except (OSError, ValueError, KeyError):
        return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None
