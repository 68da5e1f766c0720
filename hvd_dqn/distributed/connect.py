"""From a backend's name to a connected Communicator, or to the reason why there is none."""

from __future__ import annotations

from hvd_dqn.distributed.communicator import Communicator, LocalCommunicator, hostname
from hvd_dqn.distributed.launcher import (
    cpu_quota,
    detect_launch,
    set_small_message_defaults,
    usable_cores,
)
from hvd_dqn.errors import UserError


def connect(backend: str = "auto") -> Communicator:
    """Join the other ranks of this launch. Never falls back in silence: N processes that cannot
    meet do not run as N strangers.

    Raises `UserError` where the backend does not work or the launcher started more processes than
    have met.
    """
    launch = detect_launch()
    if backend == "auto":
        backend = "horovod" if launch else "local"
    if backend == "local":
        if launch and launch.world_size > 1:
            raise UserError(
                f"distributed.backend = 'local', but {launch.launcher} started {launch.world_size} "
                "processes, which would train as strangers: start one process, or choose horovod "
                "or mpi"
            )
        return LocalCommunicator()
    set_small_message_defaults()
    communicator: Communicator
    if backend == "horovod":
        from hvd_dqn.distributed.horovod import HorovodCommunicator

        communicator = HorovodCommunicator()
    else:
        from hvd_dqn.distributed.mpi import MpiCommunicator

        communicator = MpiCommunicator()
    if launch and launch.world_size != communicator.world_size:
        raise UserError(
            f"{launch.launcher} started {launch.world_size} processes, but MPI has joined "
            f"{communicator.world_size}: the launcher belongs to another MPI than mpi4py's; use "
            "the mpirun beside the mpicc that mpi4py was built with (hvd-dqn doctor names both), "
            "or srun --mpi=pmix"
        )
    return communicator


def compute_threads(communicator: Communicator) -> int:
    """Threads for this rank: the cores it may use, shared with the ranks of its host that may use
    them too. Collective.
    """
    cores = usable_cores()
    places = communicator.gather([hostname(), sorted(cores)])
    sharing = sum(host == hostname() and not cores.isdisjoint(others) for host, others in places)
    usable = int(min(len(cores), cpu_quota()))
    return max(1, usable // int(sharing))
