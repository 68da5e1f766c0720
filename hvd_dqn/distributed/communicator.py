"""The interface between ranks, and its implementation for one process."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from hvd_dqn.common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from hvd_dqn.distributed.one_sided import OneSidedMemory

Json = Any
"""A value that `json.dumps` accepts."""


class Communicator(Protocol):
    """Collectives over all ranks. Every rank calls the same ones in the same order."""

    backend: str
    rank: int
    world_size: int
    local_rank: int
    route: str
    """How tensors travel between the GPUs of ranks: "NCCL", or "the host"."""
    has_one_sided_memory: bool
    """Whether `one_sided_memory` exists. A backend of your own may leave out both."""

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0, which writes files and prints messages."""
        ...

    def start_sum(self, tensor: Tensor, name: str, *, overlap: bool = False) -> None:
        """Start to replace `tensor` (contiguous, float32) by its sum over ranks. The tensor must
        not be used until `finish_sum` returns.

        Only one sum can be in progress. `name` is the same on every rank and at every call for the
        same tensor. `overlap`: the caller does enough work before `finish_sum` that the sum should
        progress meanwhile, even if both share a core.
        """
        ...

    def finish_sum(self) -> None:
        """Wait for the sum that `start_sum` started."""
        ...

    def broadcast(self, tensor: Tensor, name: str) -> None:
        """Replace `tensor` (contiguous) by that of rank 0."""
        ...

    def gather(self, value: Json) -> list[Json]:
        """Return the `value` of every rank, in the order of ranks, on every rank. Values travel as
        JSON.
        """
        ...

    def one_sided_memory(
        self, sizes: Sequence[int], on_wait: Callable[[bool], None] = lambda waiting: None
    ) -> OneSidedMemory:
        """Return memory with a part of so many float32 numbers on each rank; `on_wait` is called
        before and after waiting for another rank. Lives until `close`. Collective.

        Raises `UserError` if this backend cannot.
        """
        ...

    def abort(self, exit_code: int) -> None:
        """End all ranks immediately. Does not return if there are other ranks."""
        ...

    def close(self) -> None:
        """Disconnect, after a sum in progress has finished. Collective."""
        ...


class LocalCommunicator:
    """The communicator of a single process: every sum is the tensor itself."""

    backend = "local"
    rank = 0
    world_size = 1
    local_rank = 0
    route = "the host"
    has_one_sided_memory = False
    is_root = True

    def start_sum(self, tensor: Tensor, name: str, *, overlap: bool = False) -> None:
        """Do nothing."""

    def finish_sum(self) -> None:
        """Do nothing."""

    def broadcast(self, tensor: Tensor, name: str) -> None:
        """Do nothing."""

    def gather(self, value: Json) -> list[Json]:
        """Return the value as other backends do: converted to JSON and back."""
        return [json.loads(json.dumps(value))]

    def one_sided_memory(
        self, sizes: Sequence[int], on_wait: Callable[[bool], None] = lambda waiting: None
    ) -> OneSidedMemory:
        """Raise `UserError`: this is an operation of MPI."""
        raise UserError("one-sided operations need MPI", "choose --distributed.backend mpi")

    def abort(self, exit_code: int) -> None:
        """Do nothing: there are no other ranks."""

    def close(self) -> None:
        """Do nothing."""


def hostname() -> str:
    """Return the short name of this machine."""
    return socket.gethostname().partition(".")[0]
