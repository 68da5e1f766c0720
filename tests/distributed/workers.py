"""The jobs of each rank in the multi-rank tests: `python -m tests.distributed.workers DIRECTORY
BACKEND`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hvd_dqn.common.files import publish
from hvd_dqn.common.state import DistributedState, snapshot
from hvd_dqn.common.structs import Batch, ReplayShare
from hvd_dqn.config import (
    Config,
    DistributedConfig,
    EnvConfig,
    EvaluationConfig,
    ExplorationConfig,
    LoggingConfig,
    NetworkConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ReplayConfig,
)
from hvd_dqn.distributed import connect, mpi
from hvd_dqn.distributed.communicator import Communicator
from hvd_dqn.distributed.mpi import MpiCommunicator
from hvd_dqn.distributed.one_sided import Counter, OneSidedMemory
from hvd_dqn.learner import (
    Learner,
    NonFiniteError,
    ParameterServerLearner,
    RewardScaling,
    TargetUpdate,
    base,
)
from hvd_dqn.learner import make_learner as make_room_learner
from hvd_dqn.methods import schedules
from hvd_dqn.methods.expected import ExpectedObjective
from hvd_dqn.methods.registry import make_network, method_of

CPU = torch.device("cpu")
SMALL_NETWORK = NetworkConfig(hidden_sizes=(32, 32))


def sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().numpy().tobytes()).hexdigest()


def make_learner(
    comm: Communicator,
    *,
    seed: int,
    target_period: int = 10,
    target_step: float = 1.0,
    device: torch.device = CPU,
    prioritized: bool = False,
    distributed: dict[str, Any] | None = None,
    network: NetworkConfig = SMALL_NETWORK,
    obs_shape: tuple[int, ...] = (6,),
    optimizer: dict[str, Any] | None = None,
    normalized: bool = False,
) -> Learner:
    """A small learner; `seed` may differ by rank: the broadcast must undo that."""
    torch.manual_seed(seed)
    network = dataclasses.replace(network, normalize_observations=normalized)
    online, target = (
        make_network(
            network,
            ObjectiveConfig(),
            obs_space=gym.spaces.Box(-1, 1, obs_shape),
            num_actions=3,
            device=device,
        )
        for _ in range(2)
    )
    given = {"learning_rate": 1e-3, "max_grad_norm": 0.1} | (optimizer or {})
    config = OptimizerConfig(**given)
    return make_room_learner(
        DistributedConfig(**(distributed or {})),
        prioritized=prioritized,
        scaling=RewardScaling(0.97, device) if normalized else None,
        online=online,
        target=target,
        objective=ExpectedObjective(ObjectiveConfig()),
        config=config,
        rate=lambda updates: schedules.learning_rate(config, comm.world_size, updates, 1000),
        target_update=TargetUpdate(target_period, target_step),
        communicator=comm,
        generator=torch.Generator(device).manual_seed(seed),
    )


class Tape(TorchDispatchMode):
    """A substitute for a CUDA graph: it repeats a function's operations on the same memory.

    As in a graph, the host's decisions at the time of the recording are kept, and the host cannot
    read results in between.
    """

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert operation is not torch.ops.aten._local_scalar_dense.default, "a graph cannot wait"
        results = operation(*args, **(kwargs or {}))
        self._operations.append((operation, args, kwargs or {}, results))
        return results

    @torch.no_grad()
    def play(self) -> None:
        """Repeat all operations."""
        for operation, args, kwargs, results in self._operations:
            again = operation(*args, **kwargs)
            for place, result in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(place, torch.Tensor) and place.data_ptr() != result.data_ptr():
                    place.copy_(result)


def recorded_without_a_gpu(work: Callable[[], Any]) -> Callable[[], Any]:
    """A substitute for `record_on_gpu`."""
    work()
    with Tape() as tape:
        results = work()

    def replay() -> Any:
        tape.play()
        return results

    return replay


@contextlib.contextmanager
def recording_without_a_gpu(optimizer: str = "adam") -> Iterator[mock.Mock]:
    """Within it learners record so; what was called to do it. torch's RAdam is called again: on the
    host it reads its step's number.
    """
    record = recorded_without_a_gpu if optimizer != "radam" else lambda work: work
    with mock.patch.object(base, "record_on_gpu", side_effect=record) as called:
        yield called


def batches(count: int, size: int) -> list[Batch]:
    """Return the same batches on every rank."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return [
        Batch(
            obs=normal(size, 6),
            action=torch.randint(3, (size,), generator=generator),
            reward=normal(size),
            discount=torch.rand(size, generator=generator),
            next_obs=normal(size, 6),
            weight=torch.ones(size),
            slot=np.arange(size),
            share=ReplayShare(),
        )
        for _ in range(count)
    ]


