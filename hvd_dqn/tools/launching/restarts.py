"""A launch that is started again where it fails, and stopped gently.

It stands above a launcher. What asks it to stop (Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2) reaches every
rank as SIGUSR1: mpirun's own SIGTERM and SIGINT end ranks at once, and horovodrun passes nothing
on. A SIGKILL to it leaves the job running.
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
    """How one launch ended."""

    code: int
    seconds: float
    cause: str


def launch(command: Sequence[str], launcher: Launcher, *, max_restarts: int) -> int:
    """Run `hvd-dqn COMMAND` on all ranks, again after a failure, and at last on fewer; the exit
    code of the last attempt, or 1.
    """
    history: list[Attempt] = []
    with _Stop(launcher) as stop:
        while True:
            try:
                launcher.regroup()
            except HostsGoneError as error:
                if not history:
                    raise
                say(f"given up: {error.found}; before: {_causes(history)}")
                return EXIT_FAILED
            if stop.is_asked():
                return EXIT_STOPPED
            attempt = _run_once(command, launcher, stop)
            history.append(attempt)
            # A command that is wrong is so at once; later, another attempt may still be dying.
            if attempt.code in _FINAL and (attempt.code != EXIT_BAD_INPUT or len(history) == 1):
                return attempt.code
            say(
                f"attempt {len(history)} on {launcher.ranks} ranks ended in {attempt.code} after "
                f"{attempt.seconds:.0f} s: {attempt.cause}"
            )
            if len(history) > max_restarts:
                say(f"given up after {len(history)} attempts: {_causes(history)}")
                return EXIT_FAILED
            if stop.is_asked():
                return EXIT_FAILED
            command = _going_on(command)
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)


def _causes(history: Sequence[Attempt]) -> str:
    return "; ".join(f"{n}. {attempt.cause}" for n, attempt in enumerate(history, 1))


def _going_on(command: Sequence[str]) -> list[str]:
    """The same command for another attempt: what it said of an older checkpoint, or of a new run,
    was for the first.
    """
    options = list(command)
    run_dir = option(options, "run-dir")
    place = option(options, "checkpoint.directory") or (run_dir and f"{run_dir}/checkpoints")
    value = option(options, "resume")
    if value and (value == "never" or _has_saved(place)):
        options += ["--resume", "auto"]  # of an option that comes twice, the last one counts
    return options


def _has_saved(place: str) -> bool:
    """Whether there are checkpoints at a path or URL, as far as can be seen from here."""
    from hvd_dqn.checkpoint.manifest import list_complete
    from hvd_dqn.checkpoint.store import open_store

    with suppress(OSError, UserError):
        return bool(place) and bool(list_complete(open_store(place)))
    return False


def _is_over(command: Sequence[str], launcher: Launcher) -> bool:
    """Whether the run has its closing record, as far as that can be known here."""
    run_dir = RunDirectory(Path(option(command, "run-dir")))
    if run_dir.metrics_file.exists():
        return is_finished(run_dir.path)
    return not launcher.root_is_here()


def option(command: Sequence[str], name: str) -> str:
    """The value that a command line gives an option, the last where there are several."""
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
                launcher.end(process)  # mpirun may wait for ever for a host that is gone
        output.join(5)
    launcher.end(process)
    ended = (
        f"{words[0]} ended with {code}" if code >= 0 else f"{words[0]} was ended by signal {-code}"
    )
    # mpirun may end with 0 where it has lost a host.
    if code == EXIT_OK and not _is_over(command, launcher):
        code, ended = EXIT_FAILED, f"{ended}, but the run has no closing record"
    elif code < 0:
        code = EXIT_FAILED
    cause = output.cause() or ended
    return Attempt(code, time.monotonic() - began, cause)


class _Output(threading.Thread):
    """Prints what the ranks print, and keeps the lines that tell why they ended."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(name="output", daemon=True)
        self._stream = stream
        self._telling: deque[tuple[float, str]] = deque(maxlen=50)
        self._aborted: float | None = None

    def run(self) -> None:
        """To the end of the stream."""
        for line in self._stream:
            with suppress(OSError):  # nobody listens any more: the ranks must not wait for that
                sys.stdout.buffer.write(line)
                sys.stdout.flush()
            self._hear(line.decode(errors="replace").strip(), time.monotonic())

    def seconds_since_abort(self) -> float:
        """How long ago a rank has ended the job; 0 where none has."""
        return 0.0 if self._aborted is None else time.monotonic() - self._aborted

    def cause(self) -> str:
        """The first telling line of the end."""
        last = time.monotonic() if self._aborted is None else self._aborted
        return next((text for t, text in list(self._telling) if last - t < _SECONDS_OF_AN_END), "")

    def _hear(self, text: str, now: float) -> None:
        telling = self._telling
        if telling and telling[-1][1].endswith(" exited on"):  # mpirun breaks its sentence here
            telling[-1] = (telling[-1][0], f"{telling[-1][1]} {text}")
        elif any(sign in text for sign in _TELLING):
            told = text.replace("Remote daemon:", "lost contact with")
            telling.append((now, told.partition("hvd-dqn: ")[2] or told))
        elif any(sign in text for sign in _ABORTING) and self._aborted is None:
            self._aborted = now


class _Stop:
    """Requests to stop, passed on to the launch that is going on."""

    def __init__(self, launcher: Launcher) -> None:
        self._asked = False
        self._launcher = launcher
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[int, object] = {}

    def is_asked(self) -> bool:
        """Whether one has come."""
        return self._asked

    def __enter__(self) -> _Stop:
        self._before = {number: signal.signal(number, self._heard) for number in _ASKING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal itself gave

    @contextmanager
    def watching(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """This is the launch to stop."""
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
