"""Sums over ranks by other libraries, to compare this project's with."""

from __future__ import annotations

import socket
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch import distributed as torch_distributed

from hvd_dqn.distributed import Communicator

_TIMEOUT_SECONDS = 60


class PlainSums(Protocol):
    """A library's own allreduce, and the exchange between neighbours that a ring consists of."""

    name: str

    def sum(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over all ranks; returns when it is complete."""
        ...

    def exchange(self, sent: Tensor, received: Tensor) -> None:
        """Send `sent` to the next rank, and receive as many bytes from the previous one."""
        ...


class MpiSums:
    """mpi4py, on tensors in host memory."""

    name = "MPI"

    def __init__(self) -> None:
        from mpi4py import MPI

        self._in_place: Any = MPI.IN_PLACE
        self._world = MPI.COMM_WORLD
        rank, size = self._world.Get_rank(), self._world.Get_size()
        self._next, self._previous = (rank + 1) % size, (rank - 1) % size

    def sum(self, tensor: Tensor) -> None:
        """See `PlainSums`."""
        self._world.Allreduce(self._in_place, tensor.numpy())

    def exchange(self, sent: Tensor, received: Tensor) -> None:
        """See `PlainSums`."""
        self._world.Sendrecv(
            sent.numpy(), self._next, recvbuf=received.numpy(), source=self._previous
        )


class TorchSums:
    """torch.distributed with NCCL or Gloo. Creating it is collective."""

    def __init__(self, comm: Communicator, library: str) -> None:
        join_process_group(comm, library)
        self.name = {"nccl": "NCCL", "gloo": "Gloo"}[library]
        rank, size = comm.rank, comm.world_size
        self._next, self._previous = (rank + 1) % size, (rank - 1) % size

    def sum(self, tensor: Tensor) -> None:
        """See `PlainSums`."""
        torch_distributed.all_reduce(tensor)
        self._synchronize(tensor)

    def exchange(self, sent: Tensor, received: Tensor) -> None:
        """See `PlainSums`."""
        both = [
            torch_distributed.P2POp(torch_distributed.isend, sent, self._next),
            torch_distributed.P2POp(torch_distributed.irecv, received, self._previous),
        ]
        for work in torch_distributed.batch_isend_irecv(both):
            work.wait()
        self._synchronize(received)

    @staticmethod
    def _synchronize(tensor: Tensor) -> None:
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)


def join_process_group(comm: Communicator, library: str) -> None:
    """Initialise torch's process group for the ranks of this launch, on any hosts. Collective."""
    timeout = timedelta(seconds=_TIMEOUT_SECONDS)
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
