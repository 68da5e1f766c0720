"""Everything a rank acquires before it trains, in steps that fail on every rank or on none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hvd_dqn.acting.evaluation import Evaluator
from hvd_dqn.checkpoint import Saver
from hvd_dqn.common import seeding
from hvd_dqn.common.errors import typed_line
from hvd_dqn.common.signals import StopRequest
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.agreement import agreement
from hvd_dqn.distributed.connect import compute_threads
from hvd_dqn.distributed.devices import describe_device, select_device
from hvd_dqn.distributed.launcher import requested_threads
from hvd_dqn.envs import VectorEnvironment, make_vector_env
from hvd_dqn.envs.make import family_of
from hvd_dqn.methods import schedules
from hvd_dqn.networks.saved import NetworkDirectory
from hvd_dqn.reporting.loggers import require_loggers
from hvd_dqn.run import requirements
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.facts import run_facts
from hvd_dqn.run.outputs import Outputs, open_outputs
from hvd_dqn.run.spaces import read_spaces, spaces_of
from hvd_dqn.run.start import Start
from hvd_dqn.run.watchdog import Watchdog
from hvd_dqn.spaces.actions import ActionCodes
from hvd_dqn.spaces.records import RecordSpace


@dataclass
class Resources:
    """Device, environments and outputs of one rank.

    `facts` and `details` describe this start in run.json and in the display. `stack` releases
    everything in reverse order, and finally `unlock` the run directory.
    """

    run_dir: RunDirectory
    device: torch.device
    envs: VectorEnvironment
    evaluator: Evaluator
    networks: NetworkDirectory
    saver: Saver
    stop: StopRequest
    outputs: Outputs = field(default_factory=Outputs)
    facts: dict[str, Any] = field(default_factory=dict)
    details: str = ""
    stack: ExitStack = field(default_factory=ExitStack)
    unlock: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Release everything."""
        _close(self.stack)


class _Local(NamedTuple):
    """What a rank acquires for itself, before anything is written."""

    device: torch.device
    envs: VectorEnvironment
    evaluator: Evaluator
    threads: int
    hosts: list[str]


def acquire(
    config: Config,
    comm: Communicator,
    run_dir: RunDirectory,
    start: Start,
    stop: StopRequest,
    watchdog: Watchdog,
) -> Resources:
    """Acquire device and environments, and lock the directory of a run that resumes. Collective.
    Writes nothing: `open_directory` does, once nothing else can fail.

    Raises `UserError` on all ranks or on none.
    """
    stack = ExitStack()
    unlock = stack.enter_context(ExitStack())  # closed last
    stack.callback(watchdog.stop)  # closed after everything that may hang while it is closed
    try:
        with agreement(comm):
            if comm.is_root and start.continues:
                unlock.callback(run_dir.lock().close)
        local = _acquire_local(config, comm, stop, watchdog.touch, stack)
        stop.reclaim()
        torch.set_num_threads(local.threads)
        saver = Saver(
            start.store,
            comm,
            config.flat(),
            keep=config.checkpoint.keep,
            on_progress=watchdog.touch,
        )
        stack.callback(saver.close)
        devices = comm.gather(describe_device(local.device))
        with agreement(comm):
            if comm.is_root and start.continues and run_dir.facts_file.exists():
                read_spaces(run_dir).require(local.envs)
        facts = _facts(config, comm.backend, local, devices)
        watchdog.start()
    except BaseException:
        _close(stack)
        raise
    return Resources(
        run_dir,
        local.device,
        local.envs,
        local.evaluator,
        NetworkDirectory(run_dir.networks, keep=config.evaluation.keep_networks),
        saver,
        stop,
        facts=facts,
        details=_details(config, comm, local),
        stack=stack,
        unlock=unlock,
    )


def _close(stack: ExitStack) -> None:
    """Close `stack`. An error is printed: the run has its result, or an earlier error, by now."""
    try:
        stack.close()
    except Exception as error:
        text = f"hvd-dqn: closing the run's environments and files: {typed_line(error)}"
        print(text, file=sys.stderr, flush=True)


def open_directory(
    config: Config, comm: Communicator, resources: Resources, start: Start, watchdog: Watchdog
) -> None:
    """Create or reopen the run directory, and open everything that the root writes to. Collective.

    Raises `UserError` on all ranks or on none. Nothing has been written before, and a run that
    resumes can no longer be refused afterwards.
    """
    requirements.require_shared(start.store, comm)
    with watchdog.patience(), agreement(comm):  # loggers may take long
        if comm.is_root:
            resources.outputs = open_outputs(
                config,
                resources.facts,
                resources.run_dir,
                start,
                watchdog,
                resources.stop,
                on_close=resources.stack,
                unlock=resources.unlock,
            )
            resources.outputs.display.start(
                f"{config.preset}: {config.env.id}",
                resources.details,
                Path(str(resources.run_dir)),
                start.env_steps,
            )
            if resources.evaluator.note:
                resources.outputs.display.say(resources.evaluator.note)
            resources.evaluator.say = resources.outputs.display.say
            if resources.evaluator.envs.max_episode_steps and not config.env.is_atari:
                resources.outputs.display.say(
                    "the environment declares no time limit: episodes of evaluations are cut after "
                    f"{config.evaluation.max_episode_steps:,} steps (evaluation.max-episode-steps)"
                )
            if not resources.envs.seeds_episodes:
                resources.outputs.display.say(
                    "these environments take seeds only when all are reset: a resumed run starts "
                    "new episodes, and episodes of evaluations depend on those before"
                )
    watchdog.enter_directory()