def part(batch: Batch, rank: int, size: int) -> Batch:
    rows = slice(rank * size, (rank + 1) * size)
    return Batch(*(values[rows] for values in batch[:-1]), batch.share)


def share_of(rank: int) -> ReplayShare:
    """Return the share of a prioritised replay that differs between ranks: a tenth of the mass of
    the rank before, and a third of its floors.
    """
    floors = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08)
    return ReplayShare(mass=10.0 ** (2 - rank) * 3, floors=tuple(f / 3**rank for f in floors))


def equivalence(comm: Communicator, options: dict[str, Any]) -> dict[str, Any]:
    """Update with this rank's share of common batches."""
    prioritized = options.get("prioritized", False)
    with recording_without_a_gpu():
        learner = make_learner(
            comm,
            seed=comm.rank,
            prioritized=prioritized,
            distributed=options.get("distributed"),
            optimizer=options.get("optimizer"),
            normalized=options.get("normalized", False),
        )
    size = options["size"]
    share = share_of(comm.rank) if prioritized else ReplayShare()
    for batch in batches(options["updates"], size * comm.world_size):
        learner.start(part(batch, comm.rank, size)._replace(share=share))
        learner.finish()
    learner.synchronize()
    with learner.shared_parameters():
        shared = learner.online_parameters.values.tolist()
    return {
        "parameters": learner.online_parameters.values.tolist(),
        "target": learner.target_parameters.values.tolist(),
        "shared": shared,
        "statistics": statistics_of(learner),
        "loss": learner.statistics.loss,
        "drift": learner.statistics.drift,
    }


def statistics_of(learner: Learner) -> dict[str, list[float]]:
    """Return the running statistics of observations and rewards."""
    state = learner.state_dict()
    statistics = state.shared.get("rewards", {}) | state.per_rank["online_buffers"]
    return {name: value.reshape(-1).tolist() for name, value in statistics.items()}


def bad_start(comm: Communicator, options: dict[str, Any]) -> dict[str, Any]:
    """Update; one batch of the last rank contains a NaN."""
    with recording_without_a_gpu():
        learner = make_learner(
            comm,
            seed=0,
            distributed={"average": options["average"]},
            optimizer={"cuda_graph": options["recorded"]},
        )
    said = ""
    digests = []
    try:
        for number, batch in enumerate(batches(10, 8)):
            if number == options["bad_at"] and comm.rank == comm.world_size - 1:
                batch.reward[0] = float("nan")
            digests.append(sha256(learner.online_parameters.values))
            learner.start(batch)
            learner.finish()
        learner.synchronize()
    except NonFiniteError as error:
        said = str(error)
    at_the_end = sha256(learner.online_parameters.values)
    return {"said": said, "updates": learner.updates, "digests": [*digests, at_the_end]}


