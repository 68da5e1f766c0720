"""The composition root and the loop: this is the whole system.

    hvd-dqn train cartpole                                    one process, no MPI
    horovodrun -np 2 hvd-dqn train cartpole                   two ranks of one machine
    horovodrun -np 8 -H a:4,b:4 hvd-dqn train cartpole        two hosts; likewise mpirun, srun

Every rank runs this on environments, a replay and random streams of its own. Collectives are gated
by `Progress` alone, whose counters are equal on every rank.
"""

from __future__ import annotations

from hvd_dqn import schedules
from hvd_dqn.assembly import Parts, assemble, epsilon
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.learner import Learner, NonFiniteError
from hvd_dqn.observer import Summary
from hvd_dqn.replay import ReplayBuffer
from hvd_dqn.resources import acquire
from hvd_dqn.run_directory import RunDirectory


def train(config: Config, comm: Communicator, run_dir: RunDirectory) -> Summary:
    """Train to the end of the budget. Collective.

    Raises `UserError` on all ranks where something cannot be had, and `NonFiniteError` on all
    ranks, at the same update and with the last good network saved, where the numbers go wrong.
    """
    resources = acquire(config, comm, run_dir)
    try:
        parts = assemble(config, comm, resources)
        progress, observer = parts.progress, parts.observer
        try:
            while progress.env_steps < config.total_env_steps:
                iterate(config, comm, parts)
                observer.after_iteration(config.env_steps_per_iteration(comm.world_size))
        except NonFiniteError:
            progress.updates = parts.learner.updates
            observer.save_last_good()
            raise
        return observer.conclude()
    finally:
        resources.close()


def iterate(config: Config, comm: Communicator, parts: Parts) -> None:
    """Collect, then update."""
    progress = parts.progress
    for _ in range(config.vector_steps_per_iteration):
        parts.observer.add_episodes(parts.actor.step(epsilon(config, comm, progress.env_steps)))
        progress.env_steps += config.env.num_envs * comm.world_size
    if progress.env_steps >= config.updates_start_env_steps(comm.world_size):
        beta = schedules.importance_exponent(
            config.replay, progress.env_steps / config.total_env_steps
        )
        update(parts.learner, parts.replay, config.updates_per_iteration, beta)
    progress.updates = parts.learner.updates


def update(learner: Learner, replay: ReplayBuffer, count: int, importance_exponent: float) -> None:
    """`count` updates; the next batch is sampled while the ranks' gradients are on their way."""
    batch = replay.sample(importance_exponent)
    for remaining in reversed(range(count)):
        replay.update_priorities(batch.slot, learner.start(batch))
        if remaining:
            batch = replay.sample(importance_exponent)
        learner.finish()
