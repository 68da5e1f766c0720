"""The composition root and the loop: this is the whole system.

    hvd-dqn train cartpole                                    one process, no MPI
    horovodrun -np 2 hvd-dqn train cartpole                   two ranks of one machine
    horovodrun -np 8 -H a:4,b:4 hvd-dqn train cartpole        two hosts; likewise mpirun, srun

Every rank runs this on environments, a replay and random streams of its own. Collectives are gated
by `Progress` alone, whose counters are equal on every rank.
"""

from __future__ import annotations

from hvd_dqn import schedules, seeding
from hvd_dqn.actor import Actor, Exploration, GreedyPolicy
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.learner import Learner, NonFiniteError
from hvd_dqn.networks import QNetwork, make_network
from hvd_dqn.objectives import ExpectedObjective
from hvd_dqn.observer import Observer, Summary
from hvd_dqn.replay import ReplayBuffer
from hvd_dqn.resources import Resources, acquire
from hvd_dqn.run_directory import RunDirectory
from hvd_dqn.structs import Progress


def train(config: Config, comm: Communicator, run_dir: RunDirectory) -> Summary:
    """Train to the end of the budget. Collective.

    Raises `UserError` on all ranks where something cannot be had, and `NonFiniteError` on all
    ranks, at the same update and with the last good network saved, where the numbers go wrong.
    """
    resources = acquire(config, comm, run_dir)
    try:
        learner, policy = make_learner(config, comm, resources)
        replay = make_replay(config, comm, resources)
        actor = Actor(resources.envs, policy, make_exploration(config, comm, resources), replay)
        progress = Progress()
        updates_start = config.updates_start_env_steps(comm.world_size)
        observer = Observer(config, comm, resources, learner, policy, progress)
        try:
            while progress.env_steps < config.total_env_steps:
                for _ in range(config.vector_steps_per_iteration):
                    observer.add_episodes(
                        actor.step(schedules.epsilon(config.exploration, progress.env_steps))
                    )
                    progress.env_steps += config.env.num_envs * comm.world_size
                if progress.env_steps >= updates_start:
                    update(learner, replay, config.updates_per_iteration)
                progress.updates = learner.updates
                observer.after_iteration(config.env_steps_per_iteration(comm.world_size))
        except NonFiniteError:
            progress.updates = learner.updates
            observer.save_last_good()
            raise
        return observer.conclude()
    finally:
        resources.close()


def update(learner: Learner, replay: ReplayBuffer, count: int) -> None:
    """`count` updates; the next batch is sampled while the ranks' gradients are on their way."""
    batch = replay.sample()
    for remaining in reversed(range(count)):
        learner.start(batch)
        if remaining:
            batch = replay.sample()
        learner.finish()


def make_learner(
    config: Config, comm: Communicator, resources: Resources
) -> tuple[Learner, GreedyPolicy]:
    """The learner, its networks alike on every rank, and the policy by them. Collective."""

    def network() -> QNetwork:
        envs = resources.envs
        return make_network(
            config.network,
            obs_space=envs.obs_space,
            num_actions=envs.num_actions,
            device=resources.device,
        )

    with seeding.network_initialisation(config.seed):
        online, target = network(), network()
    planned = config.planned_updates(comm.world_size)
    learner = Learner(
        online=online,
        target=target,
        objective=ExpectedObjective(config.objective),
        config=config.optimizer,
        rate=lambda updates: schedules.learning_rate(
            config.optimizer, comm.world_size, updates, planned
        ),
        target_period_updates=config.target_period_updates,
        communicator=comm,
    )
    return learner, GreedyPolicy(online, resources.device)


def make_exploration(config: Config, comm: Communicator, resources: Resources) -> Exploration:
    """This rank's exploration."""
    return Exploration(
        num_envs=config.env.num_envs,
        num_actions=resources.envs.num_actions,
        zeta_exponent=config.exploration.zeta_exponent,
        rng=seeding.generator(config.seed, comm.rank, seeding.Stream.EXPLORATION),
    )


def make_replay(config: Config, comm: Communicator, resources: Resources) -> ReplayBuffer:
    """This rank's replay."""
    return ReplayBuffer(
        capacity=config.replay.capacity,
        num_envs=config.env.num_envs,
        obs_shape=resources.envs.obs_space.shape,
        obs_dtype=resources.envs.obs_dtype,
        gamma=config.objective.gamma,
        n_step=config.replay.n_step,
        batch_size=config.replay.batch_size,
        rng=seeding.generator(config.seed, comm.rank, seeding.Stream.REPLAY),
        device=resources.device,
    )
