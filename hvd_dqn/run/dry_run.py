"""A dry run: everything that a run does before its first update, without writing anything."""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.memory import available_bytes
from hvd_dqn.common.signals import StopRequest
from hvd_dqn.common.structs import Progress
from hvd_dqn.config import Config, EnvConfig
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.agreement import agreement
from hvd_dqn.distributed.solvers import solver_link
from hvd_dqn.distributed.watched import WatchedCommunicator
from hvd_dqn.envs import VectorEnvironment
from hvd_dqn.methods import schedules
from hvd_dqn.run.assembly import Components, assemble, blank_batch
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.requirements import counted, replay_bytes
from hvd_dqn.run.resources import Resources, acquire
from hvd_dqn.run.start import Start, plan
from hvd_dqn.run.watchdog import Watchdog
from hvd_dqn.spaces.records import RecordSpace

Facts = list[tuple[str, str]]


def examine(
    config: Config, comm: Communicator, run_dir: RunDirectory, *, resume: str, changes: Set[str]
) -> Facts:
    """Plan the start, acquire all resources, build all components and step the environments once.
    Return what a person wants to know of it, by name. Collective; writes nothing.

    Raises `UserError` on all ranks if a requirement of the run is not met.
    """
    start = plan(config, comm, run_dir, resume=resume, changes=changes)
    progress = Progress()
    watchdog = Watchdog(comm, progress, run_dir, limit=config.distributed.hang_seconds)
    comm = WatchedCommunicator(comm, watchdog)
    resources = acquire(config, comm, run_dir, start, StopRequest(), watchdog)
    try:
        with agreement(comm):
            if comm.is_root:
                for place in (str(run_dir.path), str(start.store)):
                    _require_writable(place)
        with watchdog.patience():
            components = assemble(config, comm, resources, progress)
            components.learner.warm_up(blank_batch(config, resources))
        components.actor.step(0)
        return [
            ("ranks", _ranks(comm, resources.facts)),
            *_sizes(config, comm, resources, components),
            *_plans(config, comm, run_dir, start),
        ]
    finally:
        resources.close()


def _ranks(comm: Communicator, facts: Mapping[str, Any]) -> str:
    hosts, devices, threads = facts["hosts"], facts["devices"], facts["threads_per_rank"]
    places = [f"{host} ({counted(hosts.count(host), 'rank')})" for host in dict.fromkeys(hosts)]
    where = ", ".join(places) if len(hosts) > 1 else hosts[0]
    return (
        f"{counted(comm.world_size, 'rank')} ({comm.backend}) on {where}; "
        f"{', '.join(dict.fromkeys(devices))}; {counted(threads, 'thread')} each"
    )


def _sizes(
    config: Config,
    comm: Communicator,
    resources: Resources,
    components: Components,
) -> Facts:
    envs, hosts = resources.envs, resources.facts["hosts"]
    parameters = sum(p.numel() for p in components.learner.online.parameters())
    replay = sum(replay_bytes(config, envs))
    free = available_bytes()
    on_host = f"{_bytes(replay * hosts.count(hosts[0]))} on {hosts[0]}"
    left = "" if free is None else f", where {_bytes(free)} are free"
    rate = config.optimizer.learning_rate * schedules.world_size_factor(
        config.optimizer, comm.world_size
    )
    size, in_all = config.batch_size, config.global_batch_size(comm.world_size)
    return [
        ("environments", f"{config.env.num_envs} of {config.env.id} per rank"),
        *_solvers(config.env, comm),
        ("observation", _observation(envs)),
        ("actions", str(envs.num_actions)),
        ("parameters", f"{parameters:,} ({_bytes(4 * parameters)})"),
        (
            "rollout" if config.rollout.steps else "replay",
            f"{_transitions(config):,} transitions per rank: {_bytes(replay)}; {on_host}{left}",
        ),
        (
            "batch",
            f"{size} per rank, {in_all} in all; learning rate {rate:.3g}",
        ),
    ]


def _transitions(config: Config) -> int:
    if config.rollout.steps:
        return config.rollout.steps * config.env.num_envs
    return config.replay.capacity


def _observation(envs: VectorEnvironment) -> str:
    stored = f"{envs.obs_dtype} {list(envs.obs_space.shape)}"
    space = envs.raw_space
    return f"{space.summary()}: {stored}" if isinstance(space, RecordSpace) else stored


def _solvers(config: EnvConfig, comm: Communicator) -> Facts:
    """Return the solver ranks of the job, if it has some, and the hosts of the root's."""
    link = solver_link()
    if link is None:
        return []
    hosts = dict.fromkeys(place.host for group in link.groups for place in group)
    total = comm.world_size * config.num_envs * config.ranks_per_env
    text = f"{config.ranks_per_env} for each of {config.num_envs} environments per rank, {total} "
    return [("solver ranks", f"{text}in all; those of rank 0 on {', '.join(hosts)}")]


def _plans(config: Config, comm: Communicator, run_dir: RunDirectory, start: Start) -> Facts:
    begins = f"new, in {run_dir.path}"
    if start.manifest is not None:
        begins = f"resumes at {start.env_steps:,} env steps, in {run_dir.path}"
    return [
        (
            "budget",
            f"{config.total_env_steps:,} env steps, {config.planned_updates(comm.world_size):,} "
            f"updates from {config.updates_start_env_steps(comm.world_size):,} env steps on",
        ),
        ("checkpoints", f"every {config.checkpoint_period_env_steps:,} env steps, {start.store}"),
        ("loggers", " ".join(config.logging.loggers) or "none besides metrics.jsonl"),
        ("run", begins),
    ]


def _require_writable(place: str) -> None:
    """Raise `UserError` if a directory on this machine could not be written or created."""
    if "://" in place:
        return
    path = Path(place).absolute()
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: {nearest} is not a writable directory")


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
