"""Sums over ranks without this project: what ours stand beside."""

from __future__ import annotations

import socket
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch import distributed as torch_distributed

from hvd_dqn.distributed import Communicator

_SECONDS = 60


class PlainSums(Protocol):
    """A library's own sum, and the messages between neighbours that a ring of it is made of."""

    name: str

    def sum(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over ranks, and wait for it."""
        ...

    def exchange(self, away: Tensor, here: Tensor) -> None:
        """Send to the next rank while as much comes from the one before."""
        ...


class MpiSums:
    """mpi4py, in the host's memory."""

    name = "MPI"

    def __init__(self) -> None:
        from mpi4py import MPI

        self._in_place: Any = MPI.IN_PLACE
        self._world = MPI.COMM_WORLD
        rank, size = self._world.Get_rank(), self._world.Get_size()
        self._next, self._before = (rank + 1) % size, (rank - 1) % size

    def sum(self, tensor: Tensor) -> None:
        """See `PlainSums`."""
        self._world.Allreduce(self._in_place, tensor.numpy())

    def exchange(self, away: Tensor, here: Tensor) -> None:
        """See `PlainSums`."""
        self._world.Sendrecv(away.numpy(), self._next, recvbuf=here.numpy(), source=self._before)


class TorchSums:
    """torch's collectives, by NCCL or Gloo. Collective."""

    def __init__(self, comm: Communicator, library: str) -> None:
        join(comm, library)
        self.name = {"nccl": "NCCL", "gloo": "Gloo"}[library]
        rank, size = comm.rank, comm.world_size
        self._next, self._before = (rank + 1) % size, (rank - 1) % size

    def sum(self, tensor: Tensor) -> None:
        """See `PlainSums`."""
        torch_distributed.all_reduce(tensor)
        self._wait(tensor)

    def exchange(self, away: Tensor, here: Tensor) -> None:
        """See `PlainSums`."""
        both = [
            torch_distributed.P2POp(torch_distributed.isend, away, self._next),
            torch_distributed.P2POp(torch_distributed.irecv, here, self._before),
        ]
        for work in torch_distributed.batch_isend_irecv(both):
            work.wait()
        self._wait(here)

    @staticmethod
    def _wait(tensor: Tensor) -> None:
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)


def join(comm: Communicator, library: str) -> None:
    """torch's process group of the ranks of this launch, on any hosts. Collective."""
    timeout = timedelta(seconds=_SECONDS)
    connected = partial(
        torch_distributed.TCPStore,  # type: ignore[attr-defined]
        comm.gather(socket.gethostname())[0],
        world_size=comm.world_size,
        timeout=timeout,
        wait_for_workers=False,
    )
    store: Any = connected(port=0, is_master=True) if comm.is_root else None
    port = comm.gather(store.port if comm.is_root else 0)[0]
    if store is None:
        store = connected(port=port, is_master=False)
    torch_distributed.init_process_group(
        library, store=store, rank=comm.rank, world_size=comm.world_size, timeout=timeout
    )
