"""The checks that all ranks of a launch run together."""

from __future__ import annotations

import os
import statistics
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch
from rich.table import Table

from hvd_dqn.distributed.communicator import Communicator, hostname
from hvd_dqn.distributed.devices import gpu_name, select_device
from hvd_dqn.distributed.launcher import usable_cores
from hvd_dqn.distributed.solvers import SolverPlace, solver_link
from hvd_dqn.tools.doctor.checks import Check, make_console
from hvd_dqn.tools.probe import loaded_mpi_libraries

_PACKAGES = ("hvd_dqn", "torch", "numpy", "mpi4py", "gymnasium", "horovod")
_SIZES = {"one number": 1, "small network": 67_000, "Nature network": 1_687_206}
_SLOW = 1.3
_SECONDS_OF_SKEW = 1.0


class Place(NamedTuple):
    """The host, device and cores of a rank, and its time for a matrix product."""

    rank: int
    host: str
    device: str
    gpu: str | None
    cores: list[int]
    milliseconds: float


def find_places(comm: Communicator) -> list[Place]:
    """Return the place of every rank. Collective."""
    device = select_device("auto", comm.local_rank)
    mine = Place(
        comm.rank,
        hostname(),
        torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        gpu_name(comm.local_rank),
        sorted(usable_cores()),
        _milliseconds_of_products(device),
    )
    return [Place(*place) for place in comm.gather(mine)]


def examine(comm: Communicator, places: list[Place], shared: Path | None) -> Iterator[Check]:
    """Yield each check of all ranks as soon as it is complete. Collective.

    `shared` is a directory that all ranks should share.
    """
    yield _versions(comm)
    yield _libraries(comm)
    yield _cores(places, solver_places(comm))
    yield from _groups(comm)
    gpus = _gpus(places)
    yield gpus
    yield _clocks(comm)
    if shared is not None:
        yield _shared(comm, shared)
    yield _speed(places)
    if gpus.state == "fail":  # the same on all ranks
        yield Check("allreduce", "fail", "not tried", "fix the GPUs first")
    else:
        yield _sums(comm, select_device("auto", comm.local_rank))


