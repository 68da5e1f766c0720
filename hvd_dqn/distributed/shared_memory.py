"""Sums over the ranks of one node through shared memory.

An MPI library moves a tensor between processes in fragments, each of which is copied twice and
acknowledged. Here each rank writes its tensor to memory that the others read.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hvd_dqn.distributed.flags import raise_flag, wait_for_flags

_LINE = 8
"""int64 numbers in a cache line."""
_READ_BY_EACH = 2**20
"""The most bytes of others' tensors that a rank reads for a `WholeSum` of more than two ranks: they
fit its caches."""


class NodeSum(Protocol):
    """Sums float32 arrays [size] over the ranks of a node, with the same bits on all ranks."""

    def start(self, values: NDArray[np.float32], *, overlap: bool = False) -> None:
        """Show this rank's `values` [size] to the others; they must not be touched until `finish`,
        which does the rest. `overlap` has no effect.
        """
        ...

    def finish(self) -> None:
        """Wait for the other ranks and replace the values by the sum over all ranks."""
        ...


def make_node_sum(comm: Any, size: int) -> NodeSum | None:
    """Make a sum over the ranks of `comm`, an mpi4py communicator within one node. Returns None on
    all ranks if the system does not let them share memory. Collective.
    """
    rank, ranks = comm.Get_rank(), comm.Get_size()
    kind = WholeSum if ranks == 2 or 4 * size * (ranks - 1) <= _READ_BY_EACH else PartedSum
    memory = map_shared_memory(comm, kind.bytes_needed(ranks, size))
    return None if memory is None else kind(memory, rank, ranks, size)


class WholeSum:
    """Each rank adds up the tensors of all ranks.

    `finish` waits only for ranks that have not called `start`. Each rank alternates between two
    buffers. Before it writes to a buffer again, all ranks have started the sum in between, so they
    have read that buffer.
    """

    def __init__(self, memory: mmap.mmap, rank: int, ranks: int, size: int) -> None:
        self._rank = rank
        self._flags, self._tensors = _flags_and_tensors(memory, ranks, (2, ranks, size))
        self._values = np.empty(0, dtype=np.float32)
        self._count = 0

    @staticmethod
    def bytes_needed(ranks: int, size: int) -> int:
        """Return the size of the shared memory, which must contain zeros."""
        return 8 * _LINE * ranks + 2 * 4 * ranks * size

    def start(self, values: NDArray[np.float32], *, overlap: bool = False) -> None:
        """See `NodeSum`."""
        self._count += 1
        self._values = values
        self._tensors[self._count % 2, self._rank] = values
        raise_flag(self._flags, self._rank, self._count)

    def finish(self) -> None:
        """See `NodeSum`."""
        wait_for_flags(self._flags, self._count)
        first, second, *others = self._tensors[self._count % 2]
        np.add(first, second, out=self._values)
        for other in others:
            self._values += other


class PartedSum:
    """Reduce-scatter and all-gather: each rank adds up one part of all tensors, and the others copy
    the result.

    One buffer per rank serves all sums. When a rank has waited for the others' results, they have
    read its tensor. When it has waited for their next tensors, they have read its result.
    """

    def __init__(self, memory: mmap.mmap, rank: int, ranks: int, size: int) -> None:
        self._rank = rank
        self._flags, self._tensors = _flags_and_tensors(memory, ranks, (ranks, size))
        edges = np.linspace(0, size, ranks + 1).astype(int)
        parts = [slice(*part) for part in itertools.pairwise(edges)]
        self._part = parts[rank]
        self._others = [(other, part) for other, part in enumerate(parts) if other != rank]
        self._values = np.empty(0, dtype=np.float32)
        self._count = 0

    @staticmethod
    def bytes_needed(ranks: int, size: int) -> int:
        """Return the size of the shared memory, which must contain zeros."""
        return 8 * _LINE * ranks + 4 * ranks * size

    def start(self, values: NDArray[np.float32], *, overlap: bool = False) -> None:
        """See `NodeSum`."""
        self._count += 1
        self._values = values
        for _, part in self._others:
            self._tensors[self._rank, part] = values[part]
        raise_flag(self._flags, self._rank, 2 * self._count)

    def finish(self) -> None:
        """See `NodeSum`."""
        mine = self._values[self._part]
        wait_for_flags(self._flags, 2 * self._count)
        for other, _ in self._others:
            mine += self._tensors[other, self._part]
        self._tensors[self._rank, self._part] = mine
        raise_flag(self._flags, self._rank, 2 * self._count + 1)
        wait_for_flags(self._flags, 2 * self._count + 1)
        for other, part in self._others:
            self._values[part] = self._tensors[other, part]


def _flags_and_tensors(
    memory: mmap.mmap, ranks: int, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    flags = np.frombuffer(memory, dtype=np.int64, count=ranks * _LINE)
    tensors = np.frombuffer(memory, np.float32, count=math.prod(shape), offset=flags.nbytes)
    return flags.reshape(ranks, _LINE), tensors.reshape(shape)


def map_shared_memory(comm: Any, length: int) -> mmap.mmap | None:
    """Make memory of zeros that all ranks of `comm` see, or return None on all ranks.

    The memory has no name, so nothing is left behind however the ranks end. It does not count
    towards a container's limit on /dev/shm. Each page is allocated near the rank that first writes
    to it.
    """
    opened: list[int] = []
    memory = None
    try:
        place = np.zeros(4, dtype=np.int64)
        if comm.Get_rank() == 0:
            place[:] = _new_file(length, opened)
        comm.Bcast(place)
        memory = _map_file(place, length, opened)
        have = np.array([memory is not None], dtype=np.int64)
        total = np.empty_like(have)
        comm.Allreduce(have, total)
    finally:
        for file in opened:
            os.close(file)
    return memory if total[0] == comm.Get_size() else None


def _new_file(length: int, opened: list[int]) -> tuple[int, int, int, int]:
    """Create a file in memory and append its descriptor to `opened`. Returns the process id, the
    descriptor, the device and the inode; zeros if it cannot be created.
    """
    try:
        file = os.memfd_create("hvd_dqn")
        opened.append(file)
        os.ftruncate(file, length)
    except (AttributeError, OSError):  # not Linux, or a limit is reached
        return 0, 0, 0, 0
    return os.getpid(), file, *_identity(os.fstat(file))


def _map_file(place: NDArray[np.int64], length: int, opened: list[int]) -> mmap.mmap | None:
    """Map the file that `_new_file` described as `place`, through /proc.

    Returns None if the process is not visible from here, or if the file is another one: containers
    number their processes separately, so the process id may belong to a stranger.
    """
    process, number, *identity = place.tolist()
    path = f"/proc/{process}/fd/{number}"
    try:
        if _identity(Path(path).stat()) != tuple(identity):
            return None
        file = os.open(path, os.O_RDWR)
        opened.append(file)
        return mmap.mmap(file, length)
    except OSError:
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
