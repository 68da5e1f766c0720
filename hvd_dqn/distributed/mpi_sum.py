"""Sums over all ranks by MPI's messages, while the rank computes where that is wanted.

An MPI library moves messages within its own calls and hardly elsewhere: a sum that was begun and
left alone waits for the call that asks for it. So a thread asks now and then after a sum that is to
be hidden behind work, and sleeps in between: the core is the worker's. A sum that is waited for at
once is MPI's blocking one, which libraries and sites tune: made by who waits, or, where the rank
has a core for it, by the thread.
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
"""Seconds between looks at a hidden sum, by which its messages go on later at most. With the
shortest, looking takes half of a core, with the longest a fifth."""
NAP_GROWTH = 1.002
"""By nap, while nobody waits for the sum; as soon as somebody does, later ones are half as long."""
_PR_SET_TIMERSLACK = 29


def _wake_on_time() -> None:
    """Have Linux end this thread's naps when they are over, not 50 µs later."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


class WorldSum:
    """Sums of float32 over the ranks of `comm`, a communicator of the module `mpi` (mpi4py.MPI).
    Collective.
    """

    def __init__(self, comm: Any, mpi: Any, *, spare_core: bool) -> None:
        # Its own context: other collectives may come between a sum's beginning and its end.
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
        """Begin replacing `values` by their sum; they must not be touched until `finish`.

        All ranks say the same of `overlap`: MPI joins no blocking sum with one that is none.
        """
        self._is_waited_for.clear()
        if self._thread is not None and (overlap or self._spare_core):
            way = self._sum_asleep if overlap else self._sum
            self._finish = self._thread.submit(way, values).result
        elif overlap:
            self._finish = self._comm.Iallreduce(self._mpi.IN_PLACE, values).Wait
        else:
            self._finish = functools.partial(self._sum, values)

    def finish(self) -> None:
        """Wait for it."""
        self._is_waited_for.set()
        self._finish()

    def close(self) -> None:
        """Leave; no sum is under way. Collective."""
        if self._thread is not None:
            self._thread.shutdown()
        self._comm.Free()

    def _sum(self, values: NDArray[np.float32]) -> None:
        self._comm.Allreduce(self._mpi.IN_PLACE, values)

    def _sum_asleep(self, values: NDArray[np.float32]) -> None:
        request = self._comm.Iallreduce(self._mpi.IN_PLACE, values)
        while not request.Test():
            if self._is_waited_for.wait(self._nap):
                self._nap = max(self._nap / 2, SHORTEST_NAP)
                request.Wait()
                return
            self._nap = min(self._nap * NAP_GROWTH, LONGEST_NAP)