def drift(comm: Communicator, options: dict[str, Any]) -> dict[str, Any]:
    """Update while one rank's parameters are changed by hand."""
    with recording_without_a_gpu():
        learner = make_learner(
            comm,
            seed=0,
            target_period=options["target_period"],
            optimizer={"cuda_graph": options["recorded"]},
        )
    digests = []
    for number, batch in enumerate(batches(40, 8 * comm.world_size)):
        if number == options["drift_at"] and comm.rank == comm.world_size - 1:
            learner.online_parameters.values[5] += 1e-3
        learner.start(part(batch, comm.rank, 8))
        learner.finish()
        digests.append(sha256(learner.online_parameters.values))
    return {
        "digests": digests,
        "drift": learner.statistics.drift,
        "resyncs": learner.statistics.resyncs,
    }


def gathering(comm: Communicator, options: dict[str, Any]) -> dict[str, Any]:
    """Gather, broadcast and sum values of several shapes and sizes."""
    value = {
        "rank": comm.rank,
        "text": "ü" * comm.rank * 1000,
        "none": None,
        "list": [0.1] * comm.rank,
    }
    tensor = torch.full((1_000_003,), float(comm.rank + 1))
    comm.start_sum(tensor, "large")
    comm.finish_sum()
    ours = torch.arange(5.0) + comm.rank
    comm.broadcast(ours, "ours")
    return {
        "gathered": comm.gather(value),
        "sum": [tensor.min().item(), tensor.max().item()],
        "broadcast": ours.tolist(),
        "backend": comm.backend,
        "local_rank": comm.local_rank,
    }


def whole_run(comm: Communicator, options: dict[str, Any]) -> dict[str, Any]:
    """Run `train`, and return what each rank holds at its end."""
    from hvd_dqn.run import assembly
    from hvd_dqn.run.directory import RunDirectory
    from hvd_dqn.run.observer import Observer
    from hvd_dqn.run.summary import Summary
    from hvd_dqn.training import train

    seen: dict[str, Any] = {"episodes": [], "vector_steps": 0}

    class Spy(Observer):
        def add_episodes(self, episodes):  # type: ignore[no-untyped-def]
            seen["vector_steps"] += 1
            seen["episodes"] += [[self._progress.env_steps, *episode] for episode in episodes]
            super().add_episodes(episodes)

        def conclude(self, stopped: str = "") -> Summary:
            learner = self._learner
            seen["online"] = sha256(learner.online_parameters.values)
            seen["target"] = sha256(learner.target_parameters.values)
            seen["optimizer"] = [sha256(v) for v in learner._optimizer.state.values()]
            seen["updates"] = learner.updates
            if hasattr(learner, "_buffer"):
                seen["shares"] = len(learner._buffer._shares)
            return super().conclude(stopped)

    assembly.Observer = Spy  # type: ignore[misc]
    config = small_config().changed(options.get("changes", {}))
    summary = train(config, comm, RunDirectory(Path(options["run_dir"])))
    return seen | {"score": summary.score.mean, "env_steps": summary.progress.env_steps}


def small_config(**changes: Any) -> Config:
    """Return a short CartPole run, whose episodes end at different times on every rank."""
    config = Config(
        preset="test",
        total_env_steps=2400,
        learning_starts_env_steps=200,
        vector_steps_per_iteration=2,
        updates_per_iteration=4,
        target_period_updates=25,
        env=EnvConfig(num_envs=4),
        network=NetworkConfig(hidden_sizes=(32,)),
        replay=ReplayConfig(capacity=1000, batch_size=16, n_step=2),
        exploration=ExplorationConfig(epsilon_decay_env_steps=1000),
        evaluation=EvaluationConfig(period_env_steps=1000, episodes=5, final_episodes=7),
        logging=LoggingConfig(period_env_steps=300, loggers=()),
    )
    return dataclasses.replace(config, **changes)


ROLLOUTS = {
    "rollout.steps": 6,
    "rollout.minibatches": 3,
    "vector_steps_per_iteration": 1,
    "updates_per_iteration": 1,
    "replay.n_step": 1,
    "replay.capacity": 50_000,
    "replay.batch_size": 64,
    "objective.double": False,
}
"""Changes of `small_config` for rollouts instead of a replay."""


