"""What a run needs of its hosts. Every check raises `UserError` before anything is written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import shutil
import sysconfig
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import torch

from hvd_dqn.acting.exploration import EXPLORATIONS
from hvd_dqn.checkpoint import DamageError, Store
from hvd_dqn.common.errors import AgreedError, UserError, one_line
from hvd_dqn.common.extensions import lookup
from hvd_dqn.common.memory import available_bytes
from hvd_dqn.config import Config, OptimizerConfig
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.agreement import agreement
from hvd_dqn.distributed.communicator import hostname
from hvd_dqn.distributed.devices import gpu_name
from hvd_dqn.envs import VectorEnvironment
from hvd_dqn.methods.registry import make_network, require_method
from hvd_dqn.networks import multiply_adds
from hvd_dqn.replay import Ring, SumTree
from hvd_dqn.spaces.channels import is_image
from hvd_dqn.spaces.description import describe
from hvd_dqn.spaces.records import RecordSpace

_SECONDS_TO_APPEAR = 5.0
_WORK_PER_THREAD = 8_000_000
"""Multiply-adds of a forward pass above which a second thread pays: measured on two cores, 1.0
times as fast at 4 million, 1.3 at 8, 1.6 at 34, 1.8 at 134. Below it, a thread that shares its core
with another job makes an update hundreds of times slower, because threads spin while they wait."""


class Neighbours(NamedTuple):
    """The hosts of all ranks, and how many ranks share this rank's host and this rank's GPU."""

    hosts: list[str]
    ranks_on_host: int
    ranks_on_gpu: int


def find_neighbours(config: Config, comm: Communicator) -> Neighbours:
    """Return which ranks share this rank's host and GPU. Collective."""
    on_gpu = config.replay.storage == "device" and config.device != "cpu"
    own = [hostname(), gpu_name(comm.local_rank) if on_gpu else None]
    places = comm.gather(own)
    hosts = [host for host, _ in places]
    return Neighbours(hosts, hosts.count(hostname()), places.count(own))


def require_updates(config: Config, world_size: int) -> None:
    """Raise `UserError` if the run would end before its first update."""
    if config.planned_updates(world_size) == 0:
        raise UserError(
            f"total-env-steps = {config.total_env_steps} ends before the first update at "
            f"{config.updates_start_env_steps(world_size)} env steps",
            "raise the total, or lower learning-starts-env-steps, replay.n-step or the ranks",
        )


def require_one_sided_memory(config: Config, comm: Communicator) -> None:
    """Raise `UserError` if a parameter server is asked for and the backend has no memory for it."""
    if config.distributed.average == "server" and not comm.has_one_sided_memory:
        raise UserError(
            "distributed.average = 'server' needs MPI's one-sided operations, which the backend "
            f"{comm.backend!r} does not have",
            "start the ranks with horovodrun, mpirun or srun, or choose --distributed.backend mpi",
        )


def require_extensions(config: Config) -> None:
    """Raise `ConfigError` if the method or the exploration that `config` names does not exist."""
    require_method(config)
    lookup("exploration.kind", config.exploration.kind, EXPLORATIONS)


def require_channels(config: Config, envs: VectorEnvironment) -> None:
    """Raise `UserError` if observations can be images and the axis of their channels is unknown."""
    space = envs.raw_space
    if isinstance(space, RecordSpace):
        parts = [
            (field.shape, space.channels_of(field))
            for field in space.fields
            if isinstance(field.space, gym.spaces.Box)
        ]
    else:
        parts = [(space.shape, envs.channels)]
    unclear = [shape for shape, channels in parts if channels is None and is_image(shape)]
    if unclear and config.network.torso != "mlp":
        raise UserError(
            f"env.id {config.env.id!r} observes arrays of shape {unclear[0]}, which does not tell "
            "whether the first or the last axis holds the channels of an image",
            "set --env.channels first or last, or --network.torso mlp if it is not an image",
        )


def require_same_spaces(comm: Communicator, *envs: VectorEnvironment) -> None:
    """Raise `AgreedError` on all ranks if the spaces of any `envs` of any rank differ from those of
    the root's first. Collective.
    """
    spaces = [[_space_facts(space) for space in (e.raw_space, e.action_space)] for e in envs]
    ranks = comm.gather([hostname(), spaces])
    root, (reference, *_) = ranks[0]
    for rank, (host, others) in enumerate(ranks):
        for other in others:
            for kind, (text, digest), (first_text, first_digest) in zip(
                ("observation", "action"), other, reference, strict=True
            ):
                if digest == first_digest:
                    continue
                bounds = " with other bounds" if text == first_text else ""
                raise AgreedError(
                    f"the environments differ: the {kind} space is {first_text} on "
                    f"rank 0 ({root}) and {text}{bounds} on rank {rank} ({host}); every rank needs "
                    "the same version of the environment and the same files"
                )


def _space_facts(space: gym.spaces.Box | gym.spaces.Discrete) -> list[str]:
    """Return the space as text, which may leave out bounds, and a digest of all of it."""
    described = json.dumps(describe(space), sort_keys=True)
    return [one_line(str(space)), hashlib.sha256(described.encode()).hexdigest()]


