"""Data parallelism as the documentation of Horovod and torch shows it, in this project's loop.

    horovodrun -np 2 python benchmarks/documented.py WAY RECORDS FILE PRESET [--option VALUE …]

Environments, replay, network and loss are this project's. Gradients are averaged parameter by
parameter: by `horovod.torch.DistributedOptimizer` (WAY `horovod`, with Horovod's default cycle of
1 ms, or `horovod-asleep`, with this project's settings), or by torch's `DistributedDataParallel`
over Gloo (WAY `ddp`, in processes without Horovod). Writes the env steps per second of each record
to FILE; `compare.py` runs this.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from command import execute
from torch import Tensor

from hvd_dqn.commands.options import parse_train
from hvd_dqn.common.signals import StopRequest
from hvd_dqn.common.stages import StageClock
from hvd_dqn.common.structs import Batch, Progress
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.connect import connect
from hvd_dqn.learner import Learner
from hvd_dqn.run.assembly import (
    Components,
    assemble_actor,
    assemble_experience,
    assemble_learner,
    assemble_policy,
)
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.observer import Observer
from hvd_dqn.run.pace import make_pace
from hvd_dqn.run.resources import Resources, acquire
from hvd_dqn.run.start import plan
from hvd_dqn.run.turns import make_turns
from hvd_dqn.run.watchdog import Watchdog
from hvd_dqn.tools.bench.plain_sums import join_process_group
from hvd_dqn.tools.bench.training import WARM_UP, shortened
from hvd_dqn.training import iterate


class DocumentedLearner:
    """Replaces this project's learner; has what `iterate` calls.

    It moves the parameters of both networks out of the learner's flat buffer, so create it before
    anything that keeps their addresses, such as an actor.
    """

    def __init__(self, ours: Learner, config: Config, way: str, comm: Communicator) -> None:
        self.online, self._target = ours.online, ours.target
        self._objective = ours.objective
        for network in (self.online, self._target):
            for parameter in network.parameters():  # memory of its own, as torch allocates it
                parameter.data = parameter.detach().clone()
                parameter.grad = None
        self._forward: Any = self.online
        self._optimizer: Any = torch.optim.Adam(
            self.online.parameters(), lr=config.optimizer.learning_rate
        )
        if way != "ddp":
            import horovod.torch as hvd

            hvd.broadcast_parameters(self.online.state_dict(), root_rank=0)
            self._optimizer = hvd.DistributedOptimizer(
                self._optimizer, named_parameters=self.online.named_parameters()
            )
        elif comm.world_size > 1:
            self._forward = torch.nn.parallel.DistributedDataParallel(self.online)
            self._forward.branches = self.online.branches  # which the objective asks for
        self._period = config.target_period_updates
        self.updates = 0
        self.stop_agreed = False

    def start(self, batch: Batch) -> Tensor:
        """Compute gradients, which the library's hooks send; returns the priorities."""
        self._optimizer.zero_grad()
        terms = self._objective(self._forward, self._target, batch)
        torch.autograd.backward((batch.weight * terms.loss).mean())
        return terms.priority

    def finish(self) -> None:
        """Wait for the averages, step, and copy the online network if the period is over."""
        self._optimizer.step()
        self.updates += 1
        if self.updates % self._period == 0:
            self._target.load_state_dict(self.online.state_dict())


def assemble(
    config: Config, comm: Communicator, resources: Resources, progress: Progress, way: str
) -> Components:
    """Put a run together with a `DocumentedLearner`. Collective.

    The learner comes first: the actor's NumPy network keeps the addresses of the parameters, and
    would act with the initial ones if they moved later.
    """
    clock = StageClock()
    ours = assemble_learner(config, comm, resources, clock)
    learner: Any = DocumentedLearner(ours, config, way, comm)
    policy = assemble_policy(config, comm, resources, learner.online)
    experience = assemble_experience(config, comm, resources, policy)
    actor = assemble_actor(config, comm, resources, policy, experience, clock)
    observer = Observer(
        config, comm, resources, ours, experience, progress, clock, actor.exploration
    )
    pace = make_pace(config, world_size=comm.world_size)
    turns = make_turns(config, progress, pace, comm, learner, resources.stop)
    return Components(pace, turns, progress, learner, experience, actor, observer, clock)


def measure(config: Config, comm: Communicator, run_dir: RunDirectory, way: str) -> list[float]:
    """Train; returns the env steps per second of each record after the warm-up."""
    progress, stop = Progress(), StopRequest()
    watchdog = Watchdog(comm, progress, run_dir, limit=config.distributed.hang_seconds)
    start = plan(config, comm, run_dir, resume="never", changes=frozenset())
    resources = acquire(config, comm, run_dir, start, stop, watchdog)
    times: list[tuple[int, float]] = []
    try:
        components = assemble(config, comm, resources, progress, way)
        while progress.env_steps < config.total_env_steps:
            iterate(components)
            watchdog.beat()
            updating = progress.updates > 0
            if updating and progress.env_steps // config.logging.period_env_steps > len(times):
                times.append((progress.env_steps, time.perf_counter()))
    finally:
        resources.close()
    marks = times[WARM_UP:]
    return [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(marks)]


def main() -> None:
    """Measure on every rank of this launch; the root writes the result."""
    way, records, file, *words = sys.argv[1:]
    if way == "horovod":
        os.environ.setdefault("HOROVOD_CYCLE_TIME", "1")
    config = parse_train(words).config
    comm = connect("mpi" if way == "ddp" else "horovod")
    config = shortened(config, records=int(records), world_size=comm.world_size)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(comm.gather(scratch)[0])  # the root's directory, on all ranks
        if way == "ddp" and comm.world_size > 1:
            join_process_group(comm, "gloo")
        rates = measure(config, comm, RunDirectory(place / "run"), way)
        comm.gather("")  # no rank needs the directory any longer
    if comm.is_root:
        result = {"ranks": comm.world_size, "env_steps_per_second": rates}
        Path(file).write_text(json.dumps(result))
    comm.close()


if __name__ == "__main__":
    execute(main)
