"""Connects ranks: from the name of a backend to a Communicator, or to a one-line error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from hvd_dqn.common.ending import end_process
from hvd_dqn.common.errors import EXIT_OK, UserError
from hvd_dqn.common.extensions import lookup
from hvd_dqn.distributed.agreement import agreement, require_same
from hvd_dqn.distributed.communicator import Communicator, LocalCommunicator, hostname
from hvd_dqn.distributed.doors import admit_only, listening_sockets, own_addresses
from hvd_dqn.distributed.launcher import (
    Launch,
    cpu_quota,
    detect_launch,
    launch_variables,
    requested_threads,
    restrict_transports,
    set_small_message_defaults,
    tasks_left,
    usable_cores,
)
from hvd_dqn.distributed.solvers import SolverRank, Solvers, needs_mpi, solver_link, split

if TYPE_CHECKING:
    from hvd_dqn.distributed.mpi import MpiCommunicator


def _local(meeting: Communicator) -> Communicator:
    with agreement(meeting):
        if meeting.world_size > 1:
            raise UserError(
                f"distributed.backend = 'local', but there are {meeting.world_size} processes, "
                "which would train as strangers",
                "start one process, or choose horovod or mpi",
            )
    return LocalCommunicator()


def _mpi(meeting: Communicator) -> Communicator:
    return meeting


def _horovod(meeting: Communicator) -> Communicator:
    from hvd_dqn.distributed.horovod import HorovodCommunicator, load_horovod

    with agreement(meeting):
        horovod = load_horovod()
    among = cast("MpiCommunicator", meeting).among
    spare_core = _cores_per_rank(meeting) >= 2
    return HorovodCommunicator(horovod, among=among, spare_core=spare_core)


BACKENDS: dict[str, Callable[[Communicator], Communicator]] = {
    "auto": _horovod,  # under a launcher; without one, connect chooses "local"
    "local": _local,
    "horovod": _horovod,
    "mpi": _mpi,
}
"""A new backend is one module with a `Communicator`, and one entry here.

An entry is called with a communicator over which the ranks have already met: plain MPI, or
`LocalCommunicator` for the user's own backend in a process without a launcher. All ranks call it at
the same time, so it may use collectives. It returns the communicator to train with.
"""


def connect(
    backend: str = "auto",
    problem: UserError | None = None,
    solvers: Solvers | None = None,
) -> Communicator:
    """Connect to the other ranks of this launch, with one of `BACKENDS` or the user's
    `module:function`. With `solvers`, the ranks that learn are connected to each other, and each to
    its solver ranks; on a solver rank this serves its learner and then ends the process.

    Ranks meet by plain MPI first and agree on what each has found so far: a `problem` of one rank,
    a backend that does not load, or different backends are reported on all ranks, and no rank waits
    in one library for ranks that wait in another. There is no silent fallback: N processes that
    cannot connect do not run as N separate ones.

    Raises `AgreedError` on all ranks alike, and `UserError` if the ranks cannot meet at all.
    """
    launch = detect_launch()
    if launch is not None and not launch.shares_mpi:
        if backend in BACKENDS:
            problem = problem or _strangers(launch)
        launch = None  # the user's own backend may join them
    if backend == "auto" and launch is None:
        backend = "local"
    try:
        make = lookup("distributed.backend", backend, BACKENDS)
    except UserError as error:
        problem = problem or error
    alone = launch is None or launch.world_size == 1
    if solvers is not None:
        problem = problem or _unfit_for_solvers(solvers, backend, alone=alone)
    if problem is not None and alone:
        raise problem
    if alone and (backend == "local" or (launch is None and backend not in BACKENDS)):
        return make(LocalCommunicator())
    try:
        meeting = _meet(launch)
    except UserError as error:
        raise (problem or error) from None
    with agreement(meeting):
        if problem is not None:
            raise problem
    shape = {
        "distributed.backend": backend,
        "env.num-envs": solvers and solvers.num_envs,
        "env.ranks-per-env": solvers and solvers.ranks_per_env,
    }
    require_same(meeting, "the command line", shape)
    if solvers is not None:
        meeting = _split(meeting, solvers)
        if backend == "auto" and meeting.world_size == 1:
            make = _mpi  # one learner has nothing to sum
    meeting.spare_core = _cores_per_rank(meeting) >= 2
    return make(meeting)


def _meet(launch: Launch | None) -> MpiCommunicator:
    from hvd_dqn.distributed.mpi import MpiCommunicator

    if launch is not None:
        _require_other_tasks(launch)
    set_small_message_defaults(launch)
    restrict_transports(launch)
    open_before = listening_sockets()
    meeting = MpiCommunicator()
    joined = meeting.world_size
    if launch is not None and launch.world_size != joined and (launch.world_size or joined == 1):
        raise _strangers(launch, joined)
    _keep_strangers_out(meeting, listening_sockets() - open_before)
    return meeting


def _unfit_for_solvers(solvers: Solvers, backend: str, *, alone: bool) -> UserError | None:
    """Return why this launch cannot have solver ranks, if it cannot."""
    if alone:
        return needs_mpi(solvers)
    if backend == "local":
        return UserError(
            "distributed.backend = 'local' does not connect ranks, but env.ranks-per-env = "
            f"{solvers.ranks_per_env} needs several",
            "leave the backend out",
        )
    return None


def _split(meeting: MpiCommunicator, solvers: Solvers) -> MpiCommunicator:
    """Return the communicator of the learners. On a solver rank, serve, and end the process."""
    from hvd_dqn.distributed.mpi import MpiCommunicator

    part = split(meeting, solvers)
    if isinstance(part, SolverRank):
        solvers.serve(part)
        end_process(EXIT_OK)
    return MpiCommunicator(part)


def _keep_strangers_out(meeting: Communicator, listening: set[int]) -> None:
    """Let only the job's hosts connect to the sockets on which MPI listens. Collective."""
    everyone = meeting.gather(own_addresses())
    if all(everyone):
        admit_only(sorted({address for own in everyone for address in own}), listening)


