"""Sums over all ranks by MPI's messages, while the rank computes where that is wanted.

An MPI library moves messages within its own calls and hardly elsewhere: a sum that was begun and
left alone waits for the call that asks for it. And the blocking sum is the one that libraries and
sites tune. So a thread makes that call, or, where the rank has but one core, who waits for it.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable


class WorldSum:
    """Sums of float32 over the ranks of `comm`, a communicator of the module `mpi` (mpi4py.MPI).
    Collective.
    """

    def __init__(self, comm: Any, mpi: Any) -> None:
        # Its own context: other collectives may come between a sum's beginning and its end.
        self._comm = comm.Dup()
        self._sum = functools.partial(self._comm.Allreduce, mpi.IN_PLACE)
        self._thread = None
        if mpi.Query_thread() == mpi.THREAD_MULTIPLE:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="sums")
        self._finish: Callable[[], object]

    def start(self, values: NDArray[np.float32], *, overlap: bool) -> None:
        """Begin replacing `values` by their sum; they must not be touched until `finish`. Without
        `overlap`, or where MPI does not support several threads, it is made there.
        """
        if overlap and self._thread is not None:
            self._finish = self._thread.submit(self._sum, values).result
        else:
            self._finish = functools.partial(self._sum, values)

    def finish(self) -> None:
        """Wait for it."""
        self._finish()

    def close(self) -> None:
        """Leave; no sum is under way. Collective."""
        if self._thread is not None:
            self._thread.shutdown()
        self._comm.Free()
