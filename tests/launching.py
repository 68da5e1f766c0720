"""Start ranks with a real launcher, under a hard timeout, and leave nothing running."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

TIMEOUT_SECONDS = 120


class Finished(NamedTuple):
    """How a launch ended."""

    code: int
    output: str
    seconds: float

    def lines(self, containing: str) -> list[str]:
        return [line for line in self.output.splitlines() if containing in line]


AS_ROOT = {
    f"{project}_ALLOW_RUN_AS_ROOT{more}": "1"
    for project in ("OMPI", "PRTE")
    for more in ("", "_CONFIRM")
}
"""Lets mpirun run as root, which users are not."""


_OF_LAUNCHERS = ("OMPI_", "PRTE_", "PMIX_", "PMI_", "SLURM_", "HOROVOD_", "RANK", "WORLD_SIZE")


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this environment with this Python's programs first, without an outer launcher's
    variables.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_LAUNCHERS)}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    kept["OMP_NUM_THREADS"] = "1"
    return kept | extra


def launcher_command(launcher: str, ranks: int) -> list[str]:
    if launcher == "none":
        return []
    if launcher == "horovodrun":
        return ["horovodrun", "-np", str(ranks)]
    mpirun = ["mpirun"]
    if "Open MPI" in mpirun_version():
        mpirun += ["--allow-run-as-root", "--bind-to", "none", "-H", "localhost:8"]
    assert launcher in ("mpirun", "mpirun-mpmd")  # for MPMD the arguments go on with `: -np N …`
    return [*mpirun, "-np", str(ranks)]


@functools.cache
def mpirun_version() -> str:
    """Return what `mpirun --version` prints."""
    said = subprocess.run(
        ["mpirun", "--version"],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
    )
    return said.stdout


def launch(
    arguments: Sequence[str],
    *,
    ranks: int = 2,
    launcher: str = "mpirun",
    timeout: float = TIMEOUT_SECONDS,
    cwd: Path | None = None,
    **environment: str,
) -> Finished:
    """Run `python ARGUMENTS` on `ranks` ranks, and kill all its processes afterwards.

    The default launcher is mpirun: horovodrun calls it, and takes a second longer.
    """
    with started(arguments, ranks=ranks, launcher=launcher, cwd=cwd, **environment) as job:
        return job.wait(timeout)


def wait_until(condition: Callable[[], object], what: str = "it", seconds: float = 60) -> None:
    """Wait until `condition()` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)


def marked(mark: str) -> list[int]:
    """Return the processes of this machine whose environment contains `mark`, a `NAME=value`."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
        except OSError:
            continue
    return found


_MARK = "HVD_DQN_TEST_JOB"


class Job:
    """A running launch, in a session of its own."""

    def __init__(self, command: list[str], cwd: Path | None, environment: dict[str, str]) -> None:
        self._command = command
        self._mark = f"{_MARK}={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self._began = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=cwd,
            env=environment | {name: value},
            start_new_session=True,
        )

    def wait(self, timeout: float = TIMEOUT_SECONDS) -> Finished:
        """Wait for its end; kill it and fail after `timeout` seconds."""
        try:
            output, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            output, _ = self.process.communicate()
            pytest.fail(
                f"{' '.join(self._command)} took more than {timeout} s and printed:\n{output}"
            )
        return Finished(self.process.returncode, output, time.monotonic() - self._began)

    def members(self) -> list[int]:
        """Return its processes, launcher and ranks: all that inherited the job's mark, in any
        session.
        """
        return marked(self._mark)

    def kill(self) -> None:
        """Kill its processes."""
        for pid in self.members():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@contextlib.contextmanager
def started(
    arguments: Sequence[str],
    *,
    ranks: int = 2,
    launcher: str = "mpirun",
    cwd: Path | None = None,
    **environment: str,
) -> Iterator[Job]:
    """Start `python ARGUMENTS` on `ranks` ranks; none of its processes outlives the block."""
    command = [*launcher_command(launcher, ranks), sys.executable, *arguments]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as sessions:
        # An mpirun that is killed leaves its directory to the next of its number.
        if launcher != "none":
            environment.setdefault("PRTE_MCA_prte_local_tmpdir_base", sessions)
        job = Job(command, cwd, clean_environment(**environment))
        try:
            yield job
        finally:
            job.kill()
            job.process.communicate()


def hvd_dqn(*arguments: str, **options: object) -> Finished:
    """Run `hvd-dqn ARGUMENTS`; see `launch` for the options."""
    return launch(["-m", "hvd_dqn", *arguments], **options)  # type: ignore[arg-type]
