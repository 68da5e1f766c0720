"""Ranks for environments that are MPI programs: the split of a job, and messages between its parts.

A job of L·(1 + N·M) ranks has L learner ranks with N environments each, and a group of M solver
ranks for each environment. A learner and its groups are consecutive ranks, so that a launcher that
fills one node after the other places them together:

    rank    0          1 … M     M+1 … 2M  …   N·M     N·M+1
    role    learner 0  group 0   group 1   …           learner 1  …

Everything else in this package sees only the learners' communicator. Messages are JSON and bytes,
never pickle. Who waits for one sleeps between looks, because groups compute on the same cores.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from hvd_dqn.common.errors import EXIT_FAILED, UserError
from hvd_dqn.distributed.agreement import agreement
from hvd_dqn.distributed.communicator import Json, hostname
from hvd_dqn.distributed.launcher import usable_cores

if TYPE_CHECKING:
    from hvd_dqn.distributed.mpi import MpiCommunicator

SECONDS_TO_END = 20.0
"""How long solver ranks may take to close their environments."""
_LONGEST_SLEEP = 1e-3
_SLEEP_SHARE = 1 / 20
"""Sleep at most this share of the time waited so far: it is added to what a step takes."""


class Solvers(NamedTuple):
    """What a run asks of its job: `num_envs` environments for each learner, and `ranks_per_env`
    ranks for each of them, on which `serve` is called.
    """

    num_envs: int
    ranks_per_env: int
    serve: Callable[[SolverRank], None]

    @property
    def block(self) -> int:
        """The number of ranks of one learner: itself and its groups."""
        return 1 + self.num_envs * self.ranks_per_env

    def __str__(self) -> str:
        return (
            f"env.num-envs = {self.num_envs} and env.ranks-per-env = {self.ranks_per_env} take "
            f"1 + {self.num_envs}·{self.ranks_per_env} = {self.block} ranks for each that learns"
        )

    def require(self, world_size: int) -> None:
        """Raise `UserError` if a job of `world_size` ranks cannot be divided."""
        if world_size % self.block:
            below = world_size // self.block * self.block
            counts = f"{below} or {below + self.block}" if below else str(self.block)
            raise UserError(f"the job has {world_size} ranks, but {self}", f"start {counts} ranks")


def needs_mpi(solvers: Solvers) -> UserError:
    """Return the error of a process that was not started by an MPI launcher."""
    return UserError(
        f"{solvers}, and this process was not started by an MPI launcher",
        f"for example mpirun -np {solvers.block} hvd-dqn …",
    )


class SolverPlace(NamedTuple):
    """A solver rank: its number in the job, its host, and the cores that it may use."""

    rank: int
    host: str
    cores: list[int]


class Mailbox:
    """Sends and receives messages, JSON with bytes behind it, between single ranks."""

    def __init__(self, mpi: Any, comm: Any) -> None:
        """`comm`: an mpi4py communicator that nobody else uses."""
        self._mpi = mpi
        self._comm = comm
        self._sent: list[tuple[Any, bytes]] = []

    def send(self, rank: int, header: Json, payload: Any = b"") -> None:
        """Send a message. Does not wait until it is received."""
        text = json.dumps(header).encode()
        message = b"".join((len(text).to_bytes(8, "little"), text, payload))
        self._sent = [sent for sent in self._sent if not sent[0].Test()]
        self._sent.append((self._comm.Isend([message, self._mpi.BYTE], rank), message))

    def take(self) -> tuple[int, Json, memoryview] | None:
        """Return a message that has arrived and the rank that sent it; `None` if there is none."""
        status = self._mpi.Status()
        message = self._comm.Improbe(self._mpi.ANY_SOURCE, self._mpi.ANY_TAG, status)
        if message is None:
            return None
        data = bytearray(status.Get_count(self._mpi.BYTE))
        message.Recv([data, self._mpi.BYTE])
        size = 8 + int.from_bytes(data[:8], "little")
        return status.Get_source(), json.loads(data[8:size]), memoryview(data)[size:]

    def wait(
        self, deadline: float = float("inf"), on_wait: Callable[[], None] = lambda: None
    ) -> tuple[int, Json, memoryview] | None:
        """Return the next message; `None` if there is none until `deadline`, a time of
        `time.monotonic`. Calls `on_wait` before each sleep.
        """
        began = time.monotonic()
        while (message := self.take()) is None:
            now = time.monotonic()
            if now >= deadline:
                return None
            on_wait()
            time.sleep(min((now - began) * _SLEEP_SHARE, _LONGEST_SLEEP))
        return message

    def flush(self) -> None:
        """Wait until what was sent has been received."""
        while self._sent:
            self._sent.pop()[0].Wait()


class SolverRank:
    """One of the M ranks of a group, and its connection to its learner."""

    def __init__(self, mailbox: Mailbox, group: Any, learner: int) -> None:
        """`group`: the mpi4py communicator of the M ranks; `learner`: its learner's rank in the
        job.
        """
        self._mailbox = mailbox
        self._group = group
        self._learner = learner
        self.number: int = group.Get_rank()

    @property
    def is_root(self) -> bool:
        """Whether this rank returns the group's observations."""
        return self.number == 0

    def communicator(self) -> Any:
        """Return a new communicator of the group, for a new environment. Collective over it."""
        return self._group.Dup()

    def receive(self) -> tuple[Json, Any]:
        """Wait for the next command; return it and the bytes behind it."""
        message = self._mailbox.wait()
        assert message is not None, "there is no deadline"
        return message[1:]

    def reply(self, header: Json, payload: Any = b"") -> None:
        """Answer a command."""
        self._mailbox.send(self._learner, header, payload)

    def flush(self) -> None:
        """Wait until the learner has received all answers."""
        self._mailbox.flush()


