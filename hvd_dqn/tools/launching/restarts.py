"""Restart a launch after failures, and stop it with a checkpoint.

This process runs the launcher as its child. Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 reach every rank
as SIGUSR1, because mpirun kills its ranks on SIGTERM and SIGINT, and horovodrun forwards no signal.
If this process is killed by SIGKILL, the job continues.
"""

from __future__ import annotations

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
_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_TELLING = (
    "hvd-dqn: ",
    "noticed that process rank",
    "Remote daemon:",
    "ssh",
    "not reachable",
    "srun: error: ",
)
_ABORTING = ("MPI_ABORT was invoked", "MPI_Abort(")  # Open MPI, MPICH
_SECONDS_BETWEEN_ATTEMPTS = 1.0
_SECONDS_OF_AN_END = 15.0


class Attempt(NamedTuple):
    """The result of one launch."""

    code: int
    seconds: float
    cause: str


def launch(command: Sequence[str], launcher: Launcher, *, max_restarts: int) -> int:
    """Run `hvd-dqn COMMAND` on all ranks and restart it after failures, on fewer ranks if hosts are
    gone. Return the exit code of the last attempt, or 1 after too many failures.
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
            attempt = _run_once(command, launcher, stop)
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
            command = _resuming(command)
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)


def _causes(history: Sequence[Attempt]) -> str:
    return "; ".join(f"{n}. {attempt.cause}" for n, attempt in enumerate(history, 1))


def _resuming(command: Sequence[str]) -> list[str]:
    """Return the command for another attempt. `--resume never`, or a checkpoint of another run, was
    meant for the first attempt; later ones resume this run once it has a checkpoint.
    """
    options = list(command)
    run_dir = option(options, "run-dir")
    place = option(options, "checkpoint.directory") or (run_dir and f"{run_dir}/checkpoints")
    value = option(options, "resume")
    if value and (value == "never" or _has_saved(place)):
        options += ["--resume", "auto"]  # the last of two values counts
    return options


def _has_saved(place: str) -> bool:
    """Return whether there are checkpoints at a path or URL, as far as this host can see."""
    from hvd_dqn.checkpoint.manifest import list_complete
    from hvd_dqn.checkpoint.store import open_store

    with suppress(OSError, UserError):
        return bool(place) and bool(list_complete(open_store(place)))
    return False


def _is_over(command: Sequence[str], launcher: Launcher) -> bool:
    """Return whether the run has its closing record; assume so if only another host can see it."""
    run_dir = RunDirectory(Path(option(command, "run-dir")))
    if run_dir.metrics_file.exists():
        return is_finished(run_dir.path)
    return not launcher.root_is_here()


def option(command: Sequence[str], name: str) -> str:
    """Return the last value that a command line gives an option, or an empty string."""
    value = ""
    for place, word in enumerate(command):
        flag, _, behind = word.partition("=")
        if flag.replace("_", "-") == f"--{name}":
            value = behind or (command[place + 1] if place + 1 < len(command) else "")
    return value


def _run_once(command: Sequence[str], launcher: Launcher, stop: _Stop) -> Attempt:
    words = launcher.command()
    with environment_of_a_launch(words) as environment:
        return _run_in(environment, words, command, launcher, stop)


def _run_in(
    environment: Mapping[str, str],
    words: Sequence[str],
    command: Sequence[str],
    launcher: Launcher,
    stop: _Stop,
) -> Attempt:
    began = time.monotonic()
    try:
        process = subprocess.Popen(
            [*words, *this_program(), *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise UserError(f"{words[0]} cannot be started: {error.strerror}") from error
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
    ended = f"{words[0]} {how}"
    # mpirun may exit with 0 after it has lost a host.
    if code == EXIT_OK and not _is_over(command, launcher):
        code, ended = EXIT_FAILED, f"{ended}, but the run has no closing record"
    elif code < 0:
        code = EXIT_FAILED
    cause = output.cause() or ended
    return Attempt(code, time.monotonic() - began, cause)


class _Output(threading.Thread):
    """Prints the output of the ranks, and keeps the lines that say why they ended."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(name="output", daemon=True)
        self._stream = stream
        self._telling: deque[tuple[float, str]] = deque(maxlen=50)
        self._aborted: float | None = None

    def run(self) -> None:
        """Read to the end of the stream."""
        for line in self._stream:
            with suppress(OSError):  # a closed pipe must not block the ranks
                sys.stdout.buffer.write(line)
                sys.stdout.flush()
            self._hear(line.decode(errors="replace").strip(), time.monotonic())

    def seconds_since_abort(self) -> float:
        """Return the seconds since a rank aborted the job, or 0 if none has."""
        return 0.0 if self._aborted is None else time.monotonic() - self._aborted

    def cause(self) -> str:
        """Return the first line that explains the end, or an empty string."""
        last = time.monotonic() if self._aborted is None else self._aborted
        return next((text for t, text in list(self._telling) if last - t < _SECONDS_OF_AN_END), "")

    def _hear(self, text: str, now: float) -> None:
        telling = self._telling
        if telling and telling[-1][1].endswith(" exited on"):  # mpirun breaks the line here
            telling[-1] = (telling[-1][0], f"{telling[-1][1]} {text}")
        elif any(sign in text for sign in _TELLING):
            told = text.replace("Remote daemon:", "lost contact with")
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
        self._before = {number: signal.signal(number, self._heard) for number in _ASKING}
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
