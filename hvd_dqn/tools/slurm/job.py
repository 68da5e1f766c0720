"""A Slurm job: its geometry and limits, and the command that its ranks run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hvd_dqn.acting.exploration import EXPLORATIONS
from hvd_dqn.common.errors import UserError
from hvd_dqn.common.extensions import lookup
from hvd_dqn.config import Config
from hvd_dqn.config.section import Section, non_negative, positive, ranged
from hvd_dqn.distributed.connect import BACKENDS
from hvd_dqn.methods.registry import METHODS
from hvd_dqn.networks.torsos.registry import TORSOS

_TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d+):(\d+)$")
_SEEDS = re.compile(r"(\d+(-\d+)?(,\d+(-\d+)?)*(%\d+)?)?$")
_NAME = re.compile(r"[\w.-]*$")


@dataclass(frozen=True, kw_only=True)
class Job(Section):
    """A training job's geometry and limits. Raises `UserError` for values that do not fit."""

    prefix = "--"

    nodes: int = positive(1)
    """Number of nodes."""
    min_nodes: int = non_negative(0)
    """Minimum number of nodes to continue with if some fail; 0: all, so the job is requeued."""
    gpus_per_node: int = non_negative(0)
    """GPUs per node, with one rank on each; 0: train on CPUs."""
    ranks_per_node: int = non_negative(0)
    """Ranks per node that learn; 0: one per GPU, or one."""
    ranks_per_env: int = non_negative(0)
    """Solver ranks of each environment (env.ranks-per-env); they are started beside the rank that
    learns, on its node.
    """
    cpus_per_rank: int = positive(1)
    """CPU cores per rank."""
    time: str = ranged("04:00:00", lambda v: bool(_TIME.match(v)), "HH:MM:SS or D-HH:MM:SS")
    """Time limit, as HH:MM:SS or D-HH:MM:SS; the job is requeued when it is reached."""
    warning_seconds: int = non_negative(300)
    """Save a checkpoint and stop this many seconds before the time limit."""
    launcher: Literal["srun", "mpirun", "horovodrun"] = "srun"
    """The program that starts the ranks; horovodrun needs ssh between the nodes."""
    array_seeds: str = ranged("", lambda v: bool(_SEEDS.match(v)), "such as 0-4, 0,3,7 or 0-9%2")
    """Run a job array with one job per seed: 0-4, or 0,3,7, or 0-9%2 for at most two at a time."""
    container: str = ""
    """Apptainer image that contains hvd-dqn."""
    stage: str = ""
    """Tar file of the virtual environment (tar -C .venv -cf venv.tar .), unpacked on every node."""
    name: str = ranged("", lambda v: bool(_NAME.match(v)), "letters, digits, dots and dashes")
    """Job name. Default: the preset."""
    account: str = ""
    """Slurm account."""
    partition: str = ""
    """Slurm partition."""
    max_restarts: int = non_negative(3)
    """Maximum number of restarts after a failure, within the job."""
    max_requeues: int = non_negative(20)
    """Maximum number of requeues."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_nodes > self.nodes:
            self.refuse("min_nodes", self.min_nodes, f"must be at most --nodes = {self.nodes}")
        if self.gpus_per_node and self.ranks > self.gpus_per_node:
            raise UserError(
                f"{self.ranks} ranks per node, but {self.gpus_per_node} GPUs",
                "NCCL needs one GPU per rank; lower --ranks-per-node",
            )
        if self.seconds <= self.warning_seconds:
            self.refuse(
                "time",
                self.time,
                f"must be longer than --warning-seconds = {self.warning_seconds}, or nothing is "
                "trained",
            )
        if self.launcher != "srun" and self.container:
            self.refuse("container", self.container, "needs --launcher srun")
        if self.container and self.stage:
            self.refuse("container", self.container, "needs no --stage; leave one of them out")

    @property
    def ranks(self) -> int:
        """Ranks per node that learn."""
        return self.ranks_per_node or self.gpus_per_node or 1

    @property
    def seconds(self) -> int:
        """The time limit in seconds."""
        match = _TIME.match(self.time)
        assert match is not None, "checked when the job was made"
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


class Work:
    """The command that every rank of a job runs: `train PRESET …`, whose options give `config`.

    Raises `UserError` if `config` does not fit the job, or names what does not exist.
    """

    def __init__(self, words: list[str], config: Config, job: Job) -> None:
        if job.array_seeds and config.checkpoint.directory:
            raise UserError(
                f"checkpoint.directory = {config.checkpoint.directory!r}: the jobs of an array "
                "would overwrite each other's checkpoints",
                "leave it out: each run keeps them in its own directory",
            )
        _require_known_names(config)
        if job.ranks_per_env != config.env.ranks_per_env:
            raise UserError(
                f"--ranks-per-env = {job.ranks_per_env}, but the command has env.ranks-per-env = "
                f"{config.env.ranks_per_env}",
                "give both the same value",
            )
        self.words = words
        self.num_envs = config.env.num_envs
        self.tasks = job.ranks * (1 + self.num_envs * job.ranks_per_env)
        """Ranks per node, solver ranks included."""
        self.name = job.name or ("hvd-dqn" if words[1].startswith("-") else words[1])
        alone = job.nodes * job.ranks == 1
        chosen = config.distributed.backend
        if ":" in chosen:  # the user's own, whose ranks meet by plain MPI
            chosen = "mpi"
        lone = "mpi" if job.ranks_per_env else "local"
        self.backend = chosen if chosen != "auto" else lone if alone else "horovod"


def _require_known_names(config: Config) -> None:
    """Raise `ConfigError` if a part of the package that `config` names does not exist. The user's
    own, `module:function`, may exist on the nodes only.
    """
    named: list[tuple[str, str, Mapping[str, Any]]] = [
        ("objective.distribution", config.objective.distribution, METHODS),
        ("exploration.kind", config.exploration.kind, EXPLORATIONS),
        ("network.torso", config.network.torso, {"auto": None, **TORSOS}),
        ("distributed.backend", config.distributed.backend, BACKENDS),
    ]
    for setting, name, known in named:
        if ":" not in name:
            lookup(setting, name, known)
