"""Restart a launch after failures, and stop it with a checkpoint.

This process runs the launcher as its child. Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2 and SIGHUP (a closed
terminal) reach every rank as SIGUSR1, because mpirun kills its ranks on SIGTERM, SIGINT and SIGHUP,
and so does a horovodrun that we did not build. Under nohup, SIGHUP stays ignored. If this
process is killed by SIGKILL, the job continues.

An exit code passes through mpirun or another launcher, which may change it. What the run directory
says has precedence: a run with its closing record is finished, and one that saved a checkpoint
because it was asked to stop has stopped.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple

from hvd_dqn.common.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_STOPPED,
    UserError,
)
from hvd_dqn.common.files import read_bounded
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.tools.launching.launchers import (
    HostsGoneError,
    Launcher,
    environment_of_a_launch,
    say,
    this_program,
)
from hvd_dqn.tools.runs import is_finished

_FINAL = (EXIT_OK, EXIT_BAD_INPUT, EXIT_STOPPED)
_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
_ENDED_BY_REQUEST = (-signal.SIGUSR1, 128 + signal.SIGUSR1)
"""Of a launcher that does not forward the signal yet."""
_TELLING = (
    "hvd-dqn: ",
    "noticed that process rank",
    "Remote daemon:",
    "ssh",
    "not reachable",
    "srun: error: ",
    "RUNNING AT ",
)
_MPICH_PROCESS = re.compile(r"(?:RANK \d+ )?PID (\d+) RUNNING AT (\S+)$")
_MPICH_CODE = re.compile(r"(?:EXIT CODE|KILLED BY SIGNAL): \d+")
_STOPPED = re.compile(r"hvd-dqn: stopped by .*, after saving a checkpoint")
_ABORTING = ("MPI_ABORT was invoked", "MPI_Abort(")  # Open MPI, MPICH
_HEARTBEAT_BYTES = 4096
_SECONDS_BETWEEN_ATTEMPTS = 1.0
_SECONDS_OF_AN_END = 15.0


class Training(NamedTuple):
    """The command that every rank runs, `train …`, and what its options say. `checkpoints` is the
    path or URL of its checkpoints. A dry run writes nothing, so its exit code alone counts.
    """

    words: Sequence[str]
    run_dir: Path
    checkpoints: str
    resume: str
    dry_run: bool = False


class Attempt(NamedTuple):
    """The result of one launch."""

    code: int
    seconds: float
    cause: str


def launch(training: Training, launcher: Launcher, *, max_restarts: int) -> int:
    """Train on all ranks and restart the run after failures, on fewer ranks if hosts are gone.
    Return the exit code of the last attempt, or 1 after too many failures.
    """
    history: list[Attempt] = []
    with _Stop(launcher) as stop:
        while True:
            try:
                launcher.regroup()
            except HostsGoneError as error:
                if not history:
                    raise
                say(f"giving up: {error.found}; earlier failures: {_causes(history)}")
                return EXIT_FAILED
            if stop.is_asked():
                return EXIT_STOPPED
            words = _resuming(training) if history else training.words
            attempt = _run_once(training, words, launcher, stop)
            history.append(attempt)
            # Invalid input is final on the first attempt only. Later it may mean that the run
            # directory is still locked by the attempt before.
            if attempt.code in _FINAL and (attempt.code != EXIT_BAD_INPUT or len(history) == 1):
                return attempt.code
            say(
                f"attempt {len(history)} on {launcher.ranks} ranks failed with exit code "
                f"{attempt.code} after {attempt.seconds:.0f} s: {attempt.cause}"
            )
            if len(history) > max_restarts:
                say(f"giving up after {len(history)} attempts: {_causes(history)}")
                return EXIT_FAILED
            if stop.is_asked():
                return EXIT_FAILED
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)


def _causes(history: Sequence[Attempt]) -> str:
    return "; ".join(f"{n}. {attempt.cause}" for n, attempt in enumerate(history, 1))


def _resuming(training: Training) -> Sequence[str]:
    """Return the command for another attempt. `--resume never`, or a checkpoint of another run, was
    meant for the first attempt; later ones resume this run once it has a checkpoint.
    """
    if training.resume == "never" or _saved(training.checkpoints):
        return [*training.words, "--resume", "auto"]  # the last of two values counts
    return training.words


def _saved(place: str) -> list[str]:
    """Return the names of the checkpoints at a path or URL, as far as this host can see."""
    from hvd_dqn.checkpoint.manifest import list_complete
    from hvd_dqn.checkpoint.store import open_store

    with suppress(OSError, UserError):
        return list_complete(open_store(place))
    return []


class _Before(NamedTuple):
    """What there was of a run when an attempt began."""

    metrics: tuple[int, int] | None
    checkpoints: list[str]

    @classmethod
    def look(cls, training: Training) -> _Before:
        return cls(_state_of(training), _saved(training.checkpoints))


def _state_of(training: Training) -> tuple[int, int] | None:
    """Return size and time of the run's records; None if this host sees none."""
    try:
        found = RunDirectory(training.run_dir).metrics_file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _is_over(training: Training, launcher: Launcher) -> bool:
    """Return whether the run has its closing record; assume so if only another host can see it."""
    if _state_of(training) is None:
        return not launcher.root_is_here()
    with suppress(UserError):
        return is_finished(training.run_dir)
    return False