class SolverLink:
    """A learner's connection to its N groups: `groups` has the places of each group's ranks."""

    def __init__(self, mpi: Any, mailbox: Mailbox, groups: list[list[SolverPlace]]) -> None:
        self.groups = groups
        self.mailbox = mailbox
        self._mpi = mpi

    @property
    def lets_others_run(self) -> bool:
        """Whether a thread may use MPI while another one does."""
        return bool(self._mpi.Query_thread() == self._mpi.THREAD_MULTIPLE)

    def send(self, group: int, header: Json, payload: Any = b"") -> None:
        """Send a message to all ranks of a group."""
        for place in self.groups[group]:
            self.mailbox.send(place.rank, header, payload)

    def end(self) -> None:
        """Let the solver ranks close their environments and end. If some do not within
        `SECONDS_TO_END`, abort the job: MPI would wait for them.
        """
        if self._mpi.Is_finalized():
            return
        left = {place.rank: place.host for group in self.groups for place in group}
        for group in range(len(self.groups)):
            self.send(group, [-1, "end"])
        deadline = time.monotonic() + SECONDS_TO_END
        while left:
            message = self.mailbox.wait(deadline)
            if message is None:
                named = ", ".join(f"{rank} on {host}" for rank, host in left.items())
                print(
                    f"hvd-dqn: solver ranks did not end within {SECONDS_TO_END:g} s (rank "
                    f"{named} of the job): aborting",
                    file=sys.stderr,
                    flush=True,
                )
                self._mpi.COMM_WORLD.Abort(EXIT_FAILED)
                os._exit(EXIT_FAILED)
            rank, (number, *_), _ = message
            if number == -1:
                left.pop(rank, None)
        self.mailbox.flush()


_links: list[SolverLink] = []


def solver_link() -> SolverLink | None:
    """Return this process's connection to its solver ranks, if it has some. Like MPI, there is one
    per process.
    """
    return _links[0] if _links else None


def split(meeting: MpiCommunicator, solvers: Solvers) -> Any:
    """Divide the job. On learners, connect to the groups and return the mpi4py communicator of all
    learners; on solver ranks, return a `SolverRank`. Collective.

    Raises `AgreedError` if the ranks cannot be divided.
    """
    with agreement(meeting):
        solvers.require(meeting.world_size)
    mpi, rank = meeting.mpi, meeting.rank
    learner, place = rank // solvers.block * solvers.block, rank % solvers.block
    places = meeting.gather([rank, hostname(), sorted(usable_cores())])
    group = mpi.UNDEFINED if place == 0 else rank - (place - 1) % solvers.ranks_per_env
    private = meeting.among.Dup()
    learners = meeting.among.Split(0 if place == 0 else mpi.UNDEFINED, rank)
    solver_ranks = meeting.among.Split(group, rank)
    mailbox = Mailbox(mpi, private)
    if place > 0:
        return SolverRank(mailbox, _group_class(mpi)(solver_ranks), learner)
    first = learner + 1
    size = solvers.ranks_per_env
    mine = [SolverPlace(*place) for place in places[first : learner + solvers.block]]
    groups = [mine[start : start + size] for start in range(0, len(mine), size)]
    link = SolverLink(mpi, mailbox, groups)
    _links.append(link)
    atexit.register(link.end)  # before MPI is finalized
    return learners


def _group_class(mpi: Any) -> Any:
    """Return mpi4py's class of communicators, except that a deep copy is the communicator itself:
    Gymnasium copies the arguments of an environment, which mpi4py cannot.
    """

    class Group(mpi.Intracomm):  # type: ignore[misc]
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            return self

    return Group
