"""Settings of how a run is executed: ranks, evaluations, checkpoints and logs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from hvd_dqn.config import keywords
from hvd_dqn.config.keywords import Keywords
from hvd_dqn.config.section import Section, positive, ranged

LOGGERS = {
    "tensorboard": "hvd_dqn.reporting.loggers.tensorboard:TensorBoard",
    "wandb": "hvd_dqn.reporting.loggers.wandb:WeightsAndBiases",
    "mlflow": "hvd_dqn.reporting.loggers.mlflow:MLflow",
}
"""The built-in loggers: each name and its `module:Class`, imported only if chosen."""


@dataclass(frozen=True, kw_only=True)
class DistributedConfig(Section):
    """How the ranks communicate, and what they average."""

    prefix = "distributed."

    backend: str = "auto"
    """`auto`: `horovod` under an MPI launcher, `local` (one process) without. `mpi` needs only
    mpi4py, and sums in shared memory if all ranks are on one node. `module:function` names your
    own: called with the ranks' plain communicator, it returns a
    `hvd_dqn.distributed.communicator.Communicator`.
    """
    hang_seconds: float = positive(60.0)
    """Abort the job if a rank makes no progress for this many seconds."""
    threads_per_rank: int | None = positive(None)
    """Compute threads per rank; `None`: the rank's share of its host's cores, but no more than the
    network can use, and no more than OMP_NUM_THREADS.
    """
    average: Literal["gradients", "delayed_gradients", "parameters", "server"] = "gradients"
    """What the ranks average. `gradients`: the gradients of every update, so that N ranks compute
    what one rank computes on N times the batch. `delayed_gradients`: the same, but each average is
    applied one update late and can arrive during that update (Li et al. 2018). `parameters`: each
    rank updates by itself, and all ranks average their parameters every `average-period-updates`
    updates (local SGD, Stich 2019). `server`: nothing; each rank steps shared parameters by itself
    and waits for others only at records, evaluations and checkpoints, so that a slow rank holds up
    none (Dean et al. 2012). Needs MPI. Results are not reproducible, and a resumed run is not bit
    for bit that of one that was never stopped. Updates, and with them `target-period-updates` and
    the learning rate's schedule, count the steps of all ranks.
    """
    average_period_updates: int = positive(10)
    """With `average` = `parameters`: updates between averages (H)."""
    average_optimizer_state: Literal["average", "keep", "reset"] = "average"
    """With `average` = `parameters`: whether the optimizer's moments are averaged as well, kept by
    each rank, or reset to zero.
    """


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Section):
    """When and how the greedy policy is evaluated, and which networks are kept."""

    prefix = "evaluation."

    period_env_steps: int = positive(5_000)
    """Env steps, over all ranks, between evaluations; each one saves its network."""
    episodes: int = positive(20)
    """Episodes of each evaluation, over all ranks."""
    final_episodes: int = positive(100)
    """Episodes of the final evaluation of the best network, over all ranks."""
    max_episode_steps: int = positive(27_000)
    """Truncate evaluation episodes after this many steps; the environment's own limit still applies
    (Atari: 108,000 frames).
    """
    envs: Literal["auto", "own", "training"] = "auto"
    """Environments that evaluations use. `own`: others than the training. `training`: the same, for
    simulators that run once per process; the training's episodes are replayed afterwards from their
    seeds and actions, and cut if that leads elsewhere. `auto`: own ones if they can be made.
    """
    env_kwargs: Keywords = "{}"
    """Keyword arguments that only the environments of evaluations and videos get, over those of
    `env.kwargs`: a JSON object, or one with `--evaluation.env-kwargs.NAME VALUE`. Objects in both
    are merged.
    """
    keep_networks: int = positive(2)
    """Number of newest networks to keep, besides the best one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        problem = keywords.problem_of(self.env_kwargs)
        if problem:
            self.refuse("env_kwargs", self.env_kwargs, problem)
        if self.envs == "training" and json.loads(self.env_kwargs):
            self.refuse(
                "env_kwargs",
                self.env_kwargs,
                "needs environments of its own, and evaluation.envs = 'training' has none",
            )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Section):
    """What is saved so that the run can be resumed."""

    prefix = "checkpoint."

    period_env_steps: int | None = positive(None)
    """Env steps, over all ranks, between checkpoints; `None`: 1/20 of the run."""
    keep: int = positive(2)
    """Number of newest checkpoints to keep."""
    directory: str | None = None
    """Where checkpoints are saved: a path or an fsspec URL (s3://bucket/run); `None`: in the run
    directory.
    """


@dataclass(frozen=True, kw_only=True)
class LoggingConfig(Section):
    """What is logged, and how often."""

    prefix = "logging."

    period_env_steps: int = positive(1_000)
    """Env steps, over all ranks, between records in `metrics.jsonl`."""
    loggers: tuple[str, ...] = ranged(
        ("tensorboard",),
        lambda names: (
            all(name in LOGGERS or all(name.partition(":")) for name in names)
            and len(set(names)) == len(names)
        ),
        f"any of {', '.join(LOGGERS)} and module:Class, each at most once",
    )
    """Loggers that receive the records, besides `metrics.jsonl`: any of tensorboard, wandb, mlflow
    and your own classes, as module:Class.
    """
    info_keys: tuple[str, ...] = ranged(
        (),
        lambda keys: len(set(keys)) == len(keys),
        "different keys",
    )
    """Numbers in the environment's `info` to record, by key; `a.b` is `info["a"]["b"]`. Of each
    episode the last value counts; `info/KEY` is the mean over the episodes that ended in a period,
    on all ranks, and `evaluation/info/KEY` that over an evaluation.
    """
    histograms: bool = False
    """Log histograms of parameters and gradients at every evaluation."""
    video: bool = False
    """Record the first 500 steps of an episode at every evaluation, for `videos/` and the loggers.
    The other ranks wait for the recording.
    """
