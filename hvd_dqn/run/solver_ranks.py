"""What a run's settings ask of the ranks of its job."""

from __future__ import annotations

from hvd_dqn.config import EnvConfig
from hvd_dqn.distributed.solvers import SolverRank, Solvers


def solvers_of(config: EnvConfig) -> Solvers | None:
    """Return the solver ranks that the environments need; `None` if they run on the learners."""
    if config.ranks_per_env == 0:
        return None
    return Solvers(config.num_envs, config.ranks_per_env, _serve)


def _serve(rank: SolverRank) -> None:
    from hvd_dqn.envs.serving import serve  # loads torch, which other runs load after connecting

    serve(rank)
