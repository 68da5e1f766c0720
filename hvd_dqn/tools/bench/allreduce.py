"""Time of a sum over all ranks, compared with another library and with the bound of a ring."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.agreement import agreement
from hvd_dqn.distributed.communicator import hostname
from hvd_dqn.distributed.devices import select_device
from hvd_dqn.tools.bench.plain_sums import MpiSums, PlainSums, TorchSums
from hvd_dqn.tools.bench.report import number, print_table
from hvd_dqn.tools.probe import mpi_library_version

SIZES = tuple(4 * 4**power for power in range(13))
"""Bytes: 4 B to 64 MiB."""
_SECONDS_PER_SIZE = 1.0
_MAX_ROUNDS = 400
_WARM_UP = 3


def measure_allreduce(
    comm: Communicator,
    sizes: Sequence[int] = SIZES,
    seconds: float = _SECONDS_PER_SIZE,
    beside: str = "auto",
) -> dict[str, Any]:
    """Time sums of every size in bytes: by this project's backend, by another library, and the
    messages between neighbours of which a ring of that library consists.

    `beside` is `"mpi"` (host memory), `"nccl"`, `"gloo"`, or `"auto"`: NCCL if this project's sums
    use it, otherwise MPI. Collective; needs two or more ranks.
    """
    from mpi4py import MPI

    device = select_device("auto", comm.local_rank)
    world, ranks = MPI.COMM_WORLD, comm.world_size
    library = beside if beside != "auto" else "nccl" if comm.route == "NCCL" else "mpi"
    with agreement(comm):
        if library == "nccl" and device.type != "cuda":
            raise UserError(
                f"--beside nccl: rank {comm.rank} has no GPU", "pass --beside mpi or gloo"
            )
    plain: PlainSums = MpiSums() if library == "mpi" else TorchSums(comm, library)
    plain_device = device if library == "nccl" else torch.device("cpu")
    rows = []
    for size in sizes:
        calls = [
            _our_sum(comm, size, device),
            *_plain_calls(plain, size, ranks, plain_device),
        ]
        times = _time_in_turn(world, calls, seconds)
        rows.append({"bytes": size, "ours": times[0], "plain": times[1], "messages": times[2]})
    return {
        "ranks": ranks,
        "hosts": len(set(comm.gather(hostname()))),
        "mpi": mpi_library_version(),
        "backend": comm.backend,
        "device": str(device),
        "plain": plain.name,
        "plain_device": plain_device.type,
        "sizes": rows,
    }


def _our_sum(comm: Communicator, size: int, device: torch.device) -> Callable[[], None]:
    """A sum of `size` bytes by this project's backend."""
    tensor, name = torch.ones(size // 4, device=device), f"bench.{size}"

    def sum_by_us() -> None:
        comm.start_sum(tensor, name)
        comm.finish_sum()
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)

    return sum_by_us


