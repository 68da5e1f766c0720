"""What a slow network costs: training on two virtual hosts whose packets are late, by the way of
averaging and by the lateness.

    python -m tests.cluster.slow_network --delay-ms 0 0.5 -- cartpole --vector_steps_per_iteration=1

The link between the two is a pair of TUN devices; this program carries their packets, each as much
later as is asked for. It goes before the ranks, as no network waits for a core, and takes that time
from theirs: compare with a delay of 0.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.hosts import WITH_THIS, Host
from tests.cluster.ssh import SshHosts, why_not
from tests.launching import AS_ROOT, Job, wait_until

SUBNET = "10.98.76"
DEVICE = "late0"
LARGEST_PACKET = 65_000
WAYS = {
    "Horovod, exact": [],
    "Horovod, one update late": ["--distributed.average=delayed_gradients"],
    "mpi4py, exact": ["--distributed.backend=mpi"],
    "mpi4py, one update late": [
        *("--distributed.backend=mpi", "--distributed.average=delayed_gradients")
    ],
}
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI, _CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000


def main() -> None:
    """Measure and print the table."""
    if sys.argv[1:2] == ["carry"]:
        carry([int(pid) for pid in sys.argv[2:4]], float(sys.argv[4]))
    words = [*sys.argv[1:], "--"]
    split = words.index("--")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay-ms", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--records", type=int, default=4)
    options = parser.parse_args(words[:split])
    reason = why_not()
    if reason is not None:
        raise SystemExit(reason)
    print("| delay | averaging | updates/s | waiting for the sum | between sending and waiting |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        with SshHosts(place / "hosts", 2, place) as hosts:
            hosts.environment |= AS_ROOT
            for delay in options.delay_ms:
                with link(hosts.hosts, delay / 1e3):
                    for _ in range(options.rounds):
                        for way, more in WAYS.items():
                            told = ["--records", str(options.records), "--"]
                            result = bench(hosts, place, [*told, *words[split + 1 : -1], *more])
                            print(f"| {delay} ms | {way} | {describe(result)} |", flush=True)


def describe(result: dict[str, object]) -> str:
    """Return the cells of a row."""
    rates = sorted(result["updates_per_second"])
    shares = result["shares"]["averaging"], result["hidden_share"]
    return " | ".join([f"{rates[len(rates) // 2]:.0f}", *(f"{share:.1%}" for share in shares)])


def bench(hosts: SshHosts, place: Path, words: list[str]) -> dict[str, object]:
    """`hvd-dqn bench train` on both hosts, by the late link."""
    result = place / "result.json"
    job = Job(
        hosts.hosts[0].command(
            [
                *("mpirun", "-np", "2", "-H", "node1:1,node2:1", "--bind-to", "none"),
                *("--mca", "pml", "ob1", "--mca", "btl", "self,tcp"),
                *("--mca", "btl_tcp_if_include", f"{SUBNET}.0/24"),
                *("-x", "PYTHONPATH", "-x", "OMP_NUM_THREADS"),
                *(
                    str(Path(sys.executable).with_name("hvd-dqn")),
                    "bench",
                    "train",
                    "--json",
                    str(result),
                    *words,
                ),
            ],
            place,
        ),
        None,
        hosts.environment,
    )
    try:
        output, _ = job.process.communicate(timeout=600)
    finally:
        job.kill()
    assert job.process.returncode == 0, output
    return json.loads(result.read_text())


@contextlib.contextmanager
def link(hosts: list[Host], delay: float) -> Iterator[None]:
    """A link of the two hosts on which every packet is `delay` seconds late."""
    pids = [str(host.pid) for host in hosts]
    command = [sys.executable, "-m", "tests.cluster.slow_network", "carry", *pids, str(delay)]
    carrier = subprocess.Popen([*WITH_THIS, *command])
    try:
        for number, host in enumerate(hosts, 1):

            def is_there(host: Host = host) -> bool:
                with contextlib.suppress(AssertionError):
                    return bool(host.run("ip", "link", "show", DEVICE))
                return False

            wait_until(is_there, f"{DEVICE} on {host.name}", 10)
            host.run("ip", "addr", "add", f"{SUBNET}.{number}/24", "dev", DEVICE)
            host.run("ip", "link", "set", DEVICE, "mtu", str(LARGEST_PACKET), "up")
        yield
    finally:
        carrier.kill()
        carrier.wait()


def carry(pids: list[int], delay: float) -> None:
    """Take packets from each of two processes' networks to the other's, until one is gone."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    ends = [device_of(pid) for pid in pids]
    under_way: collections.deque[tuple[float, int, bytes]] = collections.deque()
    while True:
        patience = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        for end in select.select(ends, [], [], patience)[0]:
            packet = os.read(end, LARGEST_PACKET + 100)
            other = ends[1 - ends.index(end)]
            under_way.append((time.monotonic() + delay, other, packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, end, packet = under_way.popleft()
            with contextlib.suppress(OSError):  # it is not up yet
                os.write(end, packet)


def device_of(pid: int) -> int:
    """A new TUN device in that process's network."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/ns/net").open() as own, Path(f"/proc/{pid}/ns/net").open() as theirs:
        for namespace in (theirs, own):
            if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"the network of process {pid}")
            if namespace is theirs:
                device = os.open("/dev/net/tun", os.O_RDWR)
                request = struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI)
                fcntl.ioctl(device, _TUNSETIFF, request)
    return device


if __name__ == "__main__":
    main()
