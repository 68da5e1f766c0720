"""Sums by MPI's messages, as they go between nodes."""

from __future__ import annotations

import ctypes
import json
import time
from typing import Any

import numpy as np
import pytest

from hvd_dqn.distributed.mpi_sum import LONGEST_NAP, NAP_GROWTH, SHORTEST_NAP, WorldSum
from tests.launching import launch, wait_until

pytestmark = pytest.mark.multirank
PR_GET_TIMERSLACK = 30


def rank() -> None:
    """Sums, each with another collective of the same ranks before it is waited for."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    # Hosts may differ in their cores, and all sums must come all the same.
    world_sum = WorldSum(comm, MPI, spare_core=comm.rank == 2)
    several_threads = MPI.Query_thread() == MPI.THREAD_MULTIPLE
    seen = []
    for size, overlap in ((3, True), (1_000_003, True), (3, False)):
        values = np.full(size, comm.rank + 1.0, dtype=np.float32)
        world_sum.start(values, overlap=overlap)
        everyone = comm.allgather(comm.rank)
        if several_threads and overlap:  # it comes without anybody asking for it
            wait_until(lambda values=values: values[-1] == 6.0, "the sum", 30)
        else:
            time.sleep(0.2)
        seen.append(bool(values[-1] == 6.0))
        world_sum.finish()
        assert everyone == [0, 1, 2]
        assert values.min() == values.max() == 6.0
    used = waits_for_a_late_rank(comm, world_sum)
    slack = None
    if world_sum._thread is not None:  # of what it sleeps in nanoseconds
        ask = ctypes.CDLL(None).prctl
        slack = world_sum._thread.submit(ask, PR_GET_TIMERSLACK, 0, 0, 0, 0).result()
    world_sum.close()
    if comm.rank == 0:
        print("seen", json.dumps([several_threads, seen, used, slack]))


def waits_for_a_late_rank(comm: Any, world_sum: WorldSum) -> float:
    """Of a core, what a hidden sum takes from a rank while the last one has not begun it."""
    values = np.ones(1000, dtype=np.float32)
    comm.Barrier()
    if comm.rank == 2:
        time.sleep(0.6)
    world_sum.start(values, overlap=True)
    began = time.process_time()
    time.sleep(0.5)
    used = (time.process_time() - began) / 0.5
    world_sum.finish()
    assert values.min() == values.max() == 3.0
    return used


@pytest.mark.parametrize("level", ["multiple", "serialized"])
def test_a_sum_goes_on_while_ranks_compute_where_mpi_has_threads(level):
    finished = launch(["-m", __name__], ranks=3, MPI4PY_RC_THREAD_LEVEL=level)
    assert finished.code == 0, finished.output
    (line,) = finished.lines("seen")
    threads, early, used, slack = json.loads(line.partition("seen")[2])
    assert threads == (level == "multiple")
    assert (early[0] and early[1]) or not threads
    assert not early[2], "who waits makes it"
    print("used", used)
    assert used < 0.5, "the core is the learner's"
    assert slack == (1 if threads else None), "it wakes on time"


class Scripted:
    """A communicator, its module and its sums, which are done at the third look."""

    THREAD_MULTIPLE, IN_PLACE = 3, None

    def __init__(self):
        self.waits = self.looks = 0
        self.Query_thread = lambda: self.THREAD_MULTIPLE
        self.Dup = lambda: self
        self.Iallreduce = lambda place, values: self
        self.Test = self.look
        self.Wait = self.wait

    def look(self):
        self.looks += 1
        return self.looks % 3 == 0

    def wait(self):
        self.waits += 1


def test_looks_are_as_seldom_as_nobody_waits():
    peer = Scripted()
    world_sum = WorldSum(peer, peer, spare_core=False)
    values, naps = np.ones(1, dtype=np.float32), [LONGEST_NAP]

    def one_sum():
        world_sum._sum_asleep(values)
        naps.append(world_sum._nap)

    one_sum()
    world_sum._is_waited_for.set()
    for waited in range(1, 5):
        one_sum()
        peer.looks = 0
        assert peer.waits == waited
    world_sum._is_waited_for.clear()
    one_sum()
    halves = [LONGEST_NAP / 2, LONGEST_NAP / 4, SHORTEST_NAP, SHORTEST_NAP]
    assert naps == pytest.approx([LONGEST_NAP] * 2 + halves + [SHORTEST_NAP * NAP_GROWTH**2])


def alone() -> None:
    """Whether a rank that has all cores of this machine takes one of them for its sums."""
    from hvd_dqn.distributed.connect import connect
    from hvd_dqn.distributed.launcher import cpu_quota, usable_cores

    comm = connect("mpi")
    assert comm.spare_core == (min(len(usable_cores()), cpu_quota()) >= 2)
    comm.close()
    print("seen")


def test_a_rank_with_several_cores_has_one_for_its_sums():
    done = launch(["-c", f"from {__name__} import alone; alone()"], ranks=1, launcher="mpirun")
    assert done.code == 0, done.output
    assert done.lines("seen")


if __name__ == "__main__":
    rank()
