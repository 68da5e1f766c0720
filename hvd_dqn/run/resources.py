"""What a rank takes from outside, in one step that can fail and that fails on every rank alike."""

from __future__ import annotations

import math
import os
import secrets
import shutil
import sysconfig
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from hvd_dqn.acting.evaluation import Evaluator
from hvd_dqn.acting.exploration import EXPLORATIONS
from hvd_dqn.checkpoint import DamageError, Saver, Store
from hvd_dqn.common import seeding
from hvd_dqn.common.errors import UserError
from hvd_dqn.common.extensions import lookup
from hvd_dqn.common.memory import available_bytes
from hvd_dqn.common.signals import StopRequest
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.agreement import agreement
from hvd_dqn.distributed.communicator import hostname
from hvd_dqn.distributed.connect import compute_threads
from hvd_dqn.distributed.devices import describe_device, gpu_name, select_device
from hvd_dqn.envs import VectorEnvironment, make_vector_env
from hvd_dqn.envs.spaces import describe
from hvd_dqn.methods import schedules
from hvd_dqn.methods.registry import make_network, require_method
from hvd_dqn.networks import multiply_adds
from hvd_dqn.networks.saved import NetworkDirectory
from hvd_dqn.replay import Ring, SumTree
from hvd_dqn.reporting.display import Display, NullDisplay, make_display
from hvd_dqn.reporting.loggers import LoggedRun, open_loggers, require_loggers
from hvd_dqn.reporting.metrics import Callback
from hvd_dqn.reporting.sinks import FileSink, NullSink, Sink
from hvd_dqn.reporting.videos import EpisodeRecorder
from hvd_dqn.run.directory import RunDirectory, run_facts
from hvd_dqn.run.start import Start
from hvd_dqn.run.watchdog import Watchdog

_SIGN = "sign.txt"
_SECONDS_TO_APPEAR = 5.0
_WORK_A_THREAD = 8_000_000
"""Multiply-adds of a forward pass from which a second thread pays: measured on two cores, 1.0 times
as fast at 4 million, 1.3 at 8, 1.6 at 34, 1.8 at 134. Below it, a thread that shares its core with
another job makes an update hundreds of times slower (the threads spin while they wait)."""


