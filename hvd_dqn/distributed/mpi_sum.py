"""Sums over all ranks with MPI's messages, hidden behind computation if the caller asks for it.

An MPI library moves messages mostly during calls to it: a sum that was started and left alone does
not progress. So for a sum that is hidden behind computation, a thread polls MPI and sleeps between
polls, which leaves the core to the computation. A sum that is awaited at once uses MPI's blocking
allreduce, which libraries and sites tune. The waiting thread calls it or, if the rank has a spare
core, the sum's own thread.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

SHORTEST_NAP, LONGEST_NAP = 20e-6, 100e-6
"""Seconds between polls of a hidden sum, the most by which its messages are delayed. Polling takes
half of a core at the shortest interval and a fifth at the longest."""
NAP_GROWTH = 1.002
"""Factor by which naps grow while nobody waits for the sum. If somebody has to wait for one, later
naps are half as long."""
_PR_SET_TIMERSLACK = 29


def _wake_on_time() -> None:
    """Make Linux end this thread's naps on time, not up to 50 µs late."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


class WorldSum:
    """Sums float32 arrays over the ranks of `comm`, a communicator of mpi4py's module `mpi`.

    Creating one is collective.
    """

    def __init__(self, comm: Any, mpi: Any, *, spare_core: bool) -> None:
        # A communicator of its own: other collectives may run between `start` and `finish`.
        self._comm = comm.Dup()
        self._mpi = mpi
        self._spare_core = spare_core
        self._thread = None
        if mpi.Query_thread() == mpi.THREAD_MULTIPLE:
            self._thread = ThreadPoolExecutor(
                1, thread_name_prefix="sums", initializer=_wake_on_time
            )
        self._is_waited_for = threading.Event()
        self._nap = LONGEST_NAP
        self._finish: Callable[[], object]

    def start(self, values: NDArray[np.float32], *, overlap: bool) -> None:
        """Start replacing `values` by their sum; they must not be touched until `finish`.

        `overlap` must be the same on all ranks: MPI cannot match a blocking allreduce with a
        nonblocking one.
        """
        self._is_waited_for.clear()
        if self._thread is not None and (overlap or self._spare_core):
            method = self._sum_polling if overlap else self._sum
            self._finish = self._thread.submit(method, values).result
        elif overlap:
            self._finish = self._comm.Iallreduce(self._mpi.IN_PLACE, values).Wait
        else:
            self._finish = functools.partial(self._sum, values)

    def finish(self) -> None:
        """Wait for the sum that `start` began."""
        self._is_waited_for.set()
        self._finish()

    def close(self) -> None:
        """Free the communicator; no sum may be in progress. Collective."""
        if self._thread is not None:
            self._thread.shutdown()
        self._comm.Free()

    def _sum(self, values: NDArray[np.float32]) -> None:
        self._comm.Allreduce(self._mpi.IN_PLACE, values)

    def _sum_polling(self, values: NDArray[np.float32]) -> None:
        request = self._comm.Iallreduce(self._mpi.IN_PLACE, values)
        while not request.Test():
            if self._is_waited_for.wait(self._nap):
                self._nap = max(self._nap / 2, SHORTEST_NAP)
                request.Wait()
                return
            self._nap = min(self._nap * NAP_GROWTH, LONGEST_NAP)
