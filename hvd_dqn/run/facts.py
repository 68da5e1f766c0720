"""The facts of a run that its configuration does not contain: `run.json`."""

from __future__ import annotations

import os
import platform
import secrets
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import hvd_dqn
from hvd_dqn.config import Config
from hvd_dqn.methods import schedules

_PACKAGES = ("torch", "horovod", "mpi4py", "gymnasium", "numpy")


def run_facts(
    config: Config,
    hosts: list[str],
    backend: str,
    threads: int,
    devices: list[str],
    spaces: dict[str, Any],
) -> dict[str, Any]:
    """Return the contents of `run.json`: command, hosts, versions, and the environment's spaces."""
    return {
        "id": secrets.token_hex(8),
        "hvd_dqn": hvd_dqn.__version__,
        "command": sys.argv,
        "commit": commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "packages": versions(),
        "platform": platform.platform(),
        "world_size": len(hosts),
        "hosts": hosts,
        "backend": backend,
        "threads_per_rank": threads,
        "devices": devices,
        "spaces": spaces,
        "global_batch_size": config.batch_size * len(hosts),
        "learning_rate_factor": schedules.world_size_factor(config.optimizer, len(hosts)),
    }


def versions() -> dict[str, str | None]:
    """Return the versions of the packages that results may depend on; `None` if not installed."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Return the commit of the checkout that this package runs from, with `-dirty` appended if its
    files have changed since; `None` outside a checkout of this package.
    """
    package = Path(hvd_dqn.__file__).resolve().parent
    try:
        if Path(_git(package, "rev-parse", "--show-toplevel")) != package.parent:
            return None  # a repository that happens to contain the package, as in an environment
        _git(package, "ls-files", "--error-unmatch", "__init__.py", "../setup.cfg")
        return _git(package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(directory: Path, *arguments: str) -> str:
    """Return what git prints in `directory`, whatever repository the caller's variables name."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "-C", str(directory), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=5,
        env=environment,
    ).stdout.strip()
