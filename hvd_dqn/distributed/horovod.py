"""The `horovod` backend, the default under a launcher."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

from hvd_dqn.common.errors import LostContactError, UserError, one_line
from hvd_dqn.distributed.devices import gpu_name
from hvd_dqn.distributed.mpi import MpiCommunicator

if TYPE_CHECKING:
    from torch import Tensor

_REMEDY = "build it with hvd-dqn build-horovod, or choose --distributed.backend mpi"


class HorovodCommunicator(MpiCommunicator):
    """Sends tensors with Horovod, control values as JSON with an MPI communicator of its own."""

    backend = "horovod"

    def __init__(self, hvd: Any, *, among: Any, spare_core: bool) -> None:
        """`hvd` is the module that `load_horovod` returns, and `among` the mpi4py communicator of
        the ranks that take part. `spare_core` says whether Horovod's thread has a core of its own.
        Collective.
        """
        # mpi4py has started MPI with MPI_THREAD_MULTIPLE; Horovod uses the same MPI.
        super().__init__(among)
        self.spare_core = spare_core
        hvd.init(comm=among)
        if not hvd.mpi_threads_supported():
            raise UserError(
                "this MPI does not support MPI_THREAD_MULTIPLE, which Horovod needs beside mpi4py",
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
        self._finish_abandoned()
        host = tensor if self._nccl else self._stage(tensor, name)
        self._summed = (tensor, host)
        self._handle = self._hvd.allreduce_async_(host, name=name, op=self._hvd.Sum)
        if overlap or self.spare_core:
            self._hvd.poll(self._handle)  # wakes Horovod's thread: patches/06-idle-cycle-time.patch

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
        self._finish_abandoned()
        self._comm.Barrier()
        self._hvd.shutdown()
        super().close()


def nccl_can(gpus: list[str | None]) -> bool:
    """Return whether NCCL can connect the ranks: each needs a GPU of its own. Otherwise tensors
    travel through the host. `gpus` are the names of the ranks' GPUs, None for a rank without one.
    """
    return None not in gpus and len(set(gpus)) == len(gpus)


def load_horovod() -> Any:
    """Import `horovod.torch`. Raises `UserError` with reason and remedy if it cannot work."""
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
    # If its library does not load, `horovod.torch` prints why and imports without its functions.
    if not hasattr(hvd, "init"):
        raise UserError(f"Horovod does not load ({one_line(said.getvalue())})", _REMEDY)
    if not hvd.mpi_built():
        raise UserError("this Horovod was built without MPI", _REMEDY)
    return hvd
