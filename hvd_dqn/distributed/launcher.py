"""The launcher's environment variables and the host's limits, read before MPI is loaded."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import NamedTuple


class Launch(NamedTuple):
    """The place of a process in a launch. `world_size` is 0 if the launcher does not tell it, and
    `local_size` likewise. `shares_mpi` is whether its processes can meet by MPI.
    """

    launcher: str
    rank: int
    world_size: int
    local_size: int = 0
    shares_mpi: bool = True


class _Signs(NamedTuple):
    """The variables by which a launcher tells a process its place; it may not tell the size."""

    launcher: str
    rank: str
    size: str = ""
    shares_mpi: bool = True


# Launchers of one MPI come first: others may have set their variables around them.
_SIGNS = (
    _Signs("Open MPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # or horovodrun's
    _Signs("MVAPICH2's launcher", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    _Signs("an MPI launcher", "PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI, srun --mpi=pmi2
    _Signs("jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
    _Signs("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # with any MPI plugin, or without one
    _Signs("Flux", "FLUX_TASK_RANK", "FLUX_JOB_SIZE"),
    _Signs("PALS", "PALS_RANKID"),
    _Signs("aprun", "ALPS_APP_PE"),
    _Signs("PMIx", "PMIX_RANK"),
    _Signs("horovodrun --gloo", "HOROVOD_RANK", "HOROVOD_SIZE", shares_mpi=False),
    # torchrun, accelerate, deepspeed, and Kubernetes' PyTorchJob
    _Signs("a launcher of torch", "RANK", "WORLD_SIZE", shares_mpi=False),
)
NETWORK_INTERFACE = "HVD_DQN_NETWORK_INTERFACE"
"""The variable that names the network interface of a job on several hosts, such as ib0."""

_TASKS = re.compile(r"(\d+)(?:\(x(\d+)\))?")
_SOCKET_BUFFER_BYTES = 2**21
_LIMITS_OF_SOCKETS = Path("/proc/sys/net/core")
_PROCESSES = Path("/proc")
_NETWORKS = ("tcp", "usnic", "ofi")
_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")


def detect_launch(environ: Mapping[str, str] = os.environ) -> Launch | None:
    """Return the launch of this process, or `None` if it was started by hand.

    A Slurm step of one task counts as started by hand, because every interactive shell on a compute
    node is one. So do a torch launcher's variables for one process. Variables without a number, as
    some batch systems export them, are ignored.
    """
    sizes = (_number(environ, name) for name in _LOCAL_SIZES)
    local_size = next((size for size in sizes if size is not None), _tasks_here(environ))
    one_task = False
    for signs in _SIGNS:
        rank, size = _number(environ, signs.rank), _number(environ, signs.size)
        if rank is None or (signs.size and size is None):
            continue
        if size == 1 and (signs.launcher == "srun" or not signs.shares_mpi):
            one_task = one_task or signs.launcher == "srun"
        elif not (one_task and signs.launcher == "PMIx" and rank == 0):  # srun's, of its one task
            return Launch(signs.launcher, rank, size or 0, local_size, signs.shares_mpi)
    return None


def tasks_left(launch: Launch, environ: Mapping[str, str] = os.environ) -> int | None:
    """Return how many of the tasks that srun started on this node are alive, this one included.
    None if srun did not start this process, or if a container hides the others.
    """
    own_sizes = any(name in environ for name in _LOCAL_SIZES)  # those of a launcher within a task
    if launch.local_size == 0 or own_sizes or launch.local_size != _tasks_here(environ):
        return None
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for stat in _PROCESSES.glob("[0-9]*/stat"):
        try:
            front, _, behind = stat.read_text().rpartition(")")
        except OSError:
            continue  # it has exited
        state, parent = behind.split()[:2]
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
            names[int(stat.parent.name)] = front.partition("(")[2]
    process = os.getpid()
    while process in parents:
        process = parents[process]
        if names.get(process, "").startswith("slurmstepd"):
            tasks = [names[pid] for pid, parent in parents.items() if parent == process]
            return sum(not name.startswith("slurmstepd") for name in tasks)
    return None


def launch_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of the variables that are set of those by which launches are detected."""
    names = [name for signs in _SIGNS for name in (signs.rank, signs.size)]
    return [name for name in names if name in environ]