def print_places(places: list[Place]) -> None:
    """Print a table of the ranks: host, device, cores and speed."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rank", "host", "device", "cores", "matmul ms"):
        table.add_column(name, justify="left" if name in ("host", "device") else "right")
    for place in places:
        table.add_row(
            str(place.rank),
            place.host,
            place.device,
            _ranges(place.cores),
            f"{place.milliseconds:.1f}",
        )
    make_console().print(table)


def _milliseconds_of_products(device: torch.device) -> float:
    """Return the median time of ten products of 512 × 512 matrices."""
    matrix = torch.ones(512, 512, device=device)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        (matrix @ matrix).sum().item()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def _versions(comm: Communicator) -> Check:
    mine = {"Python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            mine[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            mine[name] = "none"
    everyone = comm.gather([hostname(), mine])
    for name in mine:
        found = {host: versions[name] for host, versions in everyone}
        if len(set(found.values())) > 1:
            usual = Counter(found.values()).most_common(1)[0][0]
            odd = ", ".join(f"{v} on {host}" for host, v in found.items() if v != usual)
            return Check(
                "versions",
                "fail",
                f"{name} is {usual}, but {odd}",
                "install the same version on all hosts",
            )
    return Check("versions", "ok", "the same on all hosts")


def _libraries(comm: Communicator) -> Check:
    for rank, (host, libraries) in enumerate(comm.gather([hostname(), loaded_mpi_libraries()])):
        if len(libraries) > 1:
            found = f"rank {rank} on {host} has loaded {' and '.join(libraries)}"
            return Check("libmpi", "fail", found, "build mpi4py and Horovod against the same MPI")
    return Check("libmpi", "ok", "one MPI library on each rank")


def solver_places(comm: Communicator) -> list[SolverPlace]:
    """Return the places of all solver ranks. Collective."""
    link = solver_link()
    own = [place for group in link.groups for place in group] if link else []
    return [SolverPlace(*place) for places in comm.gather(own) for place in places]


def _groups(comm: Communicator) -> Iterator[Check]:
    """Check where the groups of solver ranks are, if there are any."""
    link = solver_link()
    if link is None:
        return
    groups = [[place.host for place in group] for group in link.groups]
    far = []
    for rank, (host, hosts) in enumerate(comm.gather([hostname(), groups])):
        for copy, its in enumerate(hosts):
            if {host} != set(its):
                far.append(f"environment {copy} of rank {rank} on {', '.join(sorted({*its}))}")
    ranks = f"groups of {len(groups[0])}, {len(groups)} for each rank that learns"
    if far:
        found = f"{ranks}; not on the node of their rank: {'; '.join(far[:4])}"
        remedy = "fine if a group needs several nodes; otherwise start a multiple of "
        remedy += f"{1 + len(groups) * len(groups[0])} ranks on each node"
        yield Check("solver ranks", "warn", found, remedy)
    else:
        yield Check("solver ranks", "ok", f"{ranks}, on its node")


def _cores(places: list[Place], solvers: list[SolverPlace]) -> Check:
    for host in {place.host for place in places}:
        here = [set(place.cores) for place in places if place.host == host]
        here += [set(place.cores) for place in solvers if place.host == host]
        cores = set().union(*here)
        if len(here) > len(cores):
            found = f"{len(here)} ranks share {len(cores)} cores on {host}"
            remedy = "use fewer ranks per node, or more --cpus-per-task"
            return Check("cores", "warn", found, remedy)
    return Check("cores", "ok", "at least one for each rank")


def _gpus(places: list[Place]) -> Check:
    users = Counter(place.gpu for place in places if place.gpu is not None)
    if not users:
        return Check("GPUs", "ok", "none; every rank trains on the CPU")
    shared = [place for place in places if place.gpu is not None and users[place.gpu] > 1]
    if shared:
        ranks = ", ".join(str(place.rank) for place in shared)
        return Check("GPUs", "fail", f"ranks {ranks} share GPUs", "start one rank per GPU")
    without = [place.rank for place in places if place.gpu is None]
    if without:
        return Check(
            "GPUs", "fail", f"ranks {without} find no GPU", "request --gpus-per-node on every node"
        )
    return Check("GPUs", "ok", "one per rank")


def _clocks(comm: Communicator) -> Check:
    """Compare the clocks of all ranks after a gather, which they leave at about the same time; the
    smallest of five differences counts.
    """
    rounds = []
    for _ in range(5):
        comm.gather(None)
        rounds.append(comm.gather([time.time(), hostname()]))
    best = min(rounds, key=lambda times: max(times)[0] - min(times)[0])
    first, last = min(best), max(best)
    skew = last[0] - first[0]
    if skew > _SECONDS_OF_SKEW:
        found = f"{last[1]} is {skew:.1f} s ahead of {first[1]}"
        return Check("clocks", "warn", found, "synchronize the hosts by NTP")
    return Check("clocks", "ok", f"within {1000 * skew:.1f} ms")


def _shared(comm: Communicator, directory: Path) -> Check:
    token = comm.gather(uuid.uuid4().hex)[0]
    path = directory / f".hvd-dqn-doctor-{token}"
    problem = ""
    if comm.is_root:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            path.write_text(token)
        except OSError as error:
            problem = error.strerror or str(error)
    problem = comm.gather(problem)[0]
    if problem:
        where = f"{directory} on {hostname()}: {problem}"
        return Check("directory", "fail", where, "choose a writable directory")
    seen = comm.gather([hostname(), _appears(path, token)])
    blind = [host for host, sees in seen if not sees]
    if comm.is_root:
        path.unlink(missing_ok=True)
    if blind:
        found = f"{directory} is not the same on {', '.join(sorted(set(blind)))}"
        return Check(
            "directory", "fail", found, "choose a directory on a file system that all nodes share"
        )
    return Check("directory", "ok", f"{directory} is shared by all ranks")


def _appears(path: Path, token: str) -> bool:
    """Return whether the file appears within five seconds: network file systems cache that a file
    does not exist.
    """
    for _ in range(50):
        with suppress(OSError):
            os.scandir(path.parent).close()
            if path.read_text() == token:
                return True
        time.sleep(0.1)
    return False


def _sums(comm: Communicator, device: torch.device) -> Check:
    """Measure the median time of each size, and the bandwidth per link of a ring allreduce."""
    found = []
    for name, numbers in _SIZES.items():
        tensor = torch.zeros(numbers, device=device)
        times = []
        for _ in range(15):
            comm.gather(None)
            began = time.perf_counter()
            comm.start_sum(tensor, f"doctor.{numbers}")
            comm.finish_sum()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - began)
        seconds = max(comm.gather(statistics.median(times[5:])))
        text = f"{name} {1000 * seconds:.2f} ms"
        if numbers > 1:
            moved = 2 * (comm.world_size - 1) / comm.world_size * 4 * numbers
            text += f" ({moved / seconds / 1e9:.2f} GB/s per link)"
        found.append(text)
    return Check("allreduce", "ok", f"{comm.backend}: {', '.join(found)}")


def _speed(places: list[Place]) -> Check:
    usual = statistics.median(place.milliseconds for place in places)
    slowest = max(places, key=lambda place: place.milliseconds)
    times = slowest.milliseconds / usual
    if times > _SLOW and len(places) > 1:
        found = (
            f"rank {slowest.rank} on {slowest.host} takes {times:.1f} times as long as the median"
        )
        return Check(
            "speed", "warn", found, "all ranks wait for it; look for other processes on that host"
        )
    return Check("speed", "ok", f"the slowest rank takes {times:.2f} times the median")


def _ranges(numbers: list[int]) -> str:
    """Return 0-3,8 for 0, 1, 2, 3, 8."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