def require_accelerators(config: OptimizerConfig, device: torch.device, rank: int) -> None:
    """Raise `UserError` if `device` cannot run the compiled or recorded updates of `config`."""
    if config.compile:
        require_compiler(device)
    if config.cuda_graph and device.type != "cuda":
        raise UserError(
            f"optimizer.cuda-graph = True needs a GPU, and rank {rank} has none",
            "leave the option out",
        )


def require_compiler(device: torch.device) -> None:
    """Raise `UserError` if a program is missing that torch's compiler calls: a C++ compiler, and
    for a GPU Triton, which calls a C compiler.
    """
    cxx = os.environ.get("CXX", "g++")
    header = Path(sysconfig.get_path("include"), "Python.h")
    needed: list[tuple[str, object, str]] = [
        (f"a C++ compiler, and there is no {cxx!r}", shutil.which(cxx), "install g++, set CXX")
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
    for what, is_there, remedy in needed:
        if not is_there:
            raise UserError(
                f"optimizer.compile = True needs {what} on {hostname()}",
                f"{remedy}, or leave the option out",
            )


def require_memory(
    config: Config,
    envs: VectorEnvironment,
    device: torch.device,
    *,
    ranks_on_host: int,
    ranks_on_gpu: int,
) -> None:
    """Raise `UserError` if the replays of the `ranks_on_host` ranks do not fit in this host's free
    memory, or those of the `ranks_on_gpu` ranks in their GPU's. Rollouts are on both.
    """
    frames, priorities = replay_bytes(config, envs)
    stored_on_gpu = config.replay.storage == "device" and device.type == "cuda"
    needed = (priorities if stored_on_gpu else frames + priorities) * ranks_on_host
    free = available_bytes()
    setting = "rollout.steps" if config.rollout.steps else "replay.capacity"
    size = config.rollout.steps or config.replay.capacity
    if free is not None and needed > free:
        raise UserError(
            f"{setting} = {size} takes {needed / 1e9:.1f} GB of {hostname()}'s memory on "
            f"{counted(ranks_on_host, 'rank')}, and {free / 1e9:.1f} GB are free",
            f"lower {setting}, or start fewer ranks on a host",
        )
    if device.type != "cuda" or not (stored_on_gpu or config.rollout.steps):
        return
    needed_on_gpu = frames * ranks_on_gpu
    free_on_gpu = torch.cuda.mem_get_info(device)[0]
    if needed_on_gpu > free_on_gpu:
        raise UserError(
            f"{setting} = {size} takes {needed_on_gpu / 1e9:.1f} GB of {device} for "
            f"{counted(ranks_on_gpu, 'rank')}, and {free_on_gpu / 1e9:.1f} GB are free",
            f"lower {setting}" + (", or set replay.storage to host" if stored_on_gpu else ""),
        )


def replay_bytes(config: Config, envs: VectorEnvironment) -> tuple[int, int]:
    """Return the bytes that this rank's full replay takes: its ring, and its priorities; or those
    of a rollout.
    """
    if config.rollout.steps:
        frame = math.prod(envs.obs_space.shape) * envs.obs_dtype.itemsize
        return (config.rollout.steps + 1) * config.env.num_envs * frame, 0
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


def useful_threads(config: Config, envs: VectorEnvironment) -> int:
    """Return the number of threads that the network's forward pass can keep busy."""
    with torch.random.fork_rng(devices=[]):
        network = make_network(
            config.network,
            config.objective,
            obs_space=envs.obs_space,
            num_actions=envs.num_actions,
            branches=envs.branches,
            device=torch.device("cpu"),
        )
    work = multiply_adds(network, envs.obs_space.shape, config.batch_size)
    return math.ceil(work / _WORK_PER_THREAD)


def require_shared(store: Store, comm: Communicator) -> None:
    """Raise `UserError` on all ranks unless every rank finds in `store` what the root writes there.
    Nothing of it stays, nor, if it fails, the directories created for it. Collective.
    """
    name = f"sign-{comm.gather(secrets.token_hex(8))[0]}.txt"
    try:
        with agreement(comm):
            if comm.is_root:
                try:
                    store.publish(name, name.encode())
                except (OSError, DamageError) as error:
                    raise UserError(
                        f"checkpoints cannot be written to {store}: {error}",
                        "choose another place with --checkpoint.directory",
                    ) from error
        with agreement(comm):
            _require_file(store, name)
    except UserError:
        _remove_quietly(store, name)
        store.remove_empty()
        raise
    if comm.is_root:
        _remove_quietly(store, name)


def _require_file(store: Store, name: str) -> None:
    deadline = time.monotonic() + _SECONDS_TO_APPEAR
    while not (found := _contains(store, name)) and time.monotonic() < deadline:
        store.refresh()
        time.sleep(0.2)
    if not found:
        raise UserError(
            f"{store} on {hostname()} is not the root's: checkpoints need a place that all ranks "
            "share",
            "choose one with --checkpoint.directory (a path that all hosts mount, or s3://…)",
        )


def _contains(store: Store, name: str) -> bool:
    try:
        with store.open(name) as file:
            return file.read() == name.encode()
    except (OSError, DamageError, UserError):
        return False


def _remove_quietly(store: Store, name: str) -> None:
    with contextlib.suppress(OSError, DamageError):
        store.remove(name)


def counted(number: int, noun: str) -> str:
    """Return `number` and `noun`, in the plural unless it is one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
