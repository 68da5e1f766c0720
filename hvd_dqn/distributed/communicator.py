"""What a run needs of the ranks beside it, and the object that stands in when there are none."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Json = Any
"""A value that `json.dumps` takes."""


class Communicator(Protocol):
    """Collectives over all ranks. Every rank calls the same ones in the same order."""

    backend: str
    rank: int
    world_size: int
    local_rank: int
    route: str
    """How a GPU's tensors reach those of other ranks: NCCL, or the host."""

    @property
    def is_root(self) -> bool:
        """Whether this rank speaks for all."""
        ...

    def start_sum(self, tensor: Tensor, name: str, *, overlap: bool = False) -> None:
        """Begin replacing `tensor` (contiguous, float32) by its sum over ranks; it must not be
        touched until `finish_sum`.

        One sum is under way at a time. `name` is the same on every rank and at every call for the
        same tensor. `overlap`: so much work comes before `finish_sum` that the sum is to be made
        meanwhile, even where that takes the core from the work.
        """
        ...

    def finish_sum(self) -> None:
        """Wait for the sum that `start_sum` began."""
        ...

    def broadcast(self, tensor: Tensor, name: str) -> None:
        """Replace `tensor` (contiguous) by the root's."""
        ...

    def gather(self, value: Json) -> list[Json]:
        """Every rank's `value`, in order of rank, on every rank. Travels as JSON."""
        ...

    def abort(self, exit_code: int) -> None:
        """End every rank now, whatever it is doing. Does not return where there are other ranks."""
        ...

    def close(self) -> None:
        """Leave in good order, when a sum that is under way has come; every rank does."""
        ...


class LocalCommunicator:
    """One process: every sum is done already and nobody has to be waited for."""

    backend = "local"
    rank = 0
    world_size = 1
    local_rank = 0
    route = "the host"
    is_root = True

    def start_sum(self, tensor: Tensor, name: str, *, overlap: bool = False) -> None:
        """The sum over one rank is the tensor itself."""

    def finish_sum(self) -> None:
        """Nothing is under way."""

    def broadcast(self, tensor: Tensor, name: str) -> None:
        """The root's tensor is this one."""

    def gather(self, value: Json) -> list[Json]:
        """As other backends return it: through JSON."""
        return [json.loads(json.dumps(value))]

    def abort(self, exit_code: int) -> None:
        """There is nobody else to end."""

    def close(self) -> None:
        """There is nobody to leave."""


def hostname() -> str:
    """This machine's short name."""
    return socket.gethostname().partition(".")[0]
