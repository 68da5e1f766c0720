"""How long a sum over ranks takes, beside a plain library's and the bound of a ring."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.agreement import agreement
from hvd_dqn.distributed.communicator import hostname
from hvd_dqn.distributed.devices import select_device
from hvd_dqn.tools.bench.plain import MpiSums, PlainSums, TorchSums
from hvd_dqn.tools.bench.report import number, print_table

SIZES = tuple(4 * 4**power for power in range(13))
_SECONDS_A_SIZE = 1.0
_MOST_ROUNDS = 400
_WARM_UP = 3


def measure_allreduce(
    comm: Communicator,
    sizes: Sequence[int] = SIZES,
    seconds: float = _SECONDS_A_SIZE,
    beside: str = "auto",
) -> dict[str, Any]:
    """Seconds of one sum by our backend, by a plain library, and of the messages between neighbours
    that a ring of that library consists of, in turn, for every size in bytes. The library is
    `"mpi"`, in the host's memory, or torch's `"nccl"` or `"gloo"`; `"auto"`: NCCL where our sums go
    by it, else MPI. Collective; there are two ranks or more.
    """
    from mpi4py import MPI

    device = select_device("auto", comm.local_rank)
    world, ranks = MPI.COMM_WORLD, comm.world_size
    library = beside if beside != "auto" else "nccl" if comm.route == "NCCL" else "mpi"
    with agreement(comm):
        if library == "nccl" and device.type != "cuda":
            raise UserError(f"--beside nccl: rank {comm.rank} has no GPU", "--beside mpi, or gloo")
    plain: PlainSums = MpiSums() if library == "mpi" else TorchSums(comm, library)
    plain_device = device if library == "nccl" else torch.device("cpu")
    rows = []
    for size in sizes:
        ours = torch.ones(size // 4, device=device)
        theirs = torch.ones(size // 4, device=plain_device)
        away = torch.ones(max(1, size // 4 // ranks), device=plain_device)
        here = torch.empty_like(away)

        def by_us(tensor: torch.Tensor = ours, name: str = f"bench.{size}") -> None:
            comm.start_sum(tensor, name)
            comm.finish_sum()
            if tensor.is_cuda:
                torch.cuda.synchronize(tensor.device)

        def by_them(tensor: torch.Tensor = theirs) -> None:
            plain.sum(tensor)

        def round_the_ring(away: torch.Tensor = away, here: torch.Tensor = here) -> None:
            for _ in range(2 * (ranks - 1)):
                plain.exchange(away, here)

        times = _in_turn(world, [by_us, by_them, round_the_ring], seconds)
        rows.append({"bytes": size, "ours": times[0], "plain": times[1], "messages": times[2]})
    return {
        "ranks": ranks,
        "hosts": len(set(comm.gather(hostname()))),
        "mpi": MPI.Get_library_version().partition(",")[0].strip(),
        "backend": comm.backend,
        "device": str(device),
        "plain": plain.name,
        "plain_device": plain_device.type,
        "sizes": rows,
    }


def _in_turn(world: Any, calls: Sequence[Callable[[], None]], seconds: float) -> list[list[float]]:
    """Seconds of each call, taken in turn; a round counts for the slowest rank."""
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
        if turn == _WARM_UP:  # the same on every rank: the times are those of the slowest
            whole = sum(statistics.median(kept) for kept in times)
            rounds = _WARM_UP + max(5, min(_MOST_ROUNDS, int(seconds / whole)))
    return [kept[_WARM_UP:] for kept in times]


def _slowest(world: Any, mine: float) -> float:
    everyones = np.empty(world.Get_size())
    world.Allgather(np.array([mine]), everyones)
    return float(everyones.max())


class SumModel(NamedTuple):
    """What a sum over ranks takes, from sums that were measured."""

    ranks: int
    """So many took part."""
    latency: float
    """Seconds of the smallest sum."""
    beta: float
    """Seconds a byte that passes between neighbours."""

    @property
    def alpha(self) -> float:
        """Seconds of one message of a ring's 2·(N - 1)."""
        return self.latency / (2 * (self.ranks - 1))

    def ring(self, ranks: int, size: int) -> float:
        """Seconds of a ring of so many ranks: 2·(N - 1)·α + 2·(N - 1)/N·S·β."""
        return 2 * (ranks - 1) * (self.alpha + size / ranks * self.beta)

    def halving(self, ranks: int, size: int) -> float:
        """Seconds where messages are halved and doubled (Rabenseifner's algorithm; a tree's number
        of messages): as many bytes, in log N steps.
        """
        steps = math.log2(ranks) / math.log2(self.ranks)
        return steps * self.latency + 2 * (ranks - 1) / ranks * size * self.beta


def model_sums(result: dict[str, Any], size: int) -> SumModel:
    """Such that so many ranks as were measured take what they took for `size` bytes, by a straight
    line between the sizes next to it.
    """
    ranks = result["ranks"]
    sizes = [row["bytes"] for row in result["sizes"]]
    medians = [statistics.median(row["ours"]) for row in result["sizes"]]
    measured = float(np.interp(size, sizes, medians))
    moved = 2 * (ranks - 1) / ranks * size
    return SumModel(ranks, medians[0], max(measured - medians[0], 0.0) / moved)


def print_allreduce(result: dict[str, Any]) -> None:
    """One table."""
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
                _size(row["bytes"]),
                number(1e6 * ours),
                number(1e6 * max(row["ours"])),
                number(1e6 * plain),
                number(1e6 * messages),
                number(1e6 * steps / ranks * row["bytes"] / bandwidth),
                f"{row['bytes'] / ours / 1e9:.2f}",
                f"{steps / ranks * row['bytes'] / ours / 1e9:.2f}",
            ]
        )
    name = f"{result['plain']}, {result['plain_device']}"
    hosts = "1 host" if result["hosts"] == 1 else f"{result['hosts']} hosts"
    print_table(
        f"sums over {ranks} ranks on {hosts} by {result['backend']} on {result['device']}; B, the "
        f"most that neighbours exchange by {result['plain']}, is {bandwidth / 1e9:.1f} GB/s",
        [
            "S",
            "median µs",
            "longest µs",
            f"{name}, µs",
            "a ring's messages, µs",
            "2(N-1)/N·S/B, µs",
            "S/time, GB/s",
            "on the wire, GB/s",
        ],
        rows,
    )
    model = model_sums(result, sizes[-1]["bytes"])
    rate = number(1e-9 / model.beta) if model.beta else "–"
    print(f"\nα = {number(1e6 * model.alpha)} µs a message · 1/β = {rate} GB/s")


def _size(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} GiB"