def _number(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name, "").strip()
    return int(value) if value.isdecimal() else None


def _tasks_here(environ: Mapping[str, str]) -> int:
    """Return the tasks of this Slurm step on this node, from e.g. 2(x3),1 for four nodes."""
    tasks: list[int] = []
    for number, times in _TASKS.findall(environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        tasks += int(times or 1) * [int(number)]
    node = _number(environ, "SLURM_NODEID")
    return tasks[node] if node is not None and node < len(tasks) else 0


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


_OF_LAUNCHES = (
    "OMPI_", "PMIX_", "PRTE_", "OPAL_", "PMI_", "PMI2_", "MPI_LOCAL", "MPIR_CVAR_", "HYDRA_",
    "HYDI_", "I_MPI_", "MV2_", "SLURM_", "SRUN_", "FLUX_", "PALS_", "ALPS_", "JSM_", "HOROVOD_",
)  # fmt: skip
_OF_TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_KEPT = tuple(f"{mpi}_ALLOW_RUN_AS_ROOT" for mpi in ("OMPI", "PRTE"))


def environment_of_programs(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment variables for a program that is an MPI job of its own, started by an
    environment on a rank: without those by which this launch's ranks find each other.

    With them, `mpirun simpleFoam` takes itself for a rank of this job, and fails or hangs. Without
    Slurm's variables, the job runs on this node alone; add a hostfile for others. Example:

        subprocess.run(["mpirun", "-np", "4", "simpleFoam", "-parallel"],
                       env=hvd_dqn.environment_of_programs(), check=True)
    """
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(_KEPT)
        or not (name.startswith(_OF_LAUNCHES) or name in (*_OF_TORCH, NETWORK_INTERFACE))
    }


def restrict_transports(
    launch: Launch | None, environ: MutableMapping[str, str] = os.environ
) -> None:
    """Set environment variables by which MPI and NCCL open no ports beyond what they need. Call
    this before MPI starts.

    On one host, Open MPI, UCX and Intel MPI use shared memory alone, and what must have a port
    (libfabric in MPICH, NCCL) uses the loopback interface. These settings have precedence over the
    user's, because horovodrun always passes some that enable TCP. On several hosts, all use the
    interface that `NETWORK_INTERFACE` names, if it is set.
    """
    if launch is None or 0 < launch.world_size <= max(launch.local_size, 1):
        interface = "lo"
        environ["OMPI_MCA_pml"] = "ob1"
        environ["OMPI_MCA_btl"] = _without_networks(environ.get("OMPI_MCA_btl", ""))
        environ["OMPI_MCA_osc"] = "^ucx"  # it complains that it has no network
        environ["OMPI_MCA_osc_rdma_priority"] = "1"  # in Open MPI 4.1 it crashes
        environ["UCX_TLS"] = "self,sm"
        environ["I_MPI_FABRICS"] = "shm"
    else:
        interface = environ.get(NETWORK_INTERFACE, "")
        if interface:
            environ["OMPI_MCA_btl_tcp_if_include"] = interface
    if interface:
        for name in ("NCCL_SOCKET_IFNAME", "FI_TCP_IFACE", "MPIR_CVAR_NETWORK_IFACE"):
            environ[name] = interface


def _without_networks(transports: str) -> str:
    """Return Open MPI's list of transports, or of those to leave out (^), without networks."""
    named = [name for name in transports.removeprefix("^").split(",") if name]
    if named and not transports.startswith("^") and not set(named) & set(_NETWORKS):
        return transports
    left_out = named if transports.startswith("^") else []
    return "^" + ",".join([*left_out, *(name for name in _NETWORKS if name not in left_out)])


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
