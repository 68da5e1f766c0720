"""The composition root and the loop: this is the whole system.

    hvd-dqn train cartpole                                    one process, no MPI
    horovodrun -np 2 hvd-dqn train cartpole                   two ranks of one machine
    horovodrun -np 8 -H a:4,b:4 hvd-dqn train cartpole        two hosts; likewise mpirun, srun

Every rank runs this on environments, a replay and random streams of its own. Collectives are gated
by `Progress` alone, whose counters are equal on every rank.
"""

from __future__ import annotations

from hvd_dqn import schedules
from hvd_dqn.assembly import assemble_actor, assemble_learner, assemble_replay, epsilon
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.learner import Learner, NonFiniteError
from hvd_dqn.observer import Observer, Summary
from hvd_dqn.replay import ReplayBuffer
from hvd_dqn.resources import acquire
from hvd_dqn.run_directory import RunDirectory
from hvd_dqn.structs import Progress


def train(config: Config, comm: Communicator, run_dir: RunDirectory) -> Summary:
    """Train to the end of the budget. Collective.

    Raises `UserError` on all ranks where something cannot be had, and `NonFiniteError` on all
    ranks, at the same update and with the last good network saved, where the numbers go wrong.
    """
    resources = acquire(config, comm, run_dir)
    try:
        learner = assemble_learner(config, comm, resources)
        replay = assemble_replay(config, comm, resources)
        actor = assemble_actor(config, comm, resources, learner.online, replay)
        progress = Progress()
        updates_start = config.updates_start_env_steps(comm.world_size)
        observer = Observer(config, comm, resources, learner, progress)
        try:
            while progress.env_steps < config.total_env_steps:
                for _ in range(config.vector_steps_per_iteration):
                    observer.add_episodes(actor.step(epsilon(config, comm, progress.env_steps)))
                    progress.env_steps += config.env.num_envs * comm.world_size
                if progress.env_steps >= updates_start:
                    share = progress.env_steps / config.total_env_steps
                    beta = schedules.importance_exponent(config.replay, share)
                    update(learner, replay, config.updates_per_iteration, beta)
                progress.updates = learner.updates
                observer.after_iteration(config.env_steps_per_iteration(comm.world_size))
        except NonFiniteError:
            progress.updates = learner.updates
            observer.save_last_good()
            raise
        return observer.conclude()
    finally:
        resources.close()


def update(learner: Learner, replay: ReplayBuffer, count: int, importance_exponent: float) -> None:
    """`count` updates; the next batch is sampled while the ranks' gradients are on their way."""
    batch = replay.sample(importance_exponent)
    for remaining in reversed(range(count)):
        replay.update_priorities(batch.slot, learner.start(batch))
        if remaining:
            batch = replay.sample(importance_exponent)
        learner.finish()