@dataclass
class Resources:
    """Device, environments and outputs of one rank. Ranks that do not write hold sinks that keep
    nothing.
    """

    run_dir: RunDirectory
    device: torch.device
    envs: VectorEnvironment
    evaluator: Evaluator
    networks: NetworkDirectory
    saver: Saver
    stop: StopRequest
    sink: Sink = field(default_factory=NullSink)
    display: Display = field(default_factory=NullDisplay)
    recorder: EpisodeRecorder | None = None
    callbacks: Sequence[Callback] = ()
    on_close: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Give everything back, in the reverse order of taking it."""
        self.on_close.close()


def acquire(
    config: Config,
    comm: Communicator,
    run_dir: RunDirectory,
    start: Start,
    stop: StopRequest,
    watchdog: Watchdog,
) -> Resources:
    """Take device, environments and, on the root, the run directory. `UserError` on all ranks, or
    on none. Collective.

    The directory comes last: where something else is wrong, but for a place for checkpoints that
    ranks do not share, nothing has been written.
    """
    env_threads = config.distributed.threads_per_rank or compute_threads(comm, config.env.num_envs)
    on_gpu = config.replay.storage == "device" and config.device != "cpu"
    mine = [hostname(), gpu_name(comm.local_rank) if on_gpu else None]
    places = comm.gather(mine)
    hosts = [host for host, _ in places]
    stack = ExitStack()
    lock = stack.enter_context(ExitStack())  # the last to be closed
    stack.callback(watchdog.stop)  # after all that may hang when it is closed
    try:
        with agreement(comm):
            if comm.is_root:
                require_loggers(config.logging.loggers)
            device = select_device(config.device, comm.local_rank)
            _require_what_updates_need(config, comm, device)
            envs = make_vector_env(
                config.env,
                num_envs=config.env.num_envs,
                episode_seed=_training_seed(config.seed, comm.rank),
                threads=env_threads,
            )
            stack.callback(envs.close)
            evaluator = Evaluator(
                config.env,
                config.evaluation,
                seed=config.seed,
                communicator=comm,
                threads=env_threads,
                wants_stop=stop,
            )
            stack.callback(evaluator.close)
            useful = useful_threads(config, envs)
            here, there = hosts.count(hostname()), places.count(mine)
            require_memory(config, envs, device, ranks_here=here, ranks_of_gpu=there)
        devices = comm.gather(describe_device(device))
        threads = config.distributed.threads_per_rank or compute_threads(comm, useful)
        torch.set_num_threads(threads)
        networks = NetworkDirectory(run_dir.networks, keep=config.evaluation.keep_networks)
        saver = Saver(
            start.store, comm, config.flat(), keep=config.checkpoint.keep, touch=watchdog.touch
        )
        stack.callback(saver.close)
        resources = Resources(
            run_dir, device, envs, evaluator, networks, saver, stop, on_close=stack
        )
        with agreement(comm):
            if comm.is_root:
                spaces = {
                    "observation": describe(envs.raw_space),
                    "num_actions": envs.num_actions,
                }
                facts = run_facts(config, hosts, comm.backend, threads, devices, spaces)
                if config.logging.video:
                    resources.recorder = EpisodeRecorder(
                        config, seed=config.seed, beat=watchdog.touch, wants_stop=stop
                    )
                    stack.callback(resources.recorder.close)
                run_id = _open_run_directory(config, facts, run_dir, start, lock)
                _open_outputs(config, run_dir, start, resources, watchdog, run_id)
                resources.display.start(_title(config, comm, threads, device), start.env_steps)
        _require_shared(start.store, comm)
        watchdog.start()
        # They may step in a thread while this rank waits for others, which it goes on doing.
        envs.beat = evaluator.envs.beat = watchdog.touch
    except BaseException:
        stack.close()
        raise
    return resources


def _require_what_updates_need(config: Config, comm: Communicator, device: torch.device) -> None:
    """`UserError` where none would be made, or not in the way that is asked for."""
    if config.planned_updates(comm.world_size) == 0:
        raise UserError(
            f"total_env_steps = {config.total_env_steps} ends before the first update at "
            f"{config.updates_start_env_steps(comm.world_size)} env steps",
            "raise the total, or lower learning_starts_env_steps, n_step or the ranks",
        )
    require_method(config)
    lookup("exploration.kind", config.exploration.kind, EXPLORATIONS)
    if config.optimizer.compile:
        require_compiler(device)
    if config.optimizer.cuda_graph and device.type != "cuda":
        raise UserError(
            f"optimizer.cuda_graph = True needs a GPU, and rank {comm.rank} has none",
            "leave it out",
        )


def require_compiler(device: torch.device) -> None:
    """`UserError` without what torch compiles with; for a GPU, Triton, which calls a C compiler."""
    named = os.environ.get("CXX", "g++")
    header = Path(sysconfig.get_path("include"), "Python.h")
    needed: list[tuple[str, object, str]] = [
        (f"a C++ compiler, and there is no {named!r}", shutil.which(named), "install g++, set CXX")
    ]
    if device.type == "cuda":
        compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
        names = " or ".join(map(repr, compilers))
        found = any(map(shutil.which, compilers))
        needed += [
            (f"a C compiler, and there is no {names}", found, "install gcc, set CC"),
            (f"Python's headers, and there is no {header}", header.exists(), "install python3-dev"),
            ("Triton, and there is no module of that name", find_spec("triton"), "pip install it"),
        ]
    for what, there, remedy in needed:
        if not there:
            raise UserError(
                f"optimizer.compile = True needs {what} on {hostname()}",
                f"{remedy}, or leave the option out",
            )


def _require_shared(store: Store, comm: Communicator) -> None:
    """Collective; `UserError` on all ranks unless all see what the root writes there."""
    sign = comm.gather(secrets.token_hex(8))[0].encode()
    with agreement(comm):
        if comm.is_root:
            try:
                store.publish(_SIGN, sign)
            except (OSError, DamageError) as error:
                raise UserError(
                    f"checkpoints cannot be written to {store}: {error}",
                    "choose another place with --checkpoint.directory",
                ) from error
    with agreement(comm):
        deadline = time.monotonic() + _SECONDS_TO_APPEAR
        while not (seen := _reads(store, sign)) and time.monotonic() < deadline:
            store.look_anew()
            time.sleep(0.2)
        if not seen:
            raise UserError(
                f"{store} on {hostname()} is not the root's: checkpoints need a place that all "
                "ranks share",
                "choose one with --checkpoint.directory (a path that all hosts mount, or s3://…)",
            )


def _reads(store: Store, sign: bytes) -> bool:
    try:
        with store.open(_SIGN) as file:
            return file.read(len(sign)) == sign
    except (OSError, DamageError, UserError):
        return False


def _open_run_directory(
    config: Config, facts: dict[str, Any], run_dir: RunDirectory, start: Start, lock: ExitStack
) -> str:
    """Make the run directory, or go on in it; its `run.json` says which. `lock` gives it back. The
    run's id.
    """
    if start.manifest is not None:
        facts["from"] = {
            "checkpoint": f"{start.source}/{start.manifest.directory}",
            "world_size": len(start.manifest.ranks),
            "changed": dict(start.changed),
            "passed_over": list(start.passed_over),
        }
    if start.continues:
        lock.callback(run_dir.lock().close)
        facts = run_dir.reopen(config, facts)
    else:
        run_dir.create(config, facts)
        lock.callback(run_dir.lock().close)
    run_dir.clear_signs()
    return str(facts["id"])


def _open_outputs(
    config: Config,
    run_dir: RunDirectory,
    start: Start,
    resources: Resources,
    watchdog: Watchdog,
    run_id: str,
) -> None:
    """What the root writes and shows."""
    name = run_dir.path.resolve().name
    followed = LoggedRun(run_id, name, run_dir.path, config.flat(), start.env_steps)
    loggers = open_loggers(config.logging.loggers, followed)
    resources.sink = FileSink(run_dir.path, loggers, position=start.metrics_bytes)
    resources.on_close.callback(_close, resources.sink, watchdog)
    resources.display = make_display(config.total_env_steps)
    resources.on_close.callback(resources.display.stop)


def _close(sink: Sink, watchdog: Watchdog) -> None:
    """What loggers hold back may have a long way."""
    with watchdog.patience():
        sink.close()


def useful_threads(config: Config, envs: VectorEnvironment) -> int:
    """How many threads the network's work is enough for."""
    with torch.random.fork_rng(devices=[]):
        network = make_network(
            config.network,
            config.objective,
            obs_space=envs.obs_space,
            num_actions=envs.num_actions,
            device=torch.device("cpu"),
        )
    work = multiply_adds(network, envs.obs_space.shape, config.replay.batch_size)
    return math.ceil(work / _WORK_A_THREAD)


