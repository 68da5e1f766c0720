"""Sums through shared memory, tested with threads in place of processes."""

from __future__ import annotations

import mmap
import random
import threading
import time

import numpy as np
import pytest

from hvd_dqn.distributed.flags import raise_flag, wait_for_flags
from hvd_dqn.distributed.shared_memory import PartedSum, WholeSum

SUMS = 200


def run_on_all_ranks(work, arguments):
    """Return `work(argument)` for each argument, run at the same time in threads; None for a thread
    that hangs.
    """
    results = {}

    def put(number, argument):
        results[number] = work(argument)

    threads = [
        threading.Thread(target=put, args=item, daemon=True) for item in enumerate(arguments)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [results.get(number) for number in range(len(threads))]


@pytest.mark.parametrize("kind", [WholeSum, PartedSum])
@pytest.mark.parametrize(("ranks", "size"), [(2, 1), (2, 1001), (3, 2), (3, 10_000), (5, 64)])
def test_all_ranks_have_the_same_sums(kind, ranks, size):
    generator = np.random.default_rng(ranks * size)
    given = generator.normal(size=(SUMS, ranks, size)).astype(np.float32)
    memory = mmap.mmap(-1, kind.bytes_needed(ranks, size))

    def work(rank):
        """All sums of one rank, which is sometimes behind the others and sometimes ahead."""
        clock = random.Random(rank)
        node_sum = kind(memory, rank, ranks, size)
        sums = given[:, rank].copy()
        for values in sums:
            node_sum.start(values)
            time.sleep(clock.choice([0.0, 0.0, 0.0, 1e-4, 1e-3]))
            node_sum.finish()
            time.sleep(clock.choice([0.0, 0.0, 0.0, 1e-4]))
        return sums

    results = run_on_all_ranks(work, range(ranks))
    assert all(sums.tobytes() == results[0].tobytes() for sums in results)
    np.testing.assert_allclose(results[0], given.sum(axis=1, dtype=np.float64), atol=1e-5)


def test_finish_waits_only_for_ranks_that_have_not_started():
    memory = mmap.mmap(-1, WholeSum.bytes_needed(2, 3))
    first, second, again, last = (np.full(3, n, dtype=np.float32) for n in (1, 2, 8, 9))

    def work(_):
        """Both ranks in one thread: a rank that waited for the other would wait forever."""
        ahead, behind = (WholeSum(memory, rank, 2, 3) for rank in range(2))
        ahead.start(first)
        behind.start(second)
        ahead.finish()
        ahead.start(again)  # the other rank has not read the first tensor
        behind.finish()
        behind.start(last)
        behind.finish()
        ahead.finish()
        return True

    assert run_on_all_ranks(work, [0]) == [True]
    assert first.tolist() == second.tolist() == [3, 3, 3]
    assert again.tolist() == last.tolist() == [17, 17, 17]


def test_a_long_wait_leaves_the_core():
    flags = np.zeros((2, 8), dtype=np.int64)

    def wait():
        """Return the processor time of waiting."""
        began = time.thread_time()
        wait_for_flags(flags, 3)
        return time.thread_time() - began

    def lead():
        """Set one flag at once and the other late."""
        raise_flag(flags, 0, 7)
        time.sleep(1.0)
        raise_flag(flags, 1, 3)
        return 0.0

    began = time.monotonic()
    assert max(run_on_all_ranks(lambda act: act(), [wait, lead])) < 0.5
    assert time.monotonic() - began > 1.0


def test_invalid_flags_are_rejected():
    with pytest.raises(IndexError, match="out of range"):
        raise_flag(np.zeros((2, 8), dtype=np.int64), 2, 1)
    with pytest.raises(ValueError, match="not an array of flags"):
        raise_flag(np.zeros(7, dtype=np.int64), 0, 1)
    with pytest.raises(ValueError, match="not an array of flags"):
        wait_for_flags(np.zeros(0, dtype=np.int64), 1)
