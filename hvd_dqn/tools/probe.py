"""A test launch of two ranks that sum a tensor, for `doctor` and `build-horovod`.

horovodrun -np 2 python -m hvd_dqn.tools.probe
python -m hvd_dqn.tools.probe alone
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from hvd_dqn.common.errors import UserError, one_line
from hvd_dqn.tools.launching import sessions
from hvd_dqn.tools.launching.launchers import environment_of_a_launch

MPI4PY_REMEDY = (
    "with the right mpicc on PATH: pip install --no-cache-dir --no-binary mpi4py --force-reinstall "
    "--no-deps mpi4py"
)
_MARK = "hvd-dqn-probe "
_PROBLEM = "hvd-dqn-problem "
_ALONE = "alone"
_TIMEOUT_SECONDS = 120
_MAPPED = Path("/proc/self/maps")
# Open MPI's and MPICH's, MPICH's of Debian and of Cray; not their bindings for other languages.
_LIBRARY = re.compile(r"/libmpi(ch|_(?!cxx|mpifh|usempi|java)\w+)?\.so[.\d]*$")
NOT_TRIED = "two ranks were not tried, because there is no mpirun here"
TRY_THEM = "on a compute node: srun -n 2 hvd-dqn doctor"


class ProbeResult(NamedTuple):
    """What two ranks that summed a tensor reported; the same on both.

    Without an mpirun (a Cray, a login node), one process reports what it has loaded, without
    starting MPI, and there are no `milliseconds`.
    """

    mpi_library: str
    libmpi: list[str]
    nccl: bool
    milliseconds: float | None


def probe_two_ranks() -> ProbeResult:
    """Launch two ranks with horovodrun and sum a tensor; without an mpirun, load Horovod in one
    process. Raises `UserError` if that fails.
    """
    command = [sys.executable, "-m", "hvd_dqn.tools.probe"]
    launcher = ["horovodrun", "-np", "2"]
    with environment_of_a_launch(launcher) as environment:
        together = shutil.which("mpirun", path=environment["PATH"]) is not None
        command = [*launcher, *command] if together else [*command, _ALONE]
        code, output = _run(command, environment)
    reports = _reports(output)
    if code != 0 or len(reports) != (2 if together else 1):
        failed = "two ranks could not sum a tensor" if together else "Horovod does not load"
        raise UserError(f"{failed} ({_reason(output)})")
    return ProbeResult(**{name: reports[0][name] for name in ProbeResult._fields})


def _run(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[2],  # so that -m finds this package
            start_new_session=True,
        )
    except OSError as error:
        raise UserError(f"{command[0]} cannot be started: {error.strerror}") from error
    try:
        output, _ = process.communicate(timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        sessions.end(process.pid)
        process.communicate()
        raise UserError(
            f"two ranks did not meet within {_TIMEOUT_SECONDS} s: {' '.join(command)}"
        ) from None
    return process.returncode, output


def _reports(output: str) -> list[dict[str, Any]]:
    """Return what the ranks reported. Open MPI 4 may print two ranks' lines on one."""
    found = []
    for text in output.split(_MARK)[1:]:
        with suppress(ValueError):
            found.append(json.JSONDecoder().raw_decode(text)[0])
    return found


def _reason(output: str) -> str:
    """The reason for a failure: a rank's own message, else a Python error, else the last line."""
    lines = [line for line in output.splitlines() if line.strip(" -")]
    for sign in (_PROBLEM, "Error"):
        for line in lines:
            if sign in line:
                return line.partition(_PROBLEM)[2] or line
    return lines[-1] if lines else "no output"


def _report() -> dict[str, object]:
    import time

    import torch

    from hvd_dqn.distributed.connect import connect
    from hvd_dqn.distributed.devices import select_device

    comm = connect("horovod")
    tensor = torch.empty(1000, device=select_device("auto", comm.local_rank))
    for _ in range(3):
        tensor.fill_(comm.rank)
        began = time.perf_counter()
        comm.start_sum(tensor, "probe")
        comm.finish_sum()
        milliseconds = (time.perf_counter() - began) * 1000
    expected = comm.world_size * (comm.world_size - 1) / 2
    if not bool((tensor == expected).all()):
        raise UserError(f"the sum over ranks is {tensor[0].item()} instead of {expected}")
    report = _loaded() | {"milliseconds": round(milliseconds, 3)}
    comm.close()
    return report


def _loaded() -> dict[str, object]:
    """Load Horovod and mpi4py, without starting MPI, and report what was loaded."""
    from hvd_dqn.distributed.horovod import load_horovod

    horovod, library = load_horovod(), mpi_library_version()
    nccl = bool(horovod.nccl_built())
    return {"mpi_library": library, "libmpi": loaded_mpi_libraries(), "nccl": nccl}


def mpi_library_version() -> str:
    """Return the name and version of mpi4py's MPI, on one line with single spaces. Does not start
    MPI, which a login node may not allow. Raises `UserError` if mpi4py does not load.
    """
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(f"mpi4py does not load ({one_line(error)})", MPI4PY_REMEDY) from error
    first = MPI.Get_library_version().rstrip("\x00").strip().splitlines()[0]
    return " ".join(first.partition(",")[0].split())


def loaded_mpi_libraries() -> list[str]:
    """Return the files of all MPI libraries that this process has loaded; more than one is an
    error.
    """
    try:
        maps = _MAPPED.read_text().splitlines()
    except OSError:
        return []
    files = {line.split()[-1] for line in maps if _LIBRARY.search(line)}
    return sorted({str(Path(file).resolve()) for file in files})


if __name__ == "__main__":
    try:
        alone = sys.argv[1:] == [_ALONE]
        report = _loaded() | {"milliseconds": None} if alone else _report()
        print(_MARK + json.dumps(report), flush=True)
    except UserError as problem:
        print(f"{_PROBLEM}{problem}", flush=True)
        sys.exit(1)
