"""Sums by MPI's messages, as they go between nodes."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from tests.launching import launch, wait_until

pytestmark = pytest.mark.multirank


def rank() -> None:
    """Sums, each with another collective of the same ranks before it is waited for."""
    from mpi4py import MPI

    from hvd_dqn.distributed.world import WorldSum

    comm = MPI.COMM_WORLD
    world_sum = WorldSum(comm, MPI)
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
    world_sum.close()
    if comm.rank == 0:
        print("seen", json.dumps([several_threads, seen]))


@pytest.mark.parametrize("level", ["multiple", "serialized"])
def test_a_sum_goes_on_while_ranks_compute_where_mpi_has_threads(level):
    finished = launch(["-m", __name__], ranks=3, MPI4PY_RC_THREAD_LEVEL=level)
    assert finished.code == 0, finished.output
    (line,) = finished.lines("seen")
    threads, early = json.loads(line.partition("seen")[2])
    assert threads == (level == "multiple")
    assert early == [threads, threads, False]


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
