"""Sums by MPI's messages, as they go between nodes."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvd_dqn.distributed.world import WorldSum
from tests.launching import launch, wait_until

pytestmark = pytest.mark.multirank


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
    slack = slack_of_the_thread_of_sums()
    world_sum.close()
    if comm.rank == 0:
        print("seen", json.dumps([several_threads, seen, used, slack]))


def slack_of_the_thread_of_sums() -> int | None:
    """Nanoseconds that the kernel may add to its sleeps; none where there is no such thread."""
    for thread in threading.enumerate():
        if thread.name.startswith("sums"):
            return int(Path(f"/proc/{thread.native_id}/timerslack_ns").read_text())
    return None


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
    assert not threads or slack == 1, "and wakes on time"


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