def _acquire_local(
    config: Config,
    comm: Communicator,
    stop: StopRequest,
    on_step: Callable[[], None],
    on_close: ExitStack,
) -> _Local:
    """Check the requirements, select the device, make the environments and reset those that train.
    Collective.
    """
    neighbours = requirements.find_neighbours(config, comm)
    env_threads = _threads(config, comm, config.env.num_envs)
    with agreement(comm):
        if comm.is_root:
            require_loggers(config.logging.loggers)
        device = select_device(config.device, comm.local_rank)
        requirements.require_updates(config, comm.world_size)
        requirements.require_one_sided_memory(config, comm)
        requirements.require_extensions(config)
        requirements.require_accelerators(config.optimizer, device, comm.rank)
        envs, evaluator = _make_envs(config, comm, env_threads, stop, on_step, on_close=on_close)
        requirements.require_channels(config, envs)
    requirements.require_same_spaces(comm, envs, evaluator.envs)
    with agreement(comm):
        useful = requirements.useful_threads(config, envs)
        requirements.require_memory(
            config,
            envs,
            device,
            ranks_on_host=neighbours.ranks_on_host,
            ranks_on_gpu=neighbours.ranks_on_gpu,
        )
        envs.reset()
    return _Local(device, envs, evaluator, _threads(config, comm, useful), neighbours.hosts)


def _facts(config: Config, backend: str, local: _Local, devices: list[str]) -> dict[str, Any]:
    """Return the facts of this start; `devices` are those of all ranks."""
    spaces = spaces_of(local.envs).to_json()
    return run_facts(config, local.hosts, backend, local.threads, devices, spaces)


def _threads(config: Config, comm: Communicator, useful: int) -> int:
    """Return the threads of this rank if at most `useful` are of use. Collective."""
    return config.distributed.threads_per_rank or compute_threads(comm, useful)


def _make_envs(
    config: Config,
    comm: Communicator,
    threads: int,
    stop: StopRequest,
    on_step: Callable[[], None],
    *,
    on_close: ExitStack,
) -> tuple[VectorEnvironment, Evaluator]:
    """Make this rank's training environments, and the evaluator.

    Both call `on_step`, also from the thread that steps them while this rank waits for others.
    """
    rank = comm.rank

    def episode_seed(copy: int, number: int) -> int:
        return seeding.derived_seed(config.seed, rank, seeding.Stream.ENV, copy, number)

    envs = make_vector_env(
        config.env,
        num_envs=config.env.num_envs,
        episode_seed=episode_seed,
        rank=rank,
        threads=threads,
        info_keys=config.logging.info_keys,
        on_step=on_step,
        ready=config.env.ready_envs if config.env.ready_fraction < 1 else None,
    )
    on_close.callback(envs.close)
    evaluator = Evaluator(
        config.evaluation_env,
        config.evaluation,
        seed=config.seed,
        communicator=comm,
        training=envs,
        threads=threads,
        wants_stop=stop,
        info_keys=config.logging.info_keys,
        on_step=on_step,
    )
    on_close.callback(evaluator.close)
    return envs, evaluator


def _details(config: Config, comm: Communicator, local: _Local) -> str:
    rate = config.optimizer.learning_rate * schedules.world_size_factor(
        config.optimizer, comm.world_size
    )
    on_gpu = local.device.type == "cuda"
    route = f" through {comm.route}" if on_gpu and comm.world_size > 1 else ""
    threads = requirements.counted(local.threads, "thread")
    return " · ".join(
        (
            f"{requirements.counted(comm.world_size, 'rank')} ({comm.backend}{route})"
            f"{_solvers(config, comm)}",
            f"{local.device}, {threads} each{_why_not_more(config, local.threads)}",
            f"global batch {config.global_batch_size(comm.world_size)}",
            f"learning rate {rate:.3g}",
            *_layout(config, local.envs),
        )
    )


def _solvers(config: Config, comm: Communicator) -> str:
    """Return how many solver ranks there are, if there are any."""
    ranks = comm.world_size * config.env.num_envs * config.env.ranks_per_env
    return f", {requirements.counted(ranks, 'solver rank')}" if ranks else ""


def _why_not_more(config: Config, threads: int) -> str:
    """Return a note if a rank uses fewer threads than the environment asks for."""
    asked = requested_threads()
    if config.distributed.threads_per_rank is not None or asked is None or asked <= threads:
        return ""
    return f" (OMP_NUM_THREADS = {asked}: more are of no use)"


def _layout(config: Config, envs: VectorEnvironment) -> list[str]:
    """Return the parts of observations that are not one array, and what is taken for the channels
    of those with three axes.
    """
    told = []
    if isinstance(envs.action_space, ActionCodes):
        told.append(f"actions: {envs.action_space.summary()}")
    if isinstance(envs.raw_space, RecordSpace):
        return [f"observations: {envs.raw_space.summary()}", *told]
    return [*_images(config, envs), *told]


def _images(config: Config, envs: VectorEnvironment) -> list[str]:
    shape = envs.raw_space.shape
    if len(shape) != 3:
        return []
    if envs.channels is None:
        return [f"observations of shape {shape}, not images"]
    channels, rows, columns = envs.frame_shape
    is_guess = config.env.channels == "auto" and family_of(config.env).channels == "auto"
    guess = ", a guess: see --env.channels" if is_guess else ""
    return [
        f"images of {rows} × {columns} with {requirements.counted(channels, 'channel')} (the "
        f"{envs.channels} axis{guess})"
    ]
