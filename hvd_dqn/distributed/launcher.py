"""The launcher's environment variables and the host's limits, read before MPI is loaded."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import NamedTuple


class Launch(NamedTuple):
    """The place of a process in a launch. `local_size` is 0 if the launcher does not set it."""

    launcher: str
    rank: int
    world_size: int
    local_size: int = 0


# Open MPI's mpirun (also under horovodrun); MVAPICH2; MPICH, Intel MPI and srun --mpi=pmi2; srun
# with any MPI plugin.
_VARIABLES = (
    ("Open MPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MVAPICH2's launcher", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("an MPI launcher", "PMI_RANK", "PMI_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("Flux", "FLUX_TASK_RANK", "FLUX_JOB_SIZE"),
    ("horovodrun without MPI", "HOROVOD_RANK", "HOROVOD_SIZE"),
)
_TASKS = re.compile(r"(\d+)(?:\(x(\d+)\))?")
_SOCKET_BUFFER_BYTES = 2**21
_LIMITS_OF_SOCKETS = Path("/proc/sys/net/core")
_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")


def detect_launch(environ: Mapping[str, str] = os.environ) -> Launch | None:
    """Return the launch of this process, or `None` if it was started by hand.

    A Slurm step of one task counts as started by hand, because every interactive shell on a compute
    node is one.
    """
    local_size = next((int(environ[name]) for name in _LOCAL_SIZES if name in environ), None)
    if local_size is None:
        local_size = _tasks_here(environ)
    for launcher, rank, size in _VARIABLES:
        if rank in environ and size in environ:
            launch = Launch(launcher, int(environ[rank]), int(environ[size]), local_size)
            if launcher != "srun" or launch.world_size > 1:
                return launch
    return None


def _tasks_here(environ: Mapping[str, str]) -> int:
    """Return the tasks of this Slurm step on this node, from e.g. 2(x3),1 for four nodes."""
    tasks: list[int] = []
    for number, times in _TASKS.findall(environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        tasks += int(times or 1) * [int(number)]
    node = environ.get("SLURM_NODEID", "")
    return tasks[int(node)] if node.isdigit() and int(node) < len(tasks) else 0


def usable_cores() -> set[int]:
    """Return the cores that this process may run on."""
    return (
        os.sched_getaffinity(0)
        if hasattr(os, "sched_getaffinity")
        else set(range(os.cpu_count() or 1))
    )


def requested_threads(environ: Mapping[str, str] = os.environ) -> int | None:
    """Return the value of OMP_NUM_THREADS, of a list such as `4,2` its first; `None` if it is not
    set or not a positive number.
    """
    first = environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return (int(first) or None) if first.isdecimal() and first.isascii() else None


def cpu_quota() -> float:
    """Return the CPU time that the container of this process allows, in cores; infinity without a
    limit (cgroup v2).
    """
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return math.inf
    return math.inf if quota == "max" else int(quota) / int(period)


def socket_buffer_limit() -> int:
    """Return the largest size of a socket's buffers on this host in bytes; 0 if unknown."""
    names = "rmem_max", "wmem_max"
    try:
        return min(int((_LIMITS_OF_SOCKETS / name).read_text()) for name in names)
    except OSError:
        return 0


def set_small_message_defaults(
    launch: Launch | None, environ: MutableMapping[str, str] = os.environ
) -> None:
    """Set environment variables that make messages of a few hundred KB fast, unless the user set
    them. Call this before MPI starts.

    Horovod's thread and MPI's busy polling share the rank's cores with the learner. Therefore the
    thread sleeps until it is needed (see `tools/horovod/patches`; another build of Horovod
    wakes up at short cycles instead), and MPI yields if a rank has fewer than two cores. Measured
    with 270 KB and one core per rank: 0.2 ms (0.3 ms), and 4 to 20 ms with the defaults.

    Between hosts, Open MPI's TCP uses a handshake for messages above 64 KiB, so that the gradients
    of a small network cross a network of high latency several times (benchmarks/RESULTS.md). Here
    half a MiB is sent at once, which takes 4 to 20 MB of buffers. Sockets get buffers of 2 MiB, if
    the host allows it, instead of the kernel's adaptive ones: faster for such gradients, and not
    slower for a few MB. Of Open MPI's allreduce algorithms, those with the fewest network crossings
    are chosen: one instead of two for two hosts; 2 log N instead of 2 N for overlapped sums over N
    ranks, in which each crossing waits until a thread polls.
    """
    ranks, ranks_here = (launch.world_size, launch.local_size) if launch is not None else (1, 1)
    environ.setdefault("OMPI_MCA_btl_tcp_eager_limit", str(2**19))
    if socket_buffer_limit() >= _SOCKET_BUFFER_BYTES:
        environ.setdefault("OMPI_MCA_btl_tcp_sndbuf", str(_SOCKET_BUFFER_BYTES))
        environ.setdefault("OMPI_MCA_btl_tcp_rcvbuf", str(_SOCKET_BUFFER_BYTES))
    hidden = "recursive_doubling" if ranks == 2 else "rabenseifner"
    environ.setdefault("OMPI_MCA_coll_libnbc_iallreduce_algorithm", hidden)
    chosen_by_user = any(name.startswith("OMPI_MCA_coll_tuned_") for name in environ)
    if (ranks, ranks_here) == (2, 1) and not chosen_by_user:
        environ["OMPI_MCA_coll_tuned_use_dynamic_rules"] = "1"
        environ["OMPI_MCA_coll_tuned_allreduce_algorithm"] = "recursive_doubling"
    if "HOROVOD_CYCLE_TIME" not in environ:
        environ["HOROVOD_CYCLE_TIME"] = "0.1"
        environ.setdefault("HOROVOD_IDLE_CYCLE_TIME", "1000")
    if ranks_here == 0 or len(usable_cores()) < 2 * ranks_here:
        environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
