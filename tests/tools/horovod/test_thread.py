"""Horovod's cycles, run by its background thread and by waiting threads, in every order."""

from __future__ import annotations

import json
import os
import random
import threading
import time

import numpy as np
import pytest

from tests.launching import launch

pytestmark = pytest.mark.multirank

ROUNDS, NAMES = 150, 4


def rank() -> None:
    """Every round makes one to four sums with the same names on all ranks. Each rank starts and
    awaits them in a random order of its own, with one thread or two, polls some of them, and pauses
    for less or more than the idle time.
    """
    from hvd_dqn.distributed.connect import connect
    from hvd_dqn.distributed.horovod import HorovodCommunicator

    comm = connect("horovod")
    assert isinstance(comm, HorovodCommunicator)
    import horovod.torch as hvd
    import torch

    def wait(handles: list[int]) -> None:
        for handle in handles:
            hvd.synchronize(handle)

    comm.spare_core = False
    idle_ms = float(os.environ["HOROVOD_IDLE_CYCLE_TIME"])
    together, alone = random.Random(1), random.Random(100 + comm.rank)
    slowest = 0.0
    for number in range(ROUNDS):
        names = [f"tensor{i}" for i in range(together.randint(1, NAMES))]
        size = together.choice([1, 1000, 300_000])
        rest = together.choice([0.0, 0.0, 0.004])
        alone.shuffle(names)
        tensors = {name: torch.full((size,), float(comm.rank + number)) for name in names}
        handles = {}
        for name in names:
            handles[name] = hvd.allreduce_async_(tensors[name], name=name, op=hvd.Sum)
            if alone.random() < 0.3:
                hvd.poll(handles[name])
            time.sleep(alone.choice([0.0, 0.0, 0.0, 0.001, rest]))
        alone.shuffle(names)
        began = time.perf_counter()
        parts = [names] if alone.random() < 0.5 else [names[::2], names[1::2]]
        threads = [
            threading.Thread(target=wait, args=([handles[name] for name in part],))
            for part in parts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        slowest = max(slowest, time.perf_counter() - began)
        expected = comm.world_size * number + sum(range(comm.world_size))
        assert all(np.all(tensor.numpy() == expected) for tensor in tensors.values())
    for overlap in (True, False):
        comm.start_sum(tensors[names[0]].fill_(1.0), "overlapped", overlap=overlap)
        if overlap:  # the background thread makes the sum
            until = time.monotonic() + 30
            while tensors[names[0]][-1] != comm.world_size and time.monotonic() < until:
                time.sleep(0.001)
        time.sleep(0.1)
        early = bool(tensors[names[0]][-1] == comm.world_size)
        comm.finish_sum()
        assert tensors[names[0]][-1] == comm.world_size
        if comm.is_root:
            print("early", json.dumps([overlap, early]))
    time.sleep(0.3 * comm.rank)  # ranks reach the last collective one after the other
    comm.broadcast(tensors[names[0]], "broadcast")
    began_idle = time.process_time()
    time.sleep(1.5)
    idle_seconds = time.process_time() - began_idle
    everyone = comm.gather([slowest, idle_seconds])
    time.sleep(0.2 * comm.rank)
    comm.close()
    again = connect("horovod")  # waiting threads run the cycles again
    assert isinstance(again, HorovodCommunicator)
    again.spare_core = False
    tensor = torch.ones(1000)
    for _ in range(3):
        again.start_sum(tensor.fill_(1.0), "again")
        time.sleep(0.05)
        assert tensor[0] == 1.0 or idle_ms == 2.0 or hvd.cuda_built()
        again.finish_sum()
        assert tensor.min() == tensor.max() == comm.world_size
    again.close()
    if comm.is_root:
        print("gpu", json.dumps(bool(hvd.cuda_built())))
        print("seen", json.dumps([max(numbers) for numbers in zip(*everyone, strict=True)]))


@pytest.mark.parametrize("idle_ms", ["2", "400", "20000"])
def test_all_sums_are_right_whichever_thread_runs_the_cycles(idle_ms):
    done = launch(
        ["-m", __name__], ranks=3, HOROVOD_CYCLE_TIME="0.1", HOROVOD_IDLE_CYCLE_TIME=idle_ms
    )
    assert done.code == 0, done.output
    (seen,) = done.lines("seen")
    (gpu_build,) = [json.loads(line.partition("gpu")[2]) for line in done.lines("gpu")]
    slowest, idle_seconds = json.loads(seen.partition("seen")[2])
    assert slowest < 10, "a lost wake-up lets the idle time pass"
    if idle_ms != "2":
        assert idle_seconds < 0.1, "no rank waits in a cycle for ranks that are still asleep"
    early = [json.loads(line.partition("early")[2]) for line in done.lines("early")]
    assert early[0] == [True, True]
    if idle_ms != "2" and not gpu_build:
        assert early[1] == [False, False], "the waiting thread runs the cycle"


if __name__ == "__main__":
    rank()