def _judge(
    code: int, training: Training, before: _Before, launcher: Launcher, *, asked: bool, said: bool
) -> tuple[int, str]:
    """Return the exit code that the run directory speaks for, where the launcher's code differs,
    and why; an empty reason if the code stands.

    What was there before the attempt says nothing about it. `asked`: this process has forwarded a
    request to stop. `said`: the root has said that it stopped after saving a checkpoint.
    """
    if code in (EXIT_STOPPED, EXIT_BAD_INPUT) or training.dry_run:
        return code, ""
    if code == EXIT_OK:
        if _is_over(training, launcher):
            return code, ""
    elif _state_of(training) not in (None, before.metrics) and _is_over(training, launcher):
        return EXIT_OK, "the run has its closing record"
    newest = _saved(training.checkpoints)[-1:]
    if newest and (said or (asked and newest != before.checkpoints[-1:])):
        return EXIT_STOPPED, "the run has saved a checkpoint and stopped on request"
    if asked and code in _ENDED_BY_REQUEST and _state_of(training) == before.metrics:
        return EXIT_STOPPED, "the request to stop came before the run had a record"
    return (code, "") if code else (EXIT_FAILED, "")


def _run_once(training: Training, words: Sequence[str], launcher: Launcher, stop: _Stop) -> Attempt:
    starter = launcher.command()
    with environment_of_a_launch(starter) as environment:
        return _run_in(environment, [*starter, *this_program(), *words], training, launcher, stop)


def _run_in(
    environment: Mapping[str, str],
    command: Sequence[str],
    training: Training,
    launcher: Launcher,
    stop: _Stop,
) -> Attempt:
    began = time.monotonic()
    before = _Before.look(training)
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise UserError(f"{command[0]} cannot be started: {error.strerror}") from error
    assert process.stdout is not None
    output = _Output(process.stdout)
    with stop.watching(process):
        output.start()
        while (code := process.poll()) is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
            if output.seconds_since_abort() > _SECONDS_OF_AN_END:
                launcher.end(process)  # mpirun may wait forever for a lost host
        output.join(5)
    launcher.end(process)
    how = f"exited with code {code}" if code >= 0 else f"was killed by signal {-code}"
    ended = f"{command[0]} {how}"
    judged, why = _judge(
        code, training, before, launcher, asked=stop.is_asked(), said=output.has_stopped()
    )
    if why:
        say(f"{why}, although {ended}")
    elif code == EXIT_OK != judged:  # mpirun may exit with 0 after it has lost a host
        ended = f"{ended}, but the run has no closing record"
    cause = _with_rank(output.cause() or ended, training.run_dir)
    return Attempt(judged, time.monotonic() - began, cause)


