"""Data parallelism as the documentation of Horovod and of torch shows it, in this project's loop:

    horovodrun -np 2 python -m hvd_dqn.tools.bench.documented KIND RECORDS FILE PRESET …

Environments, replay, network and loss are this project's; gradients go parameter by parameter
through `horovod.torch.DistributedOptimizer`, KIND `horovod`, or through `DistributedDataParallel`
over Gloo, KIND `ddp`, with no Horovod in the process. Horovod's thread looks every millisecond, as
it does by itself; by KIND `horovod-asleep` as this project sets it. Writes what `hvd-dqn bench
train` writes.
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
from torch import Tensor

from hvd_dqn.commands.options import parse_train
from hvd_dqn.common.signals import StopRequest
from hvd_dqn.common.structs import Batch, Progress
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.connect import connect
from hvd_dqn.learner import Learner
from hvd_dqn.run.assembly import assemble
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.resources import acquire
from hvd_dqn.run.start import plan
from hvd_dqn.run.watchdog import Watchdog
from hvd_dqn.tools.bench.plain import join
from hvd_dqn.tools.bench.training import WARM_UP, shortened
from hvd_dqn.training import iterate


class DocumentedLearner:
    """In the place of ours: what `iterate` calls."""

    def __init__(self, ours: Learner, config: Config, kind: str, comm: Communicator) -> None:
        self._online, self._target = ours.online, ours.target
        self._objective = ours.objective
        for network in (self._online, self._target):
            for parameter in network.parameters():  # memory of its own, as torch makes it
                parameter.data = parameter.detach().clone()
                parameter.grad = None
        self._forward: Any = self._online
        self._optimizer: Any = torch.optim.Adam(
            self._online.parameters(), lr=config.optimizer.learning_rate
        )
        if kind != "ddp":
            import horovod.torch as hvd

            hvd.broadcast_parameters(self._online.state_dict(), root_rank=0)
            self._optimizer = hvd.DistributedOptimizer(
                self._optimizer, named_parameters=self._online.named_parameters()
            )
        elif comm.world_size > 1:
            self._forward = torch.nn.parallel.DistributedDataParallel(self._online)
        self._period = config.target_period_updates
        self.updates = 0
        self.stop_agreed = False

    def start(self, batch: Batch) -> Tensor:
        """Both passes; the hooks of either library send the gradients."""
        self._optimizer.zero_grad()
        terms = self._objective(self._forward, self._target, batch)
        torch.autograd.backward((batch.weight * terms.loss).mean())
        return terms.priority

    def finish(self) -> None:
        """Wait and step."""
        self._optimizer.step()
        self.updates += 1
        if self.updates % self._period == 0:
            self._target.load_state_dict(self._online.state_dict())


def main() -> None:
    """Measure on every rank of this launch; the root writes."""
    kind, records, file, *words = sys.argv[1:]
    if kind == "horovod":
        os.environ.setdefault("HOROVOD_CYCLE_TIME", "1")
    config = parse_train(words).config
    comm = connect("mpi" if kind == "ddp" else "horovod")
    config = shortened(config, records=int(records), world_size=comm.world_size)
    with tempfile.TemporaryDirectory() as scratch:  # the root's is everybody's
        place = Path(comm.gather(scratch)[0])
        if kind == "ddp" and comm.world_size > 1:
            join(comm, "gloo")
        rates = measure(config, comm, RunDirectory(place / "run"), kind)
        comm.gather("")  # nobody needs it any more
    if comm.is_root:
        result = {"ranks": comm.world_size, "env_steps_per_second": rates}
        Path(file).write_text(json.dumps(result))
    comm.close()


def measure(config: Config, comm: Communicator, run_dir: RunDirectory, kind: str) -> list[float]:
    """Env steps a second, record by record."""
    progress, stop = Progress(), StopRequest()
    watchdog = Watchdog(comm, progress, run_dir, limit=config.distributed.hang_seconds)
    start = plan(config, comm, run_dir, resume="never", changes=frozenset())
    resources = acquire(config, comm, run_dir, start, stop, watchdog)
    times: list[tuple[int, float]] = []
    try:
        parts = assemble(config, comm, resources, progress)
        learner: Any = DocumentedLearner(parts.learner, config, kind, comm)
        parts.learner = learner
        while progress.env_steps < config.total_env_steps:
            iterate(parts)
            watchdog.beat()
            begun = progress.updates > 0
            if begun and progress.env_steps // config.logging.period_env_steps > len(times):
                times += [(progress.env_steps, time.perf_counter())]
    finally:
        resources.close()
    marks = times[WARM_UP:]
    return [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(marks)]


if __name__ == "__main__":
    main()