def _plain_calls(
    plain: PlainSums, size: int, ranks: int, device: torch.device
) -> tuple[Callable[[], None], Callable[[], None]]:
    """A sum of `size` bytes by another library, and the messages of its ring."""
    tensor = torch.ones(size // 4, device=device)
    sent = torch.ones(max(1, size // 4 // ranks), device=device)
    received = torch.empty_like(sent)

    def exchange_as_ring() -> None:
        for _ in range(2 * (ranks - 1)):
            plain.exchange(sent, received)

    return partial(plain.sum, tensor), exchange_as_ring


def _time_in_turn(
    world: Any, calls: Sequence[Callable[[], None]], seconds: float
) -> list[list[float]]:
    """Seconds of each call, taken in turn. The slowest rank's time counts."""
    times: list[list[float]] = [[] for _ in calls]
    rounds = _WARM_UP
    turn = 0
    while turn < rounds:
        for kept, call in zip(times, calls, strict=True):
            world.Barrier()
            began = time.perf_counter()
            call()
            mine = time.perf_counter() - began
            kept.append(_slowest(world, mine))
        turn += 1
        if turn == _WARM_UP:  # equal on every rank, since all hold the slowest rank's times
            whole = sum(statistics.median(kept) for kept in times)
            rounds = _WARM_UP + max(5, min(_MAX_ROUNDS, int(seconds / whole)))
    return [kept[_WARM_UP:] for kept in times]


def _slowest(world: Any, mine: float) -> float:
    everyones = np.empty(world.Get_size())
    world.Allgather(np.array([mine]), everyones)
    return float(everyones.max())


class SumModel(NamedTuple):
    """A model of the time of a sum over ranks, fitted to measured sums."""

    ranks: int
    """Number of ranks that took part in the measured sums."""
    latency: float
    """Seconds of the smallest sum."""
    beta: float
    """Seconds per byte that passes between neighbours."""

    @property
    def alpha(self) -> float:
        """Seconds per message; a ring has 2·(N - 1)."""
        return self.latency / (2 * (self.ranks - 1))

    def ring(self, ranks: int, size: int) -> float:
        """Seconds of a ring over `ranks` ranks: 2·(N - 1)·α + 2·(N - 1)/N·S·β."""
        return 2 * (ranks - 1) * (self.alpha + size / ranks * self.beta)

    def halving(self, ranks: int, size: int) -> float:
        """Seconds of recursive halving and doubling (Rabenseifner's algorithm): as many bytes as a
        ring, in a number of steps proportional to log N.
        """
        steps = math.log2(ranks) / math.log2(self.ranks)
        return steps * self.latency + 2 * (ranks - 1) / ranks * size * self.beta


def model_sums(result: dict[str, Any], size: int) -> SumModel:
    """Fit a model that reproduces the measured time of a sum of `size` bytes, which is interpolated
    linearly between the two nearest sizes.
    """
    ranks = result["ranks"]
    sizes = [row["bytes"] for row in result["sizes"]]
    medians = [statistics.median(row["ours"]) for row in result["sizes"]]
    measured = float(np.interp(size, sizes, medians))
    moved = 2 * (ranks - 1) / ranks * size
    return SumModel(ranks, medians[0], max(measured - medians[0], 0.0) / moved)


def print_allreduce(result: dict[str, Any]) -> None:
    """Print one table, and α and β."""
    ranks, sizes = result["ranks"], result["sizes"]
    steps = 2 * (ranks - 1)
    bandwidth = max(
        row["bytes"] / ranks * steps / statistics.median(row["messages"]) for row in sizes
    )
    rows = []
    for row in sizes:
        ours, plain, messages = (
            statistics.median(row[name]) for name in ("ours", "plain", "messages")
        )
        rows.append(
            [
                _format_bytes(row["bytes"]),
                number(1e6 * ours),
                number(1e6 * max(row["ours"])),
                number(1e6 * plain),
                number(1e6 * messages),
                number(1e6 * steps / ranks * row["bytes"] / bandwidth),
                f"{row['bytes'] / ours / 1e9:.2f}",
                f"{steps / ranks * row['bytes'] / ours / 1e9:.2f}",
            ]
        )
    hosts = "1 host" if result["hosts"] == 1 else f"{result['hosts']} hosts"
    print_table(
        f"sums over {ranks} ranks on {hosts} by {result['backend']} on {result['device']}; B = "
        f"{bandwidth / 1e9:.1f} GB/s, the highest rate between neighbours by {result['plain']}",
        [
            "S",
            "median µs",
            "max µs",
            f"{result['plain']}, {result['plain_device']}, µs",
            "messages of a ring, µs",
            "2(N-1)/N·S/B, µs",
            "S/time, GB/s",
            "on the wire, GB/s",
        ],
        rows,
    )
    model = model_sums(result, sizes[-1]["bytes"])
    rate = number(1e-9 / model.beta) if model.beta else "–"
    print(f"α = {number(1e6 * model.alpha)} µs per message · 1/β = {rate} GB/s")


def _format_bytes(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} GiB"
