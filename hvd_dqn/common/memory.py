"""How much memory this process may still allocate."""

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
    """Return the bytes that the host or, if less, this job's control group has left; `None` if
    neither is known.
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
    """What is left below each limit, from this process's control group up to the root."""
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
    """Bytes of cached files: they count as used, but are freed when memory is needed."""
    try:
        fields = dict(line.split() for line in stat.read_text().splitlines())
        return int(fields[name])
    except (OSError, ValueError, KeyError):
        return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max": no limit
        return None
