"""How long a sum over ranks takes, beside plain MPI and the bound of a ring."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.devices import select_device
from hvd_dqn.tools.bench.report import number, print_table

SIZES = tuple(4 * 4**power for power in range(13))
_SECONDS_A_SIZE = 1.0
_MOST_ROUNDS = 400
_NEIGHBOURS_BYTES = 16 * 2**20


def measure_allreduce(
    comm: Communicator, sizes: Sequence[int] = SIZES, seconds: float = _SECONDS_A_SIZE
) -> dict[str, Any]:
    """Seconds of one sum by our backend and by plain MPI, in turn, for every size in bytes; and the
    bandwidth between two neighbours of the ring. Collective; there are two ranks or more.
    """
    from mpi4py import MPI

    device = select_device("auto", comm.local_rank)
    world = MPI.COMM_WORLD
    rows = []
    for size in sizes:
        ours = torch.ones(size // 4, device=device)
        plain = np.ones(size // 4, dtype=np.float32)

        def by_us(tensor: torch.Tensor = ours, name: str = f"bench.{size}") -> None:
            comm.start_sum(tensor, name)
            comm.finish_sum()

        def by_mpi(values: np.ndarray = plain) -> None:
            world.Allreduce(MPI.IN_PLACE, values)

        times = _in_turn(world, [by_us, by_mpi], seconds)
        rows.append({"bytes": size, "ours": times[0], "mpi": times[1]})
    return {
        "ranks": comm.world_size,
        "backend": comm.backend,
        "device": str(device),
        "sizes": rows,
        "neighbours_bytes_per_second": _bandwidth(world),
    }


def _in_turn(world: Any, calls: Sequence[Callable[[], None]], seconds: float) -> list[list[float]]:
    """Seconds of each call, taken in turn; a round counts for the slowest rank."""
    times: list[list[float]] = [[] for _ in calls]
    rounds = 3
    turn = 0
    while turn < rounds:
        for kept, call in zip(times, calls, strict=True):
            world.Barrier()
            began = time.perf_counter()
            call()
            mine = time.perf_counter() - began
            kept.append(_slowest(world, mine))
        turn += 1
        if turn == 3:  # the same on every rank: the times are those of the slowest
            whole = sum(statistics.median(kept) for kept in times)
            rounds = 3 + max(5, min(_MOST_ROUNDS, int(seconds / whole)))
    return [kept[3:] for kept in times]


def _slowest(world: Any, mine: float) -> float:
    everyones = np.empty(world.Get_size())
    world.Allgather(np.array([mine]), everyones)
    return float(everyones.max())


def _bandwidth(world: Any) -> float:
    """Bytes a second that every rank can send to the next while it takes as many from the one
    before.
    """
    rank, size = world.Get_rank(), world.Get_size()
    away = np.ones(_NEIGHBOURS_BYTES, dtype=np.uint8)
    here = np.empty_like(away)
    seconds = []
    for _ in range(20):
        world.Barrier()
        began = time.perf_counter()
        world.Sendrecv(away, (rank + 1) % size, recvbuf=here, source=(rank - 1) % size)
        seconds.append(_slowest(world, time.perf_counter() - began))
    return _NEIGHBOURS_BYTES / statistics.median(seconds[5:])


def fit(result: dict[str, Any]) -> tuple[float, float]:
    """α, the seconds of one message of a ring's 2·(N − 1), and β, the seconds a byte between
    neighbours, of a sum by our backend: the smallest size gives the one, the largest the other.
    """
    ranks = result["ranks"]
    first, last = result["sizes"][0], result["sizes"][-1]
    latency = statistics.median(first["ours"])
    alpha = latency / (2 * (ranks - 1))
    moved = 2 * (ranks - 1) / ranks * last["bytes"]
    beta = max(statistics.median(last["ours"]) - latency, 0.0) / moved
    return alpha, beta


def predicted_seconds(alpha: float, beta: float, ranks: int, size: int) -> float:
    """Of a ring of so many ranks: 2·(N − 1)·α + 2·(N − 1)/N·S·β."""
    return 2 * (ranks - 1) * (alpha + size / ranks * beta)


def print_allreduce(result: dict[str, Any]) -> None:
    """One table."""
    ranks, bandwidth = result["ranks"], result["neighbours_bytes_per_second"]
    rows = []
    for row in result["sizes"]:
        ours, mpi = (statistics.median(row[name]) for name in ("ours", "mpi"))
        bound = 2 * (ranks - 1) / ranks * row["bytes"] / bandwidth
        rows.append(
            [
                _size(row["bytes"]),
                number(1e6 * ours),
                number(1e6 * max(row["ours"])),
                number(1e6 * mpi),
                number(1e6 * bound),
                f"{row['bytes'] / ours / 1e9:.2f}",
            ]
        )
    print_table(
        f"sums over {ranks} ranks by {result['backend']} on {result['device']}; neighbours "
        "exchange "
        f"{bandwidth / 1e9:.1f} GB/s",
        ["size", "median µs", "longest µs", "plain MPI µs", "ring's bound µs", "GB/s"],
        rows,
    )
    alpha, beta = fit(result)
    print(
        f"\nα = {number(1e6 * alpha)} µs a message · 1/β = {number(1e-9 / beta) if beta else '–'} "
        "GB/s"
    )


def _size(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} GiB"
