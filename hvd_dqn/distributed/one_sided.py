"""Memory of all ranks that each of them reads and changes by itself, with MPI's one-sided
operations: no other rank takes part.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvd_dqn.distributed.shared_memory import map_shared_memory

_LINE_BYTES = 64
_HEADER_BYTES = 3 * _LINE_BYTES
_SHORTEST_NAP, _LONGEST_NAP = 20e-6, 200e-6
"""Seconds between attempts to lock a part."""
_PROGRESS_NAP = 200e-6
"""Seconds between calls of MPI by the thread that lets other hosts access this rank's memory."""


class Counter(enum.IntEnum):
    """Counters in the root's memory, by their places."""

    ENV_STEPS = _LINE_BYTES
    UPDATES = 2 * _LINE_BYTES


class OneSidedMemory:
    """A part of float32 numbers on every rank, and counters on the root. Creating one is
    collective.

    `parts` [rank] are arrays that stay in place, to be used within `locked` or after `fetch`. If
    all ranks are on one node and may share memory, they are the memory itself; otherwise copies,
    which MPI's Get and Put exchange with the owner.

    A part's lock is a number that ranks change by an atomic compare-and-swap, within one access
    epoch of the whole life. MPI's own exclusive lock waits, in MPICH, until its owner calls MPI;
    atomic operations within a node do not. Between hosts, an MPI library serves requests only in
    calls of MPI, so there a thread makes such calls.
    """

    def __init__(
        self,
        comm: Any,
        mpi: Any,
        sizes: Sequence[int],
        *,
        on_one_node: bool,
        on_wait: Callable[[bool], None],
    ) -> None:
        """`sizes` are those of the parts, equal on all ranks. `comm` is a communicator of mpi4py's
        module `mpi`. `on_wait` is called before and after waiting for another rank's lock.
        """
        self._comm = comm.Dup()
        self._mpi = mpi
        self._rank = comm.Get_rank()
        self._on_wait = on_wait
        self._memory = self._map(sizes) if on_one_node else None
        own_bytes = 4 * sizes[self._rank] if self._memory is None else 0
        self._window = mpi.Win.Allocate(_HEADER_BYTES + own_bytes, 1, comm=self._comm)
        np.frombuffer(self._window, dtype=np.uint8)[:] = 0
        self.parts = [self._part(sizes, rank) for rank in range(len(sizes))]
        self._taken = np.ones(1, dtype=np.int64)
        self._free = np.zeros(1, dtype=np.int64)
        self._result = np.zeros(1, dtype=np.int64)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._comm.Barrier()
        self._window.Lock_all(mpi.MODE_NOCHECK)
        if not on_one_node:
            self._thread = threading.Thread(target=self._progress, name="one-sided", daemon=True)
            self._thread.start()

    def _map(self, sizes: Sequence[int]) -> NDArray[np.float32] | None:
        """Return memory of all ranks for all parts, or None on all ranks. Collective."""
        memory = map_shared_memory(self._comm, 4 * sum(map(_padded, sizes)))
        return None if memory is None else np.frombuffer(memory, dtype=np.float32)

    def _part(self, sizes: Sequence[int], rank: int) -> NDArray[np.float32]:
        if self._memory is None:
            return np.zeros(sizes[rank], dtype=np.float32)
        first = sum(map(_padded, sizes[:rank]))
        return self._memory[first : first + sizes[rank]]

    @contextmanager
    def locked(self, owner: int) -> Iterator[NDArray[np.float32]]:
        """Within this context, only this rank uses the owner's part. Yields it; changes take effect
        at the end.
        """
        self._acquire(owner)
        try:
            self.fetch(owner)
            yield self.parts[owner]
            if self._memory is None:
                self._window.Put(self.parts[owner], owner, _HEADER_BYTES)
                self._window.Flush(owner)
        finally:
            self._window.Sync()
            self._window.Fetch_and_op(self._free, self._result, owner, 0, self._mpi.REPLACE)
            self._window.Flush(owner)

    def fetch(self, owner: int) -> None:
        """Bring the owner's part into `parts`. Without its lock, nobody may be changing it."""
        if self._memory is None:
            self._window.Get(self.parts[owner], owner, _HEADER_BYTES)
            self._window.Flush(owner)
        self._window.Sync()

    def add(self, counter: Counter, number: int) -> int:
        """Add to a counter; return its value before."""
        return self._change(counter, number, self._mpi.SUM)

    def store(self, counter: Counter, number: int) -> None:
        """Set a counter."""
        self._change(counter, number, self._mpi.REPLACE)

    def close(self) -> None:
        """Free the memory. Collective."""
        self._ended.set()
        if self._thread is not None:
            self._comm.Barrier()  # the others may still need this rank's thread
            self._thread.join()
        self._window.Unlock_all()
        self._window.Free()
        self._comm.Free()
        self._memory = None
        self.parts = []

    def _change(self, counter: Counter, number: int, operation: Any) -> int:
        given = np.array([number], dtype=np.int64)
        self._window.Fetch_and_op(given, self._result, 0, int(counter), operation)
        self._window.Flush(0)
        return int(self._result[0])

    def _acquire(self, owner: int) -> None:
        if self._take(owner):
            return
        nap = _SHORTEST_NAP
        self._on_wait(True)
        while not self._take(owner):
            time.sleep(nap)
            nap = min(1.2 * nap, _LONGEST_NAP)
        self._on_wait(False)

    def _take(self, owner: int) -> bool:
        self._window.Compare_and_swap(self._taken, self._free, self._result, owner, 0)
        self._window.Flush(owner)
        return int(self._result[0]) == 0

    def _progress(self) -> None:
        while not self._ended.wait(_PROGRESS_NAP):
            self._comm.Iprobe()


def _padded(size: int) -> int:
    """Return the numbers from the start of a part to that of the next, in whole cache lines."""
    line = _LINE_BYTES // 4
    return -(-size // line) * line
