"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_CGROUP = Path("/sys/fs/cgroup")


class _Files(NamedTuple):
    mount: str
    limit: str
    used: str
    cached: str


_VERSION_1 = _Files(
    "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
)
_VERSION_2 = _Files("", "memory.max", "memory.current", "inactive_file")


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
    """What each limit from this process's control group to the root leaves."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            files = _VERSION_1
        elif not controllers:
            files = _VERSION_2
        else:
            continue
        mount = root / _CGROUP.relative_to("/") / files.mount
        directory = mount / group.lstrip("/")
        while directory.is_relative_to(mount):
            limit, used = _number(directory / files.limit), _number(directory / files.used)
            if limit is not None and used is not None:
                left.append(limit - used + _reclaimable(directory / "memory.stat", files.cached))
            directory = directory.parent
    return left


def _reclaimable(stat: Path, name: str) -> int:
    """Cached files' pages: they count as used and are given up when memory is asked for."""
    try:
        fields = dict(line.split() for line in stat.read_text().splitlines())
        return int(fields[name])
    except (OSError, ValueError, KeyError):
        return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None
