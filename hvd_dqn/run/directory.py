"""A run's directory and the paths of its files."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import publish, read_bounded, rename_to_new, sync_directory
from hvd_dqn.config import Config

_LIMIT = 16 << 20
_OTHER = "choose another with --run-dir"


class RunDirectory:
    """Paths of one run, and its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def config_file(self) -> Path:
        """The configuration, as `hvd-dqn evaluate` and `--config` read it."""
        return self.path / "config.json"

    @property
    def facts_file(self) -> Path:
        """Command, hosts and versions (see `run.facts`)."""
        return self.path / "run.json"

    @property
    def metrics_file(self) -> Path:
        """Records, one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def networks(self) -> Path:
        """The best and the newest evaluated networks."""
        return self.path / "networks"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, from which the run resumes."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """Output of the ranks, if the launcher keeps it; may exist before the run starts."""
        return self.path / "logs"

    @property
    def heartbeats(self) -> Path:
        """One file per rank of a running job, rewritten periodically (see `run.watchdog`)."""
        return self.path / "heartbeats"

    def crash_file(self, rank: int) -> Path:
        """The file in which rank `rank` writes why it aborted the run."""
        return self.path / f"crash-rank-{rank}.txt"

    @property
    def videos(self) -> Path:
        """Recorded episodes, named by the env steps of the network that played."""
        return self.path / "videos"

    @property
    def plots(self) -> Path:
        """Figures."""
        return self.path / "plots"

    def require_run(self) -> None:
        """Raise `UserError` unless this is the directory of a run."""
        if not self.config_file.exists():
            if not self.path.is_dir():
                raise UserError(f"{self.path} does not exist")
            raise UserError(
                f"{self.path} is not a run directory: it has no config.json",
                "name a directory that hvd-dqn train created, such as runs/cartpole-…",
            )

    def require_new(self) -> None:
        """Raise `UserError` unless the directory can be created, or is writable and contains
        nothing but logs. Creates nothing.
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
                "choose another with --run-dir, or empty it",
            )
        parent = next(p for p in (self.path, *self.path.absolute().parents) if p.is_dir())
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(
                f"run directory {self.path} cannot be created: {parent} is not writable",
                _OTHER,
            )

    def create(self, config: Config, facts: dict[str, Any]) -> None:
        """Create the directory with `config.json` and `run.json`.

        Raises `UserError` if it cannot be written, or if another run created it in the meantime.
        """
        with self._written():
            self.path.mkdir(parents=True, exist_ok=True)
            partial = self.path / f".config-{os.getpid()}.json"
            partial.write_text(config.to_json())
            try:
                rename_to_new(partial, self.config_file)  # two runs may start at once
            except FileExistsError as error:
                raise UserError(f"another run created {self.path} just now", _OTHER) from error
            finally:
                partial.unlink(missing_ok=True)
            publish(self.facts_file, (json.dumps(facts, indent=2) + "\n").encode())

    def reopen(self, config: Config, facts: dict[str, Any]) -> dict[str, Any]:
        """Resume in a directory that `create` made: replace the configuration, and append `facts`
        to those of earlier starts, whose run id is kept. Returns all facts.

        Raises `UserError` if the directory cannot be written or `run.json` is damaged.
        """
        before: dict[str, Any]
        with self._written():
            # A run that was killed while it started has no facts yet.
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
        """Remove the heartbeats of earlier starts and rename their crash files."""
        with self._written():
            self.heartbeats.mkdir(exist_ok=True)
            for file in self.heartbeats.iterdir():
                file.unlink(missing_ok=True)
            for file in self.path.glob("crash-rank-*.txt"):
                then = time.strftime("%Y%m%d-%H%M%S", time.localtime(file.stat().st_mtime))
                file.rename(file.with_name(f"before-{then}-{file.name}"))

    def lock(self) -> TextIO:
        """Lock the directory until the returned file is closed. Print a line if its file system
        cannot keep other runs out, or cannot tell when a file is on the disk.

        Raises `UserError` if another process holds the lock or the directory cannot be written.
        """
        with self._written():
            file = (self.path / ".lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise UserError(f"another process is running in {self.path}", _OTHER) from error
        except OSError as error:
            _say(f"{self.path} cannot be locked ({error.strerror}): start no second run in it")
        if not sync_directory(self.path):
            _say(f"{self.path} has no directory sync: a power failure may undo the newest files")
        return file

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"run directory {self.path} cannot be written: {error.strerror or error}", _OTHER
            ) from error


def _say(text: str) -> None:
    print(f"hvd-dqn: {text}", file=sys.stderr, flush=True)


def default_path(preset: str) -> Path:
    """Return `runs/PRESET-DATE-TIME-PID`; the pid separates jobs that start in the same second."""
    return Path("runs") / f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
