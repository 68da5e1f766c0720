"""What a Slurm job is: its geometry and its limits, and what its ranks run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import Config

_TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d+):(\d+)$")
_SEEDS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*(%\d+)?$")
_NAME = re.compile(r"[\w.-]*$")
_SMALLEST = {
    "nodes": 1,
    "min_nodes": 0,
    "gpus_per_node": 0,
    "ranks_per_node": 0,
    "cpus_per_rank": 1,
    "warning_seconds": 0,
    "max_restarts": 0,
    "max_requeues": 0,
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training job's geometry and limits. Raises `UserError` for what cannot be."""

    nodes: int = 1
    """Nodes."""
    min_nodes: int = 0
    """Go on with so few where nodes fail; 0: only with all, and else on others from the queue."""
    gpus_per_node: int = 0
    """GPUs of a node, a rank on each; 0: train on cores."""
    ranks_per_node: int = 0
    """Ranks on a node; 0: one for each GPU, or one."""
    cpus_per_rank: int = 1
    """Cores of a rank."""
    time: str = "04:00:00"
    """The time limit, HH:MM:SS or D-HH:MM:SS, after which the job goes back to the queue."""
    warning_seconds: int = 300
    """How long before the limit the ranks save a checkpoint."""
    launcher: Literal["srun", "mpirun", "horovodrun"] = "srun"
    """What starts the ranks; horovodrun needs ssh between nodes."""
    array_seeds: str = ""
    """Seeds, each a job of its own: 0-4, or 0,3,7, or 0-9%2 for two at a time."""
    container: str = ""
    """An Apptainer image that holds hvd-dqn."""
    stage: str = ""
    """A tar file of the virtual environment (tar -C .venv -cf venv.tar .), for every node to
    unpack.
    """
    name: str = ""
    """The job's name; by default the preset's."""
    account: str = ""
    """Slurm account."""
    partition: str = ""
    """Slurm partition."""
    max_restarts: int = 3
    """Attempts within the job after the first."""
    max_requeues: int = 20
    """How often the job may come back."""

    def __post_init__(self) -> None:
        for name, least in _SMALLEST.items():
            if getattr(self, name) < least:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} {getattr(self, name)}", f"must be {least} or more")
        if self.min_nodes > self.nodes:
            raise UserError(f"--min-nodes {self.min_nodes}", f"of {self.nodes} nodes")
        if self.gpus_per_node and self.ranks > self.gpus_per_node:
            raise UserError(
                f"{self.ranks} ranks on {self.gpus_per_node} GPUs a node",
                "NCCL takes one rank a GPU: lower --ranks-per-node",
            )
        if self.seconds <= self.warning_seconds:
            raise UserError(
                f"--time {self.time} is no longer than --warning-seconds {self.warning_seconds}",
                "nothing would be trained",
            )
        if not _NAME.match(self.name):
            raise UserError(f"--name {self.name}", "letters, digits, dots and dashes")
        if self.array_seeds and not _SEEDS.match(self.array_seeds):
            seeds = f"--array-seeds {self.array_seeds}"
            raise UserError(seeds, "write it as 0-4, or 0,3,7, or 0-9%2")
        if self.launcher != "srun" and self.container:
            raise UserError(f"--container with --launcher {self.launcher}", "it needs srun")
        if self.container and self.stage:
            raise UserError("--container and --stage", "a container is one file already: name one")

    @property
    def ranks(self) -> int:
        """Ranks a node."""
        return self.ranks_per_node or self.gpus_per_node or 1

    @property
    def seconds(self) -> int:
        """The time limit. `UserError` where it is no Slurm time of this form."""
        match = _TIME.match(self.time)
        if match is None:
            raise UserError(f"--time {self.time}", "write it as HH:MM:SS or D-HH:MM:SS")
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


class Work:
    """What every rank of a job runs: `train PRESET …`. `UserError` where it is wrong already here,
    or says what is the script's to say.
    """

    def __init__(self, words: list[str], config: Config, job: Job) -> None:
        own = ["run-dir", "resume", *(["seed"] if job.array_seeds else [])]
        for word in words:
            flag = word.partition("=")[0].replace("_", "-").removeprefix("--")
            if word.startswith("--") and flag in own:
                raise UserError(f"{word} is the script's to say", "leave it out behind --")
        self.words = words
        self.name = job.name or ("hvd-dqn" if words[1].startswith("-") else words[1])
        alone = job.nodes * job.ranks == 1
        chosen = config.distributed.backend
        if ":" in chosen:  # the user's own, whose ranks meet by plain MPI
            chosen = "mpi"
        self.backend = chosen if chosen != "auto" else "local" if alone else "horovod"