def _require_other_tasks(launch: Launch) -> None:
    """Raise `UserError` in a shell of a Slurm step whose other tasks have exited: MPI would wait
    for them forever.
    """
    left = tasks_left(launch)
    if left is not None and left < launch.local_size:
        raise UserError(
            f"srun started {launch.local_size} tasks on this node, but {left} are left: the others "
            "have exited, and MPI would wait for them",
            "start all ranks with srun itself, or a shell with srun --ntasks=1 --pty; in this "
            f"shell: unset {' '.join(launch_variables())}",
        )


def _strangers(launch: Launch, joined: int = 1) -> UserError:
    """Return the error of processes that cannot meet and would each train the whole run."""
    count = launch.world_size or "several"
    told = launch_variables()
    by_hand = f"if you started only this one, by hand: unset {' '.join(told)}"
    if not launch.shares_mpi:
        return UserError(
            f"{launch.launcher} started {count} processes ({' and '.join(told)} are set), which "
            "cannot meet: ranks of hvd_dqn meet by MPI",
            f"start them with horovodrun, mpirun, srun or hvd-dqn launch; {by_hand}",
        )
    return UserError(
        f"{launch.launcher} started {count} processes, but MPI has joined {joined}: the launcher "
        "belongs to another MPI than mpi4py's",
        "use the mpirun next to the mpicc that mpi4py was built with (hvd-dqn doctor names both), "
        f"or srun --mpi=pmix; {by_hand}",
    )


def compute_threads(communicator: Communicator, useful: int) -> int:
    """Return the number of threads of this rank: its share of the cores that it may use, but at
    most `useful`, and at most OMP_NUM_THREADS if the user set it. Collective.

    More threads than cores are slow: they spin while they wait for each other (measured on two
    cores: 8 threads take 1.6 times as long as one, 64 take 7 times).
    """
    share = _cores_per_rank(communicator)
    return max(1, min(share, useful, requested_threads() or useful))


def _cores_per_rank(communicator: Communicator) -> int:
    """Return the number of cores that this rank may use, divided by the number of ranks of its host
    that may use them too, solver ranks included; 0 if there are fewer cores than ranks. Collective.
    """
    cores, link = usable_cores(), solver_link()
    own = [[hostname(), sorted(cores)]]
    own += [[place.host, place.cores] for group in link.groups for place in group] if link else []
    places = [place for of_rank in communicator.gather(own) for place in of_rank]
    sharing = sum(host == hostname() and not cores.isdisjoint(others) for host, others in places)
    return int(min(len(cores), cpu_quota())) // int(sharing)
