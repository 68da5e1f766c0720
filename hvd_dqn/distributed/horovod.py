"""The `horovod` backend: the default under a launcher."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

from hvd_dqn.common.errors import LostContactError, UserError, one_line
from hvd_dqn.distributed.devices import gpu_name
from hvd_dqn.distributed.mpi import MpiCommunicator

if TYPE_CHECKING:
    from torch import Tensor

OVERLAPPED = "overlapped."
"""With this in its name a sum is made while the learner computes: see `tools.horovod_naps`."""

_REMEDY = "build it with hvd-dqn build-horovod, or choose --distributed.backend mpi"


class HorovodCommunicator(MpiCommunicator):
    """Tensors travel by Horovod's ring; control values, as JSON, by the MPI context beside it."""

    backend = "horovod"

    def __init__(self, hvd: Any, *, spare_core: bool) -> None:
        """`hvd` is what `load_horovod` gives. Collective."""
        # mpi4py starts MPI with support for several threads, Horovod's own among them, and shares
        # its world.
        super().__init__()
        self.spare_core = spare_core
        hvd.init(comm=self._mpi.COMM_WORLD)
        if not hvd.mpi_threads_supported():
            raise UserError(
                "this MPI does not support MPI_THREAD_MULTIPLE, which Horovod beside mpi4py needs",
                "rebuild MPI with it, or choose --distributed.backend mpi",
            )
        from horovod.common.exceptions import HorovodInternalError

        self._hvd = hvd
        self._broken: type[Exception] = HorovodInternalError
        gpus = self.gather(gpu_name(self.local_rank))
        self._nccl = bool(hvd.nccl_built()) and nccl_can(gpus)
        self.route = "NCCL" if self._nccl else "the host"
        self._handle = 0

    def start_sum(self, tensor: Tensor, name: str, *, overlap: bool = False) -> None:
        """See `Communicator`."""
        self._settle()
        host = tensor if self._nccl else self._stage(tensor, name)
        self._summed = (tensor, host)
        sent_as = OVERLAPPED + name if overlap else name
        self._handle = self._hvd.allreduce_async_(host, name=sent_as, op=self._hvd.Sum)
        if overlap or self.spare_core:
            self._hvd.poll(self._handle)  # wakes its thread: see `tools.horovod_thread`

    def finish_sum(self) -> None:
        """See `Communicator`."""
        assert self._summed is not None, "start_sum comes first"
        try:
            self._hvd.synchronize(self._handle)
        except self._broken as error:
            raise LostContactError(str(error)) from error
        tensor, host = self._summed
        if host is not tensor:
            tensor.copy_(host)
        self._summed = None

    def broadcast(self, tensor: Tensor, name: str) -> None:
        """See `Communicator`."""
        host = tensor if self._nccl else self._stage(tensor, name)
        try:
            self._hvd.broadcast_(host, root_rank=0, name=name)
        except self._broken as error:
            raise LostContactError(str(error)) from error
        if host is not tensor:
            tensor.copy_(host)

    def close(self) -> None:
        """See `Communicator`."""
        self._settle()
        self._comm.Barrier()
        self._hvd.shutdown()
        super().close()


def nccl_can(gpus: list[str | None]) -> bool:
    """Whether NCCL can join these GPUs of the ranks: it refuses two ranks on one GPU and knows no
    rank without one. Where it cannot, tensors travel through the host.
    """
    return None not in gpus and len(set(gpus)) == len(gpus)


def load_horovod() -> Any:
    """The module `horovod.torch`, working. Raises `UserError` with the reason and the remedy."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            import horovod.torch as hvd
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "horovod":
            raise UserError("Horovod is not installed", _REMEDY) from error
        raise UserError(
            f"Horovod needs the module {error.name!r}: pip install {error.name}"
        ) from error
    except (ImportError, OSError) as error:
        raise UserError(f"Horovod does not load ({one_line(error)})", _REMEDY) from error
    # A library that does not fit makes `horovod.torch` print, and import without its functions.
    if not hasattr(hvd, "init"):
        raise UserError(f"Horovod does not load ({one_line(said.getvalue())})", _REMEDY)
    if not hvd.mpi_built():
        raise UserError("this Horovod was built without MPI", _REMEDY)
    return hvd
