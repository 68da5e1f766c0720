"""Start ranks with a real launcher, under a hard timeout, and leave nothing running."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
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


def clean_environment(**extra: str) -> dict[str, str]:
    """This environment, with this Python's programs first and no trace of an outer launcher."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMPI_", "PMIX_", "PMI_", "SLURM_", "HOROVOD_"))
    }
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
        mpirun += ["--allow-run-as-root", "-H", "localhost:8"]
    assert launcher in ("mpirun", "mpirun-mpmd")  # for MPMD the arguments go on with `: -np N …`
    return [*mpirun, "-np", str(ranks)]


@functools.cache
def mpirun_version() -> str:
    """What this mpirun says it is."""
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
    launcher: str = "horovodrun",
    timeout: float = TIMEOUT_SECONDS,
    cwd: Path | None = None,
    **environment: str,
) -> Finished:
    """Run `python ARGUMENTS` on that many ranks; kill its whole process group when it is over."""
    command = [*launcher_command(launcher, ranks), sys.executable, *arguments]
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=cwd,
        env=clean_environment(**environment),
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill_session(process)
        output, _ = process.communicate()
        pytest.fail(f"{' '.join(command)} took longer than {timeout} s; it said:\n{output}")
    finally:
        _kill_session(process)
    return Finished(process.returncode, output, time.monotonic() - began)


def hvd_dqn(*arguments: str, **options: object) -> Finished:
    """Run the command line on that many ranks."""
    return launch(["-m", "hvd_dqn", *arguments], **options)  # type: ignore[arg-type]


def _kill_session(process: subprocess.Popen[str]) -> None:
    """End every process of the launch: mpirun gives its ranks process groups of their own."""
    for pid in _session_members(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _session_members(session: int) -> list[int]:
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            members.append(int(stat.parent.name))
    return members