def presets(comm: Communicator, options: dict[str, Any]) -> dict[str, Any]:
    """Every preset's own parts, in little: real environments, networks and updates."""
    from hvd_dqn.presets import PRESETS
    from hvd_dqn.run.directory import RunDirectory
    from hvd_dqn.training import train

    digests = {}
    for name in options["names"]:
        config = PRESETS[name]()
        rows = config.replay.n_step + config.env.frame_stack + 6
        pace: dict[str, Any] = {
            "updates_per_iteration": 1,
            "vector_steps_per_iteration": 2,
            "replay.capacity": 4 * rows,
            "replay.batch_size": 4,
        }
        if config.rollout.steps:
            pace = {"rollout.steps": 4, "rollout.minibatches": 2}
        config = config.changed(
            {
                "env.num_envs": 2,
                "total_env_steps": 48,
                "learning_starts_env_steps": 24,
                **pace,
                "target_period_updates": 2,
                "evaluation.episodes": 2,
                "evaluation.final_episodes": 2,
                "evaluation.max_episode_steps": 20,
                "logging.loggers": (),
                "distributed.threads_per_rank": 1,
                **options.get("changes", {}),
            }
        )
        run_dir = RunDirectory(Path(options["run_dir"]) / name)
        summary = train(config, comm, run_dir)
        records = [json.loads(line) for line in (run_dir.path / "metrics.jsonl").open()]
        drifts = [r["distributed/drift_max"] for r in records if "distributed/drift_max" in r]
        digests[name] = {
            "updates": summary.progress.updates,
            "drift": max(drifts),
            "score": summary.score.mean,
            "losses": [
                r[method_of(config.objective).loss_name]
                for r in records
                if "td/abs_error_mean" in r
            ],
        }
    return digests


def abandoned(comm: Communicator, options: dict[str, Any]) -> dict[str, Any]:
    """Start a sum without waiting for it, then another of the same name."""
    first, second = (torch.full((100_000,), 1.0 + comm.rank + 10 * n) for n in range(2))
    comm.start_sum(first, "sum")
    comm.start_sum(second, "sum")
    sums = [first[-1].item()]
    comm.finish_sum()
    return {"sums": [*sums, second[-1].item()]}


def refusing(comm: Communicator, options: dict[str, Any]) -> dict[str, Any]:
    """A sum, of a size that is new to these ranks, of which one's system does not let it share
    memory.
    """
    faults: dict[str, tuple[str, dict[str, Any]]] = {
        "create": ("memfd_create", {"side_effect": OSError("not here")}),
        "open": ("open", {"side_effect": OSError("not here")}),
        "find": ("stat", {"return_value": Path(os.devnull).stat()}),
    }
    with contextlib.ExitStack() as stack:
        if comm.rank == options["rank"] and options["what"] in faults:
            function, fault = faults[options["what"]]
            stack.enter_context(mock.patch.object(os, function, **fault))
        sums = []
        for factor in (1.0, 10.0, 100.0):
            tensor = torch.full((options["size"],), factor * (1 + comm.rank))
            comm.start_sum(tensor, "refused")
            comm.finish_sum()
            sums.append([tensor.min().item(), tensor.max().item()])
    assert isinstance(comm, MpiCommunicator)
    return {"sums": sums, "by": type(comm._node_sums[len(tensor)]).__name__}


