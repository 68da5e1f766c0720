"""A thread on every rank that aborts the job if a rank makes no progress, and names that rank.

Each rank's thread rewrites a small file, its heartbeat, with the rank's position. A rank that hangs
in its own work notices that itself. If a process is stopped as a whole, or its host is lost, its
heartbeat no longer changes, and the preceding rank notices that while it waits.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from hvd_dqn.common.errors import EXIT_FAILED, RunError, one_line
from hvd_dqn.common.files import read_bounded
from hvd_dqn.common.structs import Progress
from hvd_dqn.distributed.communicator import Communicator, hostname
from hvd_dqn.run.directory import RunDirectory

_SECONDS_FOR_ABORT = 5.0
_PATIENCE = 10
"""Multiple of the limit after which a rank gives up on ranks whose heartbeats it cannot read."""
_HEARTBEAT_BYTES = 512
_MOST_SAID = 300


class Heartbeat(NamedTuple):
    """What a rank last wrote. `number` grows with every write; `still_seconds` is the time without
    progress at that moment.
    """

    host: str
    pid: int
    number: int
    updates: int
    waiting: bool
    still_seconds: float


class Watchdog:
    """Watches this rank and, while this rank waits for others, the next one.

    If one makes no progress for `limit` seconds, the watchdog ends all ranks. With `may_exit` False
    a single process, such as a notebook's, is not ended: its next `beat` raises `RunError`.
    """

    def __init__(
        self,
        communicator: Communicator,
        progress: Progress,
        run_dir: RunDirectory,
        *,
        limit: float,
        may_exit: bool = True,
    ) -> None:
        self._may_exit = may_exit or communicator.world_size > 1
        self._exit_code = EXIT_FAILED
        self._hung: str | None = None
        self._has_directory = True
        self._comm = communicator
        self._progress = progress
        self._run_dir = run_dir
        self._limit = limit
        self._interval = min(limit / 10, 5.0)
        self._moved = time.monotonic()
        self._waiting = False
        self._is_patient = False
        self._count = 0
        self._seen: dict[int, tuple[int, float]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start watching. Until `enter_directory`, nothing is read from the run directory or
        written to it, so that only this rank's own work is watched.
        """
        self._has_directory = False
        self.beat()
        self._thread.start()

    def enter_directory(self) -> None:
        """Begin to exchange heartbeats in the run directory, which now belongs to this run."""
        with contextlib.suppress(OSError):  # hosts may not share the directory
            self._run_dir.heartbeats.mkdir(parents=True, exist_ok=True)
        self._has_directory = True
        self._write()

    def conclude(self, exit_code: int) -> None:
        """Note that the run has ended. If closing its parts hangs, exit with `exit_code`."""
        self._exit_code = exit_code

    def stop(self) -> None:
        """Stop watching and remove this rank's heartbeat."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if self._thread.ident is not None and self._has_directory:
            with contextlib.suppress(OSError):
                self._file(self._comm.rank).unlink(missing_ok=True)

    def beat(self, *, waiting: bool = False) -> None:
        """Report progress; what follows is this rank's own work or, if `waiting`, a collective.

        Raises `RunError` if this rank made no progress for too long and its process must not exit.
        """
        if self._hung is not None:
            raise RunError(self._hung)
        self._moved = time.monotonic()
        self._waiting = waiting

    def touch(self) -> None:
        """Report progress within the current work or collective."""
        self._moved = time.monotonic()

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Within this context, this rank's own work may take any time."""
        self._is_patient = True
        try:
            yield
        finally:
            self._is_patient = False
            self.touch()

    def explain(self, cause: str) -> str | None:
        """Return which rank is gone after contact was lost with the error `cause`, or `None` if
        another rank reports it.
        """
        ranks = range(self._comm.world_size)
        if self._has_directory and any(self._run_dir.crash_file(rank).exists() for rank in ranks):
            return None
        gone, all_are_here = {}, True
        for rank in ranks:
            beat = self._read(rank)
            if beat is None or beat.host != hostname():
                all_are_here = False
            elif not _is_alive(beat.pid):
                gone[rank] = beat
        if self._comm.rank != min(set(ranks) - gone.keys()):
            return None
        said = one_line(cause)[:_MOST_SAID]
        if not gone:
            found = "a rank on another host, or that host, is gone"
            return f"{self._me()}: {'a sum over ranks failed' if all_are_here else found}: {said}"
        rank, beat = min(gone.items())
        return (
            f"rank {rank} on {beat.host}: its process ({beat.pid}) was killed; last seen at update "
            f"{beat.updates:,}"
        )

    def _watch(self) -> None:
        ticked = time.monotonic()
        while True:
            # If a library holds the GIL and this thread cannot run, other ranks notice; a single
            # process ends by this timer. It is off while the heartbeats are read and written,
            # because their file system may stall.
            if self._may_exit:
                faulthandler.dump_traceback_later(2 * self._limit, exit=True, file=_stderr())
            if self._ended.wait(self._interval):
                return
            faulthandler.cancel_dump_traceback_later()
            late, ticked = time.monotonic() - ticked - self._interval, time.monotonic()
            if late > self._limit / 2:  # this process was stopped as a whole and resumed
                self.touch()
                self._seen.clear()
            if self._is_patient:
                self.touch()
            self._write()
            still = time.monotonic() - self._moved
            if self._waiting:
                self._watch_others(still)
            elif still > self._limit:
                self._end(f"{self._me()}: no progress for {still:.0f} s in its own work")
                return  # only if the process does not exit

    def _watch_others(self, still: float) -> None:
        """Abort if the next rank's heartbeat has not changed for long. Each rank watches only one:
        if a thousand ranks read all heartbeats, they would open a million files on a shared file
        system.
        """
        if still < self._limit / 3:
            self._seen.clear()
            return
        now = time.monotonic()
        unknown = []
        ranks = self._comm.world_size
        for rank in ((self._comm.rank + n) % ranks for n in range(1, ranks)):
            beat = self._read(rank)
            if beat is None:  # its host does not share the directory: watch the next one
                unknown.append(rank)
                continue
            if self._seen.get(rank, (-1, 0.0))[0] != beat.number:
                self._seen[rank] = (beat.number, now)
            if now - self._seen[rank][1] < self._limit * 2 / 3:
                break
            self._end(
                f"rank {rank} on {beat.host}: no heartbeat for {still:.0f} s, last at update "
                f"{beat.updates:,}; rank {self._comm.rank} on {hostname()} waited for it"
            )
        if still > _PATIENCE * self._limit and unknown:
            why = (
                f"its host does not share {self._run_dir}"
                if self._has_directory
                else "the run was still starting"
            )
            self._end(
                f"{self._me()}: waited {still:.0f} s for other ranks; the state of rank "
                f"{unknown[0]} is unknown, because {why}"
            )
        elif self._comm.rank == 0 and still > self._limit and self._all_wait():
            self._end(
                f"{self._me()}: all ranks have waited for each other for {still:.0f} s: the "
                "network between them has failed"
            )

    def _all_wait(self) -> bool:
        beats = [self._read(rank) for rank in range(self._comm.world_size)]
        return all(b is not None and b.waiting and b.still_seconds > self._limit for b in beats)

    def _me(self) -> str:
        return f"rank {self._comm.rank} on {hostname()}, at update {self._progress.updates:,}"

    def _end(self, message: str) -> None:
        message = f"{message} ({self._write_stacks(message)})"
        if not self._may_exit:
            self._hung = f"{message}; if it needs longer, raise distributed.hang-seconds"
            return
        print(f"hvd-dqn: {message}", file=sys.stderr, flush=True)
        threading.Timer(_SECONDS_FOR_ABORT, os._exit, [self._exit_code]).start()
        self._comm.abort(self._exit_code)
        os._exit(self._exit_code)

    def _write_stacks(self, message: str) -> str:
        """Write the stacks of all threads, and return where they are."""
        where = self._run_dir.crash_file(self._comm.rank)
        try:
            if not self._has_directory:
                raise FileNotFoundError
            with where.open("w") as file:
                file.write(message + "\n\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:
            faulthandler.dump_traceback(_stderr(), all_threads=True)
            return "stacks above"
        return f"stacks in {where}"

    def _write(self) -> None:
        if not self._has_directory:
            return
        self._count += 1
        beat = Heartbeat(
            hostname(),
            os.getpid(),
            self._count,
            self._progress.updates,
            self._waiting,
            time.monotonic() - self._moved,
        )
        # Overwrite in place, in one call, which works on a full disk too.
        with contextlib.suppress(OSError):
            descriptor = os.open(self._file(self._comm.rank), os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                os.pwrite(descriptor, json.dumps(beat).ljust(_HEARTBEAT_BYTES).encode(), 0)
            finally:
                os.close(descriptor)

    def _read(self, rank: int) -> Heartbeat | None:
        if not self._has_directory:
            return None
        try:
            return Heartbeat(*json.loads(read_bounded(self._file(rank), _HEARTBEAT_BYTES)))
        except (OSError, ValueError, TypeError):
            return None

    def _file(self, rank: int) -> Path:
        return self._run_dir.heartbeats / f"rank-{rank}.json"


def _stderr() -> TextIO | int:
    """Return standard error; its descriptor if something that is not a file has replaced it, as in
    notebooks.
    """
    try:
        sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return 2
    return sys.stderr


def _is_alive(pid: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
