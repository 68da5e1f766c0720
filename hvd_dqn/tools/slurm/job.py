"""What a Slurm job is: its geometry, its limits and what it runs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hvd_dqn.command_line import parse_train
from hvd_dqn.errors import UserError

LAUNCHERS = ("srun", "mpirun", "horovodrun")
_TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d+):(\d+)$")
_NAME = re.compile(r"[\w.-]+$")
_SEEDS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*(%\d+)?$")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training job. `ranks_per_node` 0 means one for each GPU, or one on a CPU node; `min_nodes`
    0 means all of them.
    """

    command: tuple[str, ...]
    name: str = ""
    nodes: int = 1
    min_nodes: int = 0
    gpus_per_node: int = 0
    ranks_per_node: int = 0
    cpus_per_rank: int = 1
    time: str = "04:00:00"
    warning_seconds: int = 300
    launcher: str = "srun"
    array_seeds: str = ""
    container: str = ""
    stage: str = ""
    account: str = ""
    partition: str = ""
    max_restarts: int = 3
    max_requeues: int = 20

    def __post_init__(self) -> None:
        self._check_command()
        smallest = {"nodes": 1, "gpus_per_node": 0, "ranks_per_node": 0, "cpus_per_rank": 1}
        smallest |= {"min_nodes": 0, "warning_seconds": 0, "max_restarts": 0, "max_requeues": 0}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} {getattr(self, name)}", f"must be {least} or more")
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
        if self.min_nodes > self.nodes:
            raise UserError(f"--min-nodes {self.min_nodes}", f"of {self.nodes} nodes")
        if not _NAME.match(self.job_name):
            raise UserError(f"--name {self.job_name}", "letters, digits, dots and dashes")
        if self.launcher not in LAUNCHERS:
            raise UserError(f"--launcher {self.launcher}", f"must be {', '.join(LAUNCHERS)}")
        if self.array_seeds and not _SEEDS.match(self.array_seeds):
            raise UserError(
                f"--array-seeds {self.array_seeds}", "write it as 0-4, or 0,3,7, or 0-9%2"
            )
        if self.launcher == "horovodrun" and (self.container or self.stage):
            raise UserError(
                "--launcher horovodrun", "takes no --container and no --stage: use srun"
            )
        if self.container and self.stage:
            raise UserError("--container and --stage", "a container is one file already: name one")

    @property
    def ranks(self) -> int:
        """Ranks a node."""
        return self.ranks_per_node or self.gpus_per_node or 1

    @property
    def seconds(self) -> int:
        """The time limit. `UserError` where it is no Slurm time."""
        match = _TIME.match(self.time)
        if match is None:
            raise UserError(f"--time {self.time}", "write it as HH:MM:SS or D-HH:MM:SS")
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    @property
    def job_name(self) -> str:
        """As Slurm shows it."""
        preset = self.command[1] if len(self.command) > 1 else ""
        return self.name or ("hvd-dqn" if preset.startswith("-") else preset)

    @property
    def backend(self) -> str:
        """What the ranks average by."""
        chosen = parse_train(list(self.command[1:])).config.distributed.backend
        alone = self.nodes * self.ranks == 1 and chosen == "auto"
        return "local" if alone else "horovod" if chosen == "auto" else chosen

    def _check_command(self) -> None:
        if self.command[:1] != ("train",):
            raise UserError("hvd-dqn slurm: write what to run behind --, such as -- train cartpole")
        parse_train(list(self.command[1:]))
        own = ["run-dir", "resume", *(["seed"] if self.array_seeds else [])]
        for word in self.command:
            flag = word.partition("=")[0].replace("_", "-").removeprefix("--")
            if word.startswith("--") and flag in own:
                raise UserError(f"{word} is the script's to say", "leave it out behind --")
