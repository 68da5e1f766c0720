"""`hvd-dqn launch`: a launcher that starts the job again where it failed, and stops it gently.

It stands above horovodrun or mpirun. What asks it to stop (Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2)
reaches every rank as SIGUSR1, which those pass on, where their own SIGTERM and SIGINT end ranks at
once.
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
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple

from hvd_dqn.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_STOPPED,
    UserError,
)

_FINAL = (EXIT_OK, EXIT_BAD_INPUT, EXIT_STOPPED)
_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_MPIRUN = ("mpirun", "prterun", "orterun", "mpiexec", "mpiexec.hydra", "srun")
_TELLING = ("hvd-dqn: ", "noticed that process rank", "ssh", "not reachable")
_SECONDS_TO_REACH_A_HOST = 10


class Host(NamedTuple):
    """A machine and how many ranks it takes."""

    name: str
    slots: int


class Attempt(NamedTuple):
    """How one launch ended."""

    ranks: int
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
            if attempt.code in _FINAL:
                return attempt.code
            _say(f"attempt {len(history)} on {ranks} ranks ended in {attempt.code} after "
                 f"{attempt.seconds:.0f} s: {attempt.cause}")  # fmt: skip
            if stop.asked:
                return EXIT_FAILED
            if len(history) > max_restarts:
                _say(f"given up after {len(history)} attempts: " + "; ".join(
                    f"{number}. {a.cause}" for number, a in enumerate(history, 1)))  # fmt: skip
                return EXIT_FAILED
            hosts, ranks = _remaining(hosts, ranks, min_ranks)


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
    if host in ("localhost", "127.0.0.1", os.uname().nodename):
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
    telling: deque[str] = deque(maxlen=3)
    with stop.watching(process):
        assert process.stdout is not None
        reader = threading.Thread(target=_pass_on, args=(process.stdout, telling))
        reader.start()
        code = process.wait()
        reader.join(5)
    _end(process.pid)
    cause = telling[0] if telling else f"{launcher} ended with {code}"
    return Attempt(ranks, code, time.monotonic() - began, cause)


def _pass_on(output: IO[bytes], telling: deque[str]) -> None:
    """Print what the ranks print, and keep the lines that tell why they ended."""
    for line in output:
        sys.stdout.buffer.write(line)
        sys.stdout.flush()
        text = line.decode(errors="replace").strip()
        if telling and telling[-1].endswith(" exited on"):  # mpirun breaks its sentence here
            telling[-1] += f" {text}"
        elif any(sign in text for sign in _TELLING):
            telling.append(text.partition("hvd-dqn: ")[2] or text)


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
        yield
        self._process = None

    def _heard(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if self._process is None:
            return
        if again and number == signal.SIGINT:
            _end(self._process.pid)
            return
        for pid in _launchers(self._process.pid):
            os.kill(pid, signal.SIGUSR1)


def _launchers(session: int) -> list[int]:
    """The processes of a launch that pass SIGUSR1 on to its ranks."""
    found = [pid for pid, name in _members(session) if name in _MPIRUN]
    return found[-1:] or [session]


def _members(session: int) -> list[tuple[int, str]]:
    """Processes of a session, by age, with their names."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            front, _, fields = stat.read_text().rpartition(")")
        except OSError:
            continue
        if int(fields.split()[3]) == session:
            found.append((int(stat.parent.name), front.partition("(")[2]))
    return sorted(found)


def _end(session: int) -> None:
    """End what is left of a launch on this host."""
    for pid, _ in _members(session):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _say(line: str) -> None:
    print(f"hvd-dqn launch: {line}", file=sys.stderr, flush=True)
