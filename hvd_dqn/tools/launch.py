"""`hvd-dqn launch`: a launcher that starts the job again where it failed, and stops it gently.

It stands above horovodrun or mpirun. What asks it to stop (Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2)
reaches every rank as SIGUSR1, sent to the mpirun below, which passes it on; horovodrun passes
nothing on, and mpirun's own SIGTERM and SIGINT end ranks at once. A SIGKILL to it leaves the job
running.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple

from hvd_dqn.distributed.communicator import hostname
from hvd_dqn.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_STOPPED,
    UserError,
)
from hvd_dqn.tools import sessions

_FINAL = (EXIT_OK, EXIT_BAD_INPUT, EXIT_STOPPED)
_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_MPIRUN = ("mpirun", "prterun", "orterun", "mpiexec", "mpiexec.hydra")
_TELLING = ("hvd-dqn: ", "noticed that process rank", "ssh", "not reachable")
_SECONDS_TO_REACH_A_HOST = 10
_SECONDS_BETWEEN_ATTEMPTS = 1.0
_SECONDS_OF_AN_END = 15.0


class Host(NamedTuple):
    """A machine and how many ranks it takes."""

    name: str
    slots: int


class Attempt(NamedTuple):
    """How one launch ended."""

    code: int
    seconds: float
    cause: str


def launch(
    command: Sequence[str],
    *,
    ranks: int,
    hosts: Sequence[Host],
    launcher: str,
    max_restarts: int,
    min_ranks: int,
) -> int:
    """Run `hvd-dqn COMMAND` on that many ranks, again after a failure, and at last on fewer; the
    exit code of the last attempt, or 1.
    """
    history: list[Attempt] = []
    with _Stop() as stop:
        while True:
            attempt = _run_once(command, ranks, hosts, launcher, stop)
            history.append(attempt)
            # A command that is wrong is so at once; later, another attempt may still be dying.
            if attempt.code in _FINAL and (attempt.code != EXIT_BAD_INPUT or len(history) == 1):
                return attempt.code
            _say(f"attempt {len(history)} on {ranks} ranks ended in {attempt.code} after "
                 f"{attempt.seconds:.0f} s: {attempt.cause}")  # fmt: skip
            if len(history) > max_restarts:
                _say(f"given up after {len(history)} attempts: " + "; ".join(
                    f"{number}. {a.cause}" for number, a in enumerate(history, 1)))  # fmt: skip
                return EXIT_FAILED
            hosts, ranks = _remaining(hosts, ranks, min_ranks)
            if stop.asked:
                return EXIT_FAILED
            command = _going_on(command)
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)


def _going_on(command: Sequence[str]) -> list[str]:
    """The same command for another attempt: what it said of an older checkpoint, or of a new run,
    was for the first.
    """
    options = list(command)
    run_dir = option(options, "run-dir")
    saved = bool(run_dir) and any(Path(run_dir).glob("checkpoints/step-*/manifest.json"))
    value = option(options, "resume")
    if value and (value == "never" or saved):
        options += ["--resume", "auto"]  # of an option that comes twice, the last one counts
    return options


def option(command: Sequence[str], name: str) -> str:
    """The value that a command line gives an option, the last where there are several."""
    value = ""
    for place, word in enumerate(command):
        flag, _, behind = word.partition("=")
        if flag.replace("_", "-") == f"--{name}":
            value = behind or (command[place + 1] if place + 1 < len(command) else "")
    return value


def parse_hosts(text: str) -> list[Host]:
    """`a:4,b:4`. `UserError` where it is not that."""
    hosts = []
    for part in filter(None, text.split(",")):
        name, _, slots = part.partition(":")
        if not name or not (slots or "1").isdecimal() or int(slots or "1") < 1:
            raise UserError(f"-H {text}: {part!r} is no HOST:SLOTS", "write it as -H a:4,b:4")
        hosts.append(Host(name, int(slots or "1")))
    return hosts


def _remaining(hosts: Sequence[Host], ranks: int, min_ranks: int) -> tuple[list[Host], int]:
    """The hosts that can be reached, and ranks for them. `UserError` where these are too few."""
    alive = [host for host in hosts if _is_reachable(host.name)]
    for host in set(hosts) - set(alive):
        _say(f"host {host.name} cannot be reached")
    if len(alive) == len(hosts):
        return alive, ranks
    left = min(ranks, sum(host.slots for host in alive))
    if left < min_ranks:
        raise UserError(f"{left} ranks are left, and --min-np is {min_ranks}")
    return alive, left


def _is_reachable(host: str) -> bool:
    if host in ("localhost", "127.0.0.1") or host.partition(".")[0] == hostname():
        return True
    wait = f"ConnectTimeout={_SECONDS_TO_REACH_A_HOST}"
    command = ["ssh", "-o", "BatchMode=yes", "-o", wait, host, "true"]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=2 * _SECONDS_TO_REACH_A_HOST, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _run_once(
    command: Sequence[str], ranks: int, hosts: Sequence[Host], launcher: str, stop: _Stop
) -> Attempt:
    where = ["-H", ",".join(f"{host.name}:{host.slots}" for host in hosts)] if hosts else []
    program = [sys.executable, "-m", "hvd_dqn", *command]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    began = time.monotonic()
    try:
        process = subprocess.Popen(
            [*launcher.split(), "-np", str(ranks), *where, *program],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PATH": path},
            start_new_session=True,
        )
    except OSError as error:
        raise UserError(f"{launcher} cannot be started: {error.strerror}") from error
    telling: deque[tuple[float, str]] = deque(maxlen=50)
    with stop.watching(process):
        assert process.stdout is not None
        reader = threading.Thread(target=_pass_on, args=(process.stdout, telling))
        reader.start()
        code = process.wait()
        reader.join(5)
    sessions.end(process.pid)
    now = time.monotonic()
    at_the_end = [text for told, text in telling if now - told < _SECONDS_OF_AN_END]
    cause = at_the_end[0] if at_the_end else f"{launcher} ended with {code}"
    return Attempt(code, now - began, cause)


def _pass_on(output: IO[bytes], telling: deque[tuple[float, str]]) -> None:
    """Print what the ranks print, and keep the lines that tell why they ended."""
    for line in output:
        with suppress(OSError):  # nobody listens any more: the ranks must not wait for that
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
        text = line.decode(errors="replace").strip()
        if telling and telling[-1][1].endswith(" exited on"):  # mpirun breaks its sentence here
            telling[-1] = (telling[-1][0], f"{telling[-1][1]} {text}")
        elif any(sign in text for sign in _TELLING):
            telling.append((time.monotonic(), text.partition("hvd-dqn: ")[2] or text))


class _Stop:
    """Requests to stop, passed on to the launch that is going on."""

    def __init__(self) -> None:
        self.asked = False
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[int, object] = {}

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
        if self.asked:
            self._ask()
        yield
        self._process = None

    def _heard(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if self._process is None:
            return
        if again and number == signal.SIGINT:
            sessions.end(self._process.pid)
            return
        self._ask()

    def _ask(self) -> None:
        assert self._process is not None
        for pid in _launchers(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)


def _launchers(session: int) -> list[int]:
    """The processes of a launch that pass SIGUSR1 on to its ranks."""
    found = [pid for pid, name in sessions.members(session) if name in _MPIRUN]
    return found[-1:] or [session]


def _say(line: str) -> None:
    print(f"hvd-dqn launch: {line}", file=sys.stderr, flush=True)
