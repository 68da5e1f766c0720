"""From a backend's name to a connected Communicator, or to the reason why there is none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed.agreement import agreement, require_same
from hvd_dqn.distributed.communicator import Communicator, LocalCommunicator, hostname
from hvd_dqn.distributed.launcher import (
    Launch,
    cpu_quota,
    detect_launch,
    set_small_message_defaults,
    usable_cores,
)

if TYPE_CHECKING:
    from hvd_dqn.distributed.mpi import MpiCommunicator


def connect(backend: str = "auto", problem: UserError | None = None) -> Communicator:
    """Join the other ranks of this launch.

    Ranks meet by plain MPI first and agree there on what each has found so far: a `problem` of one
    rank, a Horovod that does not load on another, or different backends are told to all, and no
    rank waits in one library for ranks that wait in another. Never falls back in silence: N
    processes that cannot meet do not run as N strangers.

    Raises `AgreedError` on all ranks alike, and `UserError` where ranks could not meet at all.
    """
    launch = detect_launch()
    if problem is not None and (launch is None or launch.world_size == 1):
        raise problem
    if launch is None and backend in ("auto", "local"):
        return LocalCommunicator()
    if launch is not None and launch.world_size == 1 and backend == "local":
        return LocalCommunicator()
    set_small_message_defaults(launch)
    try:
        meeting = _meet(launch)
    except UserError as error:
        raise (problem or error) from None
    with agreement(meeting):
        if problem is not None:
            raise problem
        if backend == "local":
            raise UserError(
                f"distributed.backend = 'local', but there are {meeting.world_size} processes, "
                "which would train as strangers",
                "start one process, or choose horovod or mpi",
            )
    require_same(meeting, "the command line", {"distributed.backend": backend})
    meeting.spare_core = _cores_a_rank(meeting) >= 2
    if backend == "mpi":
        return meeting
    from hvd_dqn.distributed.horovod import HorovodCommunicator, load_horovod

    with agreement(meeting):
        horovod = load_horovod()
    return HorovodCommunicator(horovod, spare_core=meeting.spare_core)


def _meet(launch: Launch | None) -> MpiCommunicator:
    from hvd_dqn.distributed.mpi import MpiCommunicator

    meeting = MpiCommunicator()
    if launch is not None and launch.world_size != meeting.world_size:
        raise UserError(
            f"{launch.launcher} started {launch.world_size} processes, but MPI has joined "
            f"{meeting.world_size}: the launcher belongs to another MPI than mpi4py's",
            "use the mpirun beside the mpicc that mpi4py was built with (hvd-dqn doctor names "
            "both), or srun --mpi=pmix",
        )
    return meeting


def compute_threads(communicator: Communicator, useful: int) -> int:
    """Threads for this rank: OMP_NUM_THREADS where the user set it, else the cores it may use,
    shared with the ranks of its host that may use them too, and no more than are `useful`.
    Collective.
    """
    share = _cores_a_rank(communicator)
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return max(1, min(share, useful))


def _cores_a_rank(communicator: Communicator) -> int:
    """The cores that this rank may use, shared with the ranks of its host that may use them too; 0
    where they are fewer than the ranks. Collective.
    """
    cores = usable_cores()
    places = communicator.gather([hostname(), sorted(cores)])
    sharing = sum(host == hostname() and not cores.isdisjoint(others) for host, others in places)
    return int(min(len(cores), cpu_quota())) // int(sharing)
