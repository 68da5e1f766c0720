"""Horovod's cycles, made by its thread and by the threads that wait, in every order."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from hvd_dqn.distributed.mpi_sum import LONGEST_NAP, NAP_GROWTH, SHORTEST_NAP
from hvd_dqn.tools.horovod.naps import NAP_DECLARED, NAP_DEFINED, NAPS
from tests.launching import launch

pytestmark = pytest.mark.multirank

ROUNDS, NAMES = 150, 4


def rank() -> None:
    """Each round one to four sums of the same names on all ranks: begun and waited for in an order
    of each rank's own, by one thread or by two, asked about or not, after pauses that let the idle
    time pass or not.
    """
    from hvd_dqn.distributed.connect import connect
    from hvd_dqn.distributed.horovod import OVERLAPPED, HorovodCommunicator

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
    begin, names_sent = hvd.allreduce_async_, []
    comm._hvd.allreduce_async_ = lambda *args, **more: (
        names_sent.append(more["name"]) or begin(*args, **more)
    )
    for way in (True, False):
        comm.start_sum(tensors[names[0]].fill_(1.0), "overlapped", overlap=way)
        if way:  # it comes without anybody waiting for it
            until = time.monotonic() + 30
            while tensors[names[0]][-1] != comm.world_size and time.monotonic() < until:
                time.sleep(0.001)
        time.sleep(0.1)
        early = bool(tensors[names[0]][-1] == comm.world_size)
        comm.finish_sum()
        assert tensors[names[0]][-1] == comm.world_size
        if comm.is_root:
            print("early", json.dumps([way, early]))
    assert names_sent == [OVERLAPPED + "overlapped", "overlapped"]
    time.sleep(0.6 if comm.rank == 2 else 0.0)
    comm.start_sum(tensors[names[0]].fill_(1.0), "overlapped", overlap=True)
    began_waiting = time.process_time()
    time.sleep(0.5)
    hidden_share = (time.process_time() - began_waiting) / 0.5
    comm.finish_sum()
    assert tensors[names[0]][-1] == comm.world_size
    time.sleep(0.3 * comm.rank)  # they come to the last sum one after the other
    comm.broadcast(tensors[names[0]], "broadcast")
    began_idle = time.process_time()
    time.sleep(1.5)
    idle_seconds = time.process_time() - began_idle
    everyone = comm.gather([slowest, idle_seconds, hidden_share])
    time.sleep(0.2 * comm.rank)
    comm.close()
    again = connect("horovod")  # a cycle is anyone's again who waits
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
def test_whoever_makes_the_cycles_all_sums_come_and_are_right(idle_ms):
    done = launch(
        ["-m", __name__], ranks=3, HOROVOD_CYCLE_TIME="0.1", HOROVOD_IDLE_CYCLE_TIME=idle_ms
    )
    assert done.code == 0, done.output
    (seen,) = done.lines("seen")
    (gpu_build,) = [json.loads(line.partition("gpu")[2]) for line in done.lines("gpu")]
    slowest, idle_seconds, hidden_share = json.loads(seen.partition("seen")[2])
    assert slowest < 10, "where a wake-up is lost, the idle time passes"
    if idle_ms != "2":
        assert idle_seconds < 0.1, "nobody waits in a cycle for ranks whose idle time is not over"
        assert gpu_build or hidden_share < 0.5, (
            "while it waits for others the core is the learner's"
        )
    early = [json.loads(line.partition("early")[2]) for line in done.lines("early")]
    assert early[0] == [True, True]
    if idle_ms != "2" and not gpu_build:
        assert early[1] == [False, False], "who waits makes the cycle"


NAPS_OF_ONE = r"""
#include <sys/prctl.h>
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#define CODE
void nap_once(bool again) {
  bool slept = Nap(again);
  printf("%d %g\n", slept, nap);
}
int main() {
  setenv("HOROVOD_IDLE_CYCLE_TIME", "1000", 1);
  { Waiting waiting; nap_once(false); }
  long before = prctl(PR_GET_TIMERSLACK);
  for (int i = 0; i < 2; ++i) nap_once(i > 0);
  { Waiting waiting; for (int i = 0; i < 4; ++i) nap_once(true); }
  nap_once(true);
  printf("%d %ld\n", before > 1, prctl(PR_GET_TIMERSLACK));
}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the slack of naps is Linux's")
def test_looks_are_as_seldom_as_nobody_waits(tmp_path):
    source = tmp_path / "naps.cc"
    source.write_text(NAPS_OF_ONE.replace("#define CODE", NAP_DECLARED + NAPS + NAP_DEFINED))
    compiler = shlex.split(os.environ.get("CXX") or shutil.which("c++") or "g++")
    program = tmp_path / "naps"
    subprocess.run([*compiler, "-std=c++17", source, "-o", program, "-pthread"], check=True)
    said = subprocess.run([program], check=True, capture_output=True, text=True, timeout=60).stdout
    longest, shortest = 1e9 * LONGEST_NAP, 1e9 * SHORTEST_NAP
    waited = [longest / 2, longest / 4, shortest, shortest]
    expected = [(0, longest), (1, longest), (1, longest), *((0, nap) for nap in waited)]
    expected += [(1, shortest * NAP_GROWTH), (1, 1)]
    seen = [tuple(map(float, line.split())) for line in said.splitlines()]
    assert seen == [pytest.approx(line, rel=1e-4) for line in expected]


if __name__ == "__main__":
    rank()
