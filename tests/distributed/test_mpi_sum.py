"""Sums with MPI's messages, as they are used between nodes."""

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
    """Make sums, each with another collective of the same ranks between `start` and `finish`."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    # Hosts may differ in their number of cores; sums must work nevertheless.
    world_sum = WorldSum(comm, MPI, spare_core=comm.rank == 2)
    several_threads = MPI.Query_thread() == MPI.THREAD_MULTIPLE
    seen = []
    for size, overlap in ((3, True), (1_000_003, True), (3, False)):
        values = np.full(size, comm.rank + 1.0, dtype=np.float32)
        world_sum.start(values, overlap=overlap)
        everyone = comm.allgather(comm.rank)
        if several_threads and overlap:  # it completes without `finish`
            wait_until(lambda values=values: values[-1] == 6.0, "the sum", 30)
        else:
            time.sleep(0.2)
        seen.append(bool(values[-1] == 6.0))
        world_sum.finish()
        assert everyone == [0, 1, 2]
        assert values.min() == values.max() == 6.0
    used = waits_for_a_late_rank(comm, world_sum)
    slack = None  # timer slack of the thread in ns
    if world_sum._thread is not None:
        ask = ctypes.CDLL(None).prctl
        slack = world_sum._thread.submit(ask, PR_GET_TIMERSLACK, 0, 0, 0, 0).result()
    world_sum.close()
    if comm.rank == 0:
        print("seen", json.dumps([several_threads, seen, used, slack]))


def waits_for_a_late_rank(comm: Any, world_sum: WorldSum) -> float:
    """Return the share of a core that a hidden sum takes while the last rank has not started it."""
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
def test_a_sum_progresses_during_computation_if_mpi_supports_threads(level):
    finished = launch(["-m", __name__], ranks=3, MPI4PY_RC_THREAD_LEVEL=level)
    assert finished.code == 0, finished.output
    (line,) = finished.lines("seen")
    threads, early, used, slack = json.loads(line.partition("seen")[2])
    assert threads == (level == "multiple")
    assert (early[0] and early[1]) or not threads
    assert not early[2], "the waiting thread computes it"
    print("used", used)
    assert used < 0.5, "polling leaves the core to the learner"
    assert slack == (1 if threads else None), "naps end on time"


class Scripted:
    """A communicator, its module and its requests, which are done at every third poll."""

    THREAD_MULTIPLE, IN_PLACE = 3, None

    def __init__(self):
        self.waits = self.polls = 0
        self.Query_thread = lambda: self.THREAD_MULTIPLE
        self.Dup = lambda: self
        self.Iallreduce = lambda place, values: self
        self.Test = self.poll
        self.Wait = self.wait

    def poll(self):
        self.polls += 1
        return self.polls % 3 == 0

    def wait(self):
        self.waits += 1


def test_polls_are_rarer_if_nobody_waits():
    peer = Scripted()
    world_sum = WorldSum(peer, peer, spare_core=False)
    values, naps = np.ones(1, dtype=np.float32), [LONGEST_NAP]

    def one_sum():
        world_sum._sum_polling(values)
        naps.append(world_sum._nap)

    one_sum()
    world_sum._is_waited_for.set()
    for waited in range(1, 5):
        one_sum()
        peer.polls = 0
        assert peer.waits == waited
    world_sum._is_waited_for.clear()
    one_sum()
    halves = [LONGEST_NAP / 2, LONGEST_NAP / 4, SHORTEST_NAP, SHORTEST_NAP]
    assert naps == pytest.approx([LONGEST_NAP] * 2 + halves + [SHORTEST_NAP * NAP_GROWTH**2])


def alone() -> None:
    """Check that a rank that has all cores of this machine uses one of them for its sums."""
    from hvd_dqn.distributed.connect import connect
    from hvd_dqn.distributed.launcher import cpu_quota, usable_cores

    comm = connect("mpi")
    assert comm.spare_core == (min(len(usable_cores()), cpu_quota()) >= 2)
    comm.close()
    print("seen")


def test_a_rank_with_several_cores_uses_one_for_its_sums():
    done = launch(["-c", f"from {__name__} import alone; alone()"], ranks=1, launcher="mpirun")
    assert done.code == 0, done.output
    assert done.lines("seen")


if __name__ == "__main__":
    rank()
