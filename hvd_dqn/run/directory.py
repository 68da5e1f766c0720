"""A run's directory and the paths of its files."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import absolute, publish, read_bounded, rename_to_new, sync_directory
from hvd_dqn.config import Config
from hvd_dqn.run.zoo import located

_LIMIT = 16 << 20
_OTHER = "choose another with --run-dir"


class RunDirectory:
    """Paths of one run, and its lock.

    `path` is absolute, because an environment may change the working directory; `str` returns it as
    the user gave it.
    """

    def __init__(self, path: Path) -> None:
        """Raises `UserError` if `path` starts with a `~` that names no home, or is `zoo:` with the
        name of no policy.
        """
        self._given = path
        self.path = absolute(located(path))

    def __str__(self) -> str:
        return str(self._given)

    def as_given(self, path: Path) -> Path:
        """Return a `path` within this directory relative to what the user gave."""
        return self._given / path.relative_to(self.path)

    @property
    def config_file(self) -> Path:
        """The configuration, as `hvd-dqn evaluate` and `--config` read it."""
        return self.path / "config.json"

    @property
    def facts_file(self) -> Path:
        """Command, hosts and versions (see `run.facts`)."""
        return self.path / "run.json"

    @property
    def final_file(self) -> Path:
        """How the run ended (see `run.summary`); missing until then."""
        return self.path / "final.json"

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
                raise UserError(f"{self} does not exist")
            raise UserError(
                f"{self} is not a run directory: it has no config.json",
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
                f"run directory {self} cannot be used: {error.strerror or error}",
                _OTHER,
            ) from error

    def _require_new(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"run directory {self} is a file", _OTHER)
        if self.path.is_dir() and not all(map(self._may_be_there, self.path.iterdir())):
            raise UserError(
                f"run directory {self} is not empty",
                "choose another with --run-dir, or empty it",
            )
        parent = next(p for p in (self.path, *self.path.parents) if p.is_dir())
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(
                f"run directory {self} cannot be created: {parent} is not writable",
                _OTHER,
            )

    def _may_be_there(self, entry: Path) -> bool:
        """Return whether a new run directory may contain `entry`: logs, the file that this command
        or its launcher prints to, and what a start that was killed left, an empty directory for
        checkpoints.
        """
        if entry == self.checkpoints:
            return not any(entry.iterdir())
        return entry == self.logs or _is_output(entry)

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
                raise UserError(f"another run created {self} just now", _OTHER) from error
            finally:
                partial.unlink(missing_ok=True)
            publish(self.facts_file, (json.dumps(facts, indent=2) + "\n").encode())

    def discard(self) -> None:
        """Remove what a start has written to the directory that it created, because it fails."""
        with contextlib.suppress(OSError):
            for entry in self.path.iterdir():
                if entry == self.checkpoints:
                    entry.rmdir()
                elif not self._may_be_there(entry):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            self.path.rmdir()

    def reopen(self, config: Config, facts: dict[str, Any]) -> dict[str, Any]:
        """Resume in a directory that `create` made: replace the configuration, append `facts` to
        those of earlier starts, whose run id is kept, and remove `final.json`. Returns all facts.

        Raises `UserError` if the directory cannot be written or `run.json` is damaged.
        """
        before: dict[str, Any]
        with self._written():
            if self.metrics_file.exists() and not self.metrics_file.is_symlink():
                self.metrics_file.open("ab").close()  # that it can be written
            # A run that was killed while it started has no facts yet.
            exists = self.facts_file.exists()
            text = read_bounded(self.facts_file, _LIMIT, follow=True) if exists else b"{}"
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
            self.final_file.unlink(missing_ok=True)
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
            file = (self.path / ".lock").open("a")  # leaves the time of the file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise UserError(f"another process is running in {self}", _OTHER) from error
        except OSError as error:
            _say(f"{self} cannot be locked ({error.strerror}): start no second run in it")
        if not sync_directory(self.path):
            _say(f"{self} has no directory sync: a power failure may undo the newest files")
        return file

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"run directory {self} cannot be written: {error.strerror or error}", _OTHER
            ) from error


def _say(text: str) -> None:
    print(f"hvd-dqn: {text}", file=sys.stderr, flush=True)


def _is_output(file: Path) -> bool:
    """Return whether this process or one of its ancestors prints to `file`."""
    pid = os.getpid()
    while pid > 1:
        for number in (1, 2):
            with contextlib.suppress(OSError):  # closed, or another user's
                if file.samefile(f"/proc/{pid}/fd/{number}"):
                    return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return False
    return False


def default_path(preset: str) -> Path:
    """Return `runs/PRESET-DATE-TIME-PID`; the pid separates jobs that start in the same second."""
    return Path("runs") / f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