def one_sided(comm: Communicator, options: dict[str, Any]) -> dict[str, Any]:
    """Use memory of all ranks from each of them, while its owners compute and sleep."""
    with messages_only(options["messages"]):
        memory = comm.one_sided_memory([3, 5])
    claims = [memory.add(Counter.ENV_STEPS, 2) for _ in range(options["count"])]
    for _ in range(options["count"]):
        for owner in (0, 1):
            with memory.locked(owner) as part:
                seen = part.copy()
                time.sleep(0)  # lets the other rank run
                part[:] = seen + 1
    comm.gather(None)
    for owner in (0, 1):
        memory.fetch(owner)
    parts = [part.tolist() for part in memory.parts]
    comm.gather(None)
    waited = 0.0
    if comm.rank == 0:
        time.sleep(1.0)  # not in MPI
    else:
        began = time.perf_counter()
        with memory.locked(0) as part:
            part[0] = 7
        waited = time.perf_counter() - began
    comm.gather(None)
    with memory.locked(0) as part:
        told = float(part[0])
    return {"claims": claims, "parts": parts, "waited": waited, "told": told}


@contextlib.contextmanager
def messages_only(only: bool) -> Iterator[None]:
    """Within this context, new one-sided memory is that of ranks on several hosts."""
    with contextlib.ExitStack() as stack:
        if only:
            none = mock.patch.object(mpi, "OneSidedMemory", apart)
            stack.enter_context(none)
        yield


def apart(*arguments: Any, on_one_node: bool, **named: Any) -> OneSidedMemory:
    return OneSidedMemory(*arguments, on_one_node=False, **named)


def served(comm: Communicator, options: dict[str, Any]) -> dict[str, Any]:
    """Update by a parameter server, for each rank as often as `updates` [rank] says."""
    with messages_only(options["messages"]):
        learner = make_learner(
            comm,
            seed=comm.rank,
            target_period=7,
            target_step=options.get("target_step", 1.0),
            distributed={"average": "server"},
            network=NetworkConfig(hidden_sizes=tuple(options["hidden_sizes"])),
            optimizer={"name": options.get("optimizer", "adam")},
        )
    assert isinstance(learner, ParameterServerLearner)
    for batch in batches(options["updates"][comm.rank], 16):
        learner.start(batch)
        learner.finish()
    mine = learner.updates
    learner.rest()
    state = DistributedState(*map(snapshot, learner.state_dict()))
    again: dict[str, Any] = {}
    if options.get("reload"):
        comm.gather(None)  # nobody reads the state any more
        learner.online_parameters.values.fill_(0.0)
        learner._write_own_shard()
        comm.gather(None)
        learner.load_state_dict(state)
        comm.gather(None)
        learner.rest()
        again = {"parameters": sha256(learner.online_parameters.values), "updates": learner.updates}
    return {
        "parameters": state.shared["online"].tolist(),
        "optimizer": {name: v.sum().item() for name, v in state.shared["optimizer"].items()},
        "sha": sha256(state.shared["online"]),
        "target": state.per_rank["target"].tolist(),
        "last": mine,
        "updates": learner.updates,
        "shards": len(learner._shards),
        "agreed": learner.statistics.agreed,
        "loss": learner.statistics.loss,
        "again": again,
    }


JOBS = {
    job.__name__: job
    for job in (
        *(abandoned, equivalence, bad_start, drift, gathering, one_sided, refusing, served),
        *(whole_run, presets),
    )
}


def main() -> None:
    """Run the jobs that `0.json`, `1.json` … in the directory name, until one names none."""
    directory, backend = Path(sys.argv[1]), sys.argv[2]
    comm = connect(backend)
    for number in itertools.count():
        order = directory / f"{number}.json"
        while not order.exists():
            time.sleep(0.01)
        job, options = json.loads(order.read_text())
        if job is None:
            break
        torch.set_num_threads(1)
        result = JOBS[job](comm, options)
        publish(directory / f"{number}-rank-{comm.rank}.json", json.dumps(result).encode())
    began = time.monotonic()
    comm.close()
    gc.collect()  # learners, which are in cycles of references, use the memory of the server
    maps = Path("/proc/self/maps").read_text()
    closing = json.dumps([time.monotonic() - began, maps.count("memfd:hvd_dqn")])
    publish(directory / f"closing-rank-{comm.rank}.json", closing.encode())


if __name__ == "__main__":
    main()
