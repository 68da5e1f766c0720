"""Sums over ranks of one node, through memory that they share.

An MPI library carries a tensor from one process to another in fragments, each of them copied twice
and acknowledged. Here each rank writes its tensor where the others read it.
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
"""Bytes of others' tensors that each of more than two ranks reads at most: its caches hold them."""


class NodeSum(Protocol):
    """Sums of float32 [size] over the ranks of a node, with the same bits on all of them."""

    def start(self, values: NDArray[np.float32], *, overlap: bool = False) -> None:
        """Show this rank's values [size] to the others; they must not be touched until `finish`.
        All else is done there, whatever `overlap` says.
        """
        ...

    def finish(self) -> None:
        """Wait for the others, and replace the values by the sum of all."""
        ...


def make_node_sum(comm: Any, size: int) -> NodeSum | None:
    """Over the ranks of `comm`, an mpi4py communicator within one node; None on all of them where
    the system does not let them share memory. Collective.
    """
    rank, ranks = comm.Get_rank(), comm.Get_size()
    kind = WholeSum if ranks == 2 or 4 * size * (ranks - 1) <= _READ_BY_EACH else PartedSum
    memory = _shared_memory(comm, kind.bytes_needed(ranks, size))
    return None if memory is None else kind(memory, rank, ranks, size)


class WholeSum:
    """Each rank adds up all tensors.

    It waits only for ranks that have not begun: where it finishes a sum late, for nobody who is not
    as late. Each rank has two places for its tensors, in turn: before it writes to one again it has
    waited until all had begun the sum between, and so had read it.
    """

    def __init__(self, memory: mmap.mmap, rank: int, ranks: int, size: int) -> None:
        self._rank = rank
        self._flags, self._tensors = _flags_and_tensors(memory, ranks, (2, ranks, size))
        self._values = np.empty(0, dtype=np.float32)
        self._count = 0

    @staticmethod
    def bytes_needed(ranks: int, size: int) -> int:
        """Of shared memory, zeros."""
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
    """Reduce-scatter and all-gather: each rank adds up one part of all tensors and the others copy
    it.

    A rank shows the others' parts of its tensor, and they have read them when it has waited for
    their sums; it writes its own part's sum, and they have read that when it has waited for their
    next tensors. So the same memory serves every sum.
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
        """Of shared memory, zeros."""
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


def _shared_memory(comm: Any, length: int) -> mmap.mmap | None:
    """Zeros that all ranks of `comm` see, or None on all of them. The memory has no name, so that
    nothing is left behind however the ranks end, and is not taken from what a container allows
    /dev/shm; each page comes to lie near the rank that first writes to it.
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
    """The process that has it, its number there, its device and its number on that; zeros where it
    is not to be had.
    """
    try:
        file = os.memfd_create("hvd_dqn")
        opened.append(file)
        os.ftruncate(file, length)
    except (AttributeError, OSError):  # another system than Linux, or a limit
        return 0, 0, 0, 0
    return os.getpid(), file, *_identity(os.fstat(file))


def _map_file(place: NDArray[np.int64], length: int, opened: list[int]) -> mmap.mmap | None:
    """None where the other process cannot be looked into, or is none of ours: containers of one
    node may count processes anew, and a stranger's files are better not opened.
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