def require_memory(
    config: Config,
    envs: VectorEnvironment,
    device: torch.device,
    *,
    ranks_here: int,
    ranks_of_gpu: int,
) -> None:
    """`UserError` where the replays of the `ranks_here` ranks of this host do not fit in its
    memory, or those of the `ranks_of_gpu` in this rank's GPU's.
    """
    frames, tree = replay_bytes(config, envs)
    on_gpu = config.replay.storage == "device" and device.type == "cuda"
    here = (tree if on_gpu else frames + tree) * ranks_here
    free = available_bytes()
    if free is not None and here > free:
        raise UserError(
            f"replay.capacity = {config.replay.capacity} takes {here / 1e9:.1f} GB of "
            f"{hostname()}'s memory on {_count(ranks_here, 'rank')}, and {free / 1e9:.1f} GB are "
            "free",
            "lower replay.capacity, or put fewer ranks on a host",
        )
    if not on_gpu:
        return
    there = frames * ranks_of_gpu
    left = torch.cuda.mem_get_info(device)[0]
    if there > left:
        raise UserError(
            f"replay.capacity = {config.replay.capacity} takes {there / 1e9:.1f} GB of "
            f"{device} for {_count(ranks_of_gpu, 'rank')}, and {left / 1e9:.1f} GB are free",
            "lower replay.capacity, or set replay.storage to host",
        )


def replay_bytes(config: Config, envs: VectorEnvironment) -> tuple[int, int]:
    """Bytes that this rank's full replay takes: of its ring, and of its priorities."""
    shape = {"capacity": config.replay.capacity, "num_envs": config.env.num_envs}
    frames = Ring.bytes_needed(
        **shape,
        frame_shape=envs.frame_shape,
        obs_dtype=envs.obs_dtype,
        frame_stack=envs.frame_stack,
        n_step=config.replay.n_step,
    )
    if config.replay.sampling == "uniform":
        return frames, 0
    return frames, SumTree.bytes_needed(Ring.slots_needed(**shape))


def _training_seed(seed: int, rank: int) -> Callable[[int, int], int]:
    return lambda copy, number: seeding.derived_seed(seed, rank, seeding.Stream.ENV, copy, number)


def _title(config: Config, comm: Communicator, threads: int, device: torch.device) -> str:
    rate = config.optimizer.learning_rate * schedules.world_size_factor(
        config.optimizer, comm.world_size
    )
    matters = device.type == "cuda" and comm.world_size > 1
    way = f"{comm.backend} through {comm.route}" if matters else comm.backend
    return " · ".join(
        (
            f"{config.preset}: {config.env.id}",
            f"{_count(comm.world_size, 'rank')} ({way})",
            f"{_count(threads, 'thread')} a rank on {device}",
            f"global batch {config.replay.batch_size * comm.world_size}",
            f"learning rate {rate:.3g}",
        )
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
