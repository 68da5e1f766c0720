"""What averaging costs, and what of it any averaging would: ways of summing in turn, in one run.

    mpirun -n 2 --bind-to none python benchmarks/averaging.py mlp
    mpirun -n 2 --bind-to none python benchmarks/averaging.py cnn --cycles 30

A real run on all ranks changes its way of summing every few dozen updates: what disturbs a shared
machine for seconds disturbs all of them. Beside the real ones stand each rank by itself while the
others sleep, all of them without any sum, and all of them waiting for each other without a sum
(MPI's barrier): about what any exact average costs. Efficiency is by one rank alone, of the same
cycle.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from hvd_dqn.distributed.communicator import Json
from hvd_dqn.distributed.connect import connect
from hvd_dqn.distributed.mpi import MpiCommunicator
from hvd_dqn.learner.flat_buffer import Digest
from hvd_dqn.presets import PRESETS
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.tools.bench.report import write
from hvd_dqn.training import train

COUNTED, WARM_UP = 48, 16
"""Updates of a block that count, and those before them."""

CONTROL = 6 + Digest.size
"""Numbers behind the gradients in a `SumBuffer` without shares."""

NEVER = 10**9
EVERY_UPDATE: dict[str, Any] = {
    "vector_steps_per_iteration": 1,
    "updates_per_iteration": 1,
    "distributed.backend": "horovod",
    "distributed.threads_per_rank": 1,
    "logging.period_env_steps": NEVER,
    "evaluation.period_env_steps": NEVER,
    "evaluation.final_episodes": 1,
    "checkpoint.period_env_steps": NEVER,
}
WORK: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": (
        "cartpole",
        {
            "network.layer_norm": False,
            "network.scale_observations": False,
            "objective.double": False,
            "replay.n_step": 1,
            "target_period_updates": 250,
        },
    ),
    "cnn": ("minatar-dqn", {"replay.batch_size": 64, "replay.capacity": 20_000}),
}


class ByMessages(MpiCommunicator):
    """The `mpi` backend as it is between nodes."""

    def _get_node_sum(self, size: int) -> None:
        return None


class ByThread(ByMessages):
    """The same where a rank has a core for it."""

    spare_core = True


class Turns:
    """A communicator that sums in another way in each block of updates, and times the blocks."""

    backend = "horovod"

    def __init__(self) -> None:
        """Collective."""
        horovod = connect("horovod")  # before anything else, since it starts MPI with our settings
        from mpi4py import MPI

        self._ways = {
            "alone": None,
            "no sum": None,
            "no sum, but waiting": None,
            "mpi, messages": ByMessages(),
            "mpi, messages by a thread": ByThread(),
            "mpi, shared memory": MpiCommunicator(),
            "horovod": horovod,
        }
        self._meeting = MPI.COMM_WORLD.Dup()
        self._control = horovod
        self.rank, self.world_size = self._control.rank, self._control.world_size
        self.local_rank, self.is_root = self._control.local_rank, self._control.is_root
        self.route = self._control.route
        self._sums = 0
        self._name = ""
        self._began = 0.0
        self._summed: Tensor | None = None
        self.seconds: dict[str, list[float]] = {name: [] for name in self._ways}

    def start_sum(self, tensor: Tensor, name: str, *, overlap: bool = False) -> None:
        """See `Communicator`."""
        block, place = divmod(self._sums, COUNTED + WARM_UP)
        self._sums += 1
        if place == 0:
            cycle, turn = divmod(block, len(self._ways))
            # In another order each time, the same on all ranks: none always follows another.
            names = np.random.default_rng(cycle).permutation(list(self._ways))
            self._name = str(names[turn])
            self._meet(1 + (self.rank if self._name == "alone" else 0))
        if place == WARM_UP:
            self._began = time.perf_counter()
        self._summed = tensor
        way = self._ways[self._name]
        if way is not None:
            way.start_sum(tensor, name, overlap=overlap)

    def finish_sum(self) -> None:
        """See `Communicator`."""
        assert self._summed is not None
        way = self._ways[self._name]
        if way is not None:
            way.finish_sum()
        else:
            # What ranks agree on lies behind the gradients: as if all had said the same.
            self._summed[-CONTROL:] *= self.world_size
        if self._name == "no sum, but waiting":
            self._meeting.Barrier()
        if self._sums % (COUNTED + WARM_UP) == 0:
            self.seconds[self._name].append(time.perf_counter() - self._began)
            if self._name == "alone":
                self._meet(self.world_size - 1 - self.rank)

    def _meet(self, times: int) -> None:
        """Like a barrier, but it leaves the core to others."""
        for _ in range(times):
            request = self._meeting.Ibarrier()
            while not request.Test():
                time.sleep(0.001)

    def broadcast(self, tensor: Tensor, name: str) -> None:
        """See `Communicator`; ranks that sum nothing know of nobody."""
        if self._sums == 0 or self._ways[self._name] is not None:
            self._control.broadcast(tensor, name)

    def gather(self, value: Json) -> list[Json]:
        """See `Communicator`."""
        return self._control.gather(value)

    def abort(self, exit_code: int) -> None:
        """See `Communicator`."""
        self._control.abort(exit_code)

    def close(self) -> None:
        """See `Communicator`."""
        self._control.close()


def main() -> None:
    """One run, and its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", choices=WORK)
    parser.add_argument("--cycles", type=int, default=40, help="blocks of each way")
    parser.add_argument("--json", type=Path, help="write the milliseconds of all blocks here")
    arguments = parser.parse_args()
    comm = Turns()
    preset, changes = WORK[arguments.work]
    config = PRESETS[preset]().changed(changes | EVERY_UPDATE)
    updates = (arguments.cycles + 1) * len(comm.seconds) * (COUNTED + WARM_UP)
    step = config.env_steps_per_iteration(comm.world_size)
    without_update = -(-config.updates_start_env_steps(comm.world_size) // step) - 1
    config = config.changed({"total_env_steps": (without_update + updates) * step})
    assert config.planned_updates(comm.world_size) == updates
    with tempfile.TemporaryDirectory() as directory:
        path = comm.gather(directory)[0]
        train(config, comm, RunDirectory(Path(path) / "run"))
    everyone = comm.gather(comm.seconds)
    if comm.is_root:
        report(everyone, arguments.cycles, arguments.json)
    comm.close()


def report(everyone: list[dict[str, list[float]]], cycles: int, file: Path | None) -> None:
    """The table. A block that all share is over when its slowest rank is through."""
    blocks = {
        name: 1e3 / COUNTED * np.array([rank[name][1 : cycles + 1] for rank in everyone])
        for name in everyone[0]
    }
    alone = blocks["alone"].mean(axis=0)
    nothing = blocks["no sum"].max(axis=0)
    print(
        f"| {cycles} cycles of {COUNTED} updates | ms an update | efficiency (quartiles) |", end=""
    )
    print(" by ranks without a sum |\n|---|---|---|---|")
    for name, times in blocks.items():
        slowest = alone if name == "alone" else times.max(axis=0)
        low, median, high = np.quantile(alone / slowest, [0.25, 0.5, 0.75])
        print(
            f"| {name} | {np.median(slowest):.2f} | {median:.2f} ({low:.2f} … {high:.2f}) "
            f"| {np.median(nothing / slowest):.2f} |"
        )
    if file is not None:
        milliseconds = {name: times.round(4).tolist() for name, times in blocks.items()}
        write("averaging", {"milliseconds": milliseconds}, file)


if __name__ == "__main__":
    main()