def _with_rank(cause: str, run_dir: Path) -> str:
    """Return the cause with the rank of a process that MPICH's mpirun names by its id alone; the
    ranks have written theirs beside their heartbeats.
    """
    process = _MPICH_PROCESS.search(cause.partition(",")[0])
    if process is None:
        return cause
    for file in RunDirectory(run_dir).heartbeats.glob("rank-*.json"):
        with suppress(OSError, ValueError, TypeError, IndexError):
            host, pid = json.loads(read_bounded(file, _HEARTBEAT_BYTES))[:2]
            if (host, str(pid)) == (process[2].partition(".")[0], process[1]):
                rank = file.stem.removeprefix("rank-")
                return f"rank {rank} on {host} was lost{cause[process.end() :]}"
    return cause


class _Output(threading.Thread):
    """Prints the output of the ranks, and keeps the lines that say why they ended."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(name="output", daemon=True)
        self._stream = stream
        self._telling: deque[tuple[float, str]] = deque(maxlen=50)
        self._aborted: float | None = None
        self._stopped = False

    def run(self) -> None:
        """Read to the end of the stream."""
        for line in self._stream:
            try:
                sys.stdout.buffer.write(line)
                sys.stdout.flush()
            except OSError:  # a closed pipe or terminal must not block the ranks, or fail the exit
                with suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._hear(line.decode(errors="replace").strip(), time.monotonic())

    def has_stopped(self) -> bool:
        """Return whether the root said that the run was stopped on request."""
        return self._stopped

    def seconds_since_abort(self) -> float:
        """Return the seconds since a rank aborted the job, or 0 if none has."""
        return 0.0 if self._aborted is None else time.monotonic() - self._aborted

    def cause(self) -> str:
        """Return the first line that explains the end, or an empty string."""
        last = time.monotonic() if self._aborted is None else self._aborted
        return next((text for t, text in list(self._telling) if last - t < _SECONDS_OF_AN_END), "")

    def _hear(self, text: str, now: float) -> None:
        telling = self._telling
        self._stopped = self._stopped or _STOPPED.search(text) is not None
        last = telling[-1][1] if telling else ""
        if last.endswith(" exited on"):  # mpirun breaks the line here
            telling[-1] = (telling[-1][0], f"{last} {text}")
        elif (code := _MPICH_CODE.search(text)) and _MPICH_PROCESS.search(last):
            telling[-1] = (telling[-1][0], f"{last}, {code[0].lower()}")
        elif any(sign in text for sign in _TELLING) and "Warning:" not in text:
            told = text.lstrip("= ").replace("Remote daemon:", "lost contact with")
            telling.append((now, told.partition("hvd-dqn: ")[2] or told))
        elif any(sign in text for sign in _ABORTING) and self._aborted is None:
            self._aborted = now


class _Stop:
    """Forwards requests to stop to the current launch."""

    def __init__(self, launcher: Launcher) -> None:
        self._asked = False
        self._launcher = launcher
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[int, object] = {}

    def is_asked(self) -> bool:
        """Return whether a request was received."""
        return self._asked

    def __enter__(self) -> _Stop:
        heard = [n for n in _ASKING if (n, signal.getsignal(n)) != (signal.SIGHUP, signal.SIG_IGN)]
        self._before = {number: signal.signal(number, self._heard) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # returned by signal.signal

    @contextmanager
    def watching(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Forward requests to this launch."""
        self._process = process
        if self._asked:
            self._launcher.ask_to_stop(process)
        yield
        self._process = None

    def _heard(self, number: int, frame: FrameType | None) -> None:
        again, self._asked = self._asked, True
        if self._process is None:
            return
        if again and number == signal.SIGINT:
            self._launcher.end(self._process)
        else:
            self._launcher.ask_to_stop(self._process)
