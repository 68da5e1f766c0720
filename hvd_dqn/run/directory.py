"""A run's directory: what stands where, and the facts of the run that its config does not hold."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import hvd_dqn
from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import publish, read_bounded
from hvd_dqn.config import Config
from hvd_dqn.methods import schedules

_LIMIT = 16 << 20
_OTHER = "choose another with --run-dir"
_PACKAGES = ("torch", "horovod", "mpi4py", "gymnasium", "numpy")


class RunDirectory:
    """Paths of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def config_file(self) -> Path:
        """What `hvd-dqn evaluate` and `--config` read back."""
        return self.path / "config.json"

    @property
    def facts_file(self) -> Path:
        """What ran, where, with which versions."""
        return self.path / "run.json"

    @property
    def metrics_file(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def networks(self) -> Path:
        """The newest networks and the best, as they were evaluated."""
        return self.path / "networks"

    @property
    def checkpoints(self) -> Path:
        """What the run can go on from."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """What ranks print, where a launcher keeps it: before the run has begun."""
        return self.path / "logs"

    @property
    def heartbeats(self) -> Path:
        """Signs of life of the ranks of a run that is going on."""
        return self.path / "heartbeats"

    def crash_file(self, rank: int) -> Path:
        """Where a rank writes why it ended the run."""
        return self.path / f"crash-rank-{rank}.txt"

    @property
    def videos(self) -> Path:
        """Episodes, by the env steps of the network that played."""
        return self.path / "videos"

    @property
    def plots(self) -> Path:
        """Pictures."""
        return self.path / "plots"

    def require_run(self) -> None:
        """`UserError` unless a run has been here."""
        if not self.config_file.exists():
            what = "has no config.json" if self.path.is_dir() else "is not there"
            raise UserError(
                f"{self.path} is no run directory: it {what}",
                "name one that hvd-dqn train made, such as runs/cartpole-…",
            )

    def require_new(self) -> None:
        """`UserError` unless it can be made here, or is empty but for logs and writable; makes
        nothing.
        """
        try:
            self._require_new()
        except OSError as error:
            raise UserError(
                f"run directory {self.path} cannot be used: {error.strerror or error}",
                _OTHER,
            ) from error

    def _require_new(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"run directory {self.path} is a file", _OTHER)
        if self.path.is_dir() and any(entry != self.logs for entry in self.path.iterdir()):
            raise UserError(
                f"run directory {self.path} is not empty",
                "choose another with --run-dir, or clear it",
            )
        parent = next(p for p in (self.path, *self.path.absolute().parents) if p.is_dir())
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(
                f"run directory {self.path} cannot be made: {parent} is not writable",
                _OTHER,
            )

    def create(self, config: Config, facts: dict[str, Any]) -> None:
        """Make the directory with `config.json` and `run.json`. `UserError` where it cannot be
        written, or another run has made it.
        """
        with self._written():
            self.path.mkdir(parents=True, exist_ok=True)
            partial = self.path / f".config-{os.getpid()}.json"
            partial.write_text(config.to_json())
            try:
                os.link(partial, self.config_file)  # of two runs that start at once, one gets it
            except FileExistsError as error:
                raise UserError(
                    f"run directory {self.path} was taken just now by another run", _OTHER
                ) from error
            finally:
                partial.unlink()
            publish(self.facts_file, (json.dumps(facts, indent=2) + "\n").encode())

    def reopen(self, config: Config, facts: dict[str, Any]) -> dict[str, Any]:
        """Go on in a directory that `create` made: the config of now, and the facts of this start
        besides those of the ones before, of which it keeps the id; all of them. `UserError` where
        it cannot be written or is damaged.
        """
        before: dict[str, Any]
        with self._written():
            # There are none where a run was killed as it began.
            text = read_bounded(self.facts_file, _LIMIT) if self.facts_file.exists() else b"{}"
            try:
                before = json.loads(text)
                before.setdefault("id", facts.pop("id"))
                before["resumed"] = [*before.get("resumed", []), facts]
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise UserError(
                    f"{self.facts_file} is damaged ({error})",
                    "remove it, or use another --run-dir",
                ) from error
            publish(self.facts_file, (json.dumps(before, indent=2) + "\n").encode())
            publish(self.config_file, config.to_json().encode())
        return before

    def clear_signs(self) -> None:
        """Remove heartbeats of the time before, and put its crash files aside."""
        with self._written():
            self.heartbeats.mkdir(exist_ok=True)
            for file in self.heartbeats.iterdir():
                file.unlink(missing_ok=True)
            for file in self.path.glob("crash-rank-*.txt"):
                then = time.strftime("%Y%m%d-%H%M%S", time.localtime(file.stat().st_mtime))
                file.rename(file.with_name(f"before-{then}-{file.name}"))

    def lock(self) -> TextIO:
        """Keep other runs out until the file that this returns is closed. `UserError` where one is
        in here, or it cannot be written.
        """
        with self._written():
            file = (self.path / ".lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise UserError(f"another process is running in {self.path}", _OTHER) from error
        except OSError:
            pass  # a file system without locks keeps nobody out
        return file

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"run directory {self.path} cannot be written: {error.strerror or error}", _OTHER
            ) from error


def default_path(preset: str) -> Path:
    """`runs/PRESET-DATE-TIME-PROCESS`: jobs that start in the same second do not meet."""
    return Path("runs") / f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def run_facts(
    config: Config,
    hosts: list[str],
    backend: str,
    threads: int,
    devices: list[str],
    spaces: dict[str, Any],
) -> dict[str, Any]:
    """`run.json`: what ran, where, with which versions, and what its environments observe."""
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
        "global_batch_size": config.replay.batch_size * len(hosts),
        "learning_rate_factor": schedules.world_size_factor(config.optimizer, len(hosts)),
    }


def versions() -> dict[str, str | None]:
    """Of the packages that the numbers may depend on; `None` where one is not there."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the checkout this package runs from, if it is one; `-dirty` behind it where its
    files were changed since.
    """
    describe = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    command = ["git", "-C", str(Path(__file__).parent), *describe]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
