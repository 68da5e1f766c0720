"""How a run is carried out: ranks, evaluations, records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hvd_dqn.config.section import Section, positive, ranged

LOGGERS = ("tensorboard", "wandb", "mlflow")
"""Those that come along; others are `module:Class`."""


@dataclass(frozen=True, kw_only=True)
class DistributedConfig(Section):
    """How ranks meet and share their host."""

    prefix = "distributed."

    backend: str = "auto"
    """`auto`: `horovod` under an MPI launcher, `local` (one process) without. `mpi` needs only
    mpi4py, and sums in shared memory if all ranks are on one node. `module:function` names your
    own: called with the ranks' plain communicator, it returns a
    `hvd_dqn.distributed.communicator.Communicator`.
    """
    hang_seconds: float = positive(60.0)
    """The job is ended where a rank has not moved for so long."""
    threads_per_rank: int | None = positive(None)
    """Compute threads of a rank; `None`: its share of its host's cores, as far as the network has
    work for them.
    """
    average: Literal["gradients", "delayed_gradients", "parameters"] = "gradients"
    """What ranks average: every update's gradients, so that N ranks do what one rank does on N
    times the batch; the same, each average applied one update late, which gives it an update's time
    to arrive (Li et al. 2018); or, after every `average_period_updates` updates of its own on each
    rank, the parameters (local SGD, Stich 2019).
    """
    average_period_updates: int = positive(10)
    """`parameters`: updates between averages (H)."""
    average_optimizer_state: Literal["average", "keep", "reset"] = "average"
    """`parameters`: what becomes of the optimizer's moments at an average: averaged with the
    parameters, kept by each rank, or set to zero.
    """


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Section):
    """When and how the greedy policy is judged, and what is kept."""

    prefix = "evaluation."

    period_env_steps: int = positive(5_000)
    """Global env steps between greedy evaluations; each one saves its network."""
    episodes: int = positive(20)
    """Episodes of a periodic evaluation, over all ranks."""
    final_episodes: int = positive(100)
    """Episodes of the closing evaluation, over all ranks."""
    max_episode_steps: int = positive(27_000)
    """Steps after which an episode of an evaluation ends; an environment's own limit stays (Atari:
    108,000 frames).
    """
    keep_networks: int = positive(2)
    """Newest networks kept besides the best one."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Section):
    """What is saved to go on from."""

    prefix = "checkpoint."

    period_env_steps: int | None = positive(None)
    """Global env steps between checkpoints; `None`: a twentieth of the run."""
    keep: int = positive(2)
    """Newest checkpoints kept."""
    directory: str | None = None
    """Where they are kept: a path, or a URL that fsspec knows (s3://bucket/run); `None`: in the run
    directory.
    """


@dataclass(frozen=True, kw_only=True)
class LoggingConfig(Section):
    """What is written down, and how often."""

    prefix = "logging."

    period_env_steps: int = positive(1_000)
    """Global env steps between lines of `metrics.jsonl`."""
    loggers: tuple[str, ...] = ranged(
        ("tensorboard",),
        lambda names: (
            all(name in LOGGERS or all(name.partition(":")) for name in names)
            and len(set(names)) == len(names)
        ),
        f"of {', '.join(LOGGERS)} or module:Class, each once",
    )
    """Where records go besides `metrics.jsonl`: any of tensorboard, wandb, mlflow and classes of
    your own, module:Class.
    """
    histograms: bool = False
    """Give loggers the distributions of parameters and gradients at every evaluation."""
    video: bool = False
    """Draw an episode at every evaluation, its first 500 steps, for `videos/` and the loggers; the
    other ranks wait while it is played.
    """
