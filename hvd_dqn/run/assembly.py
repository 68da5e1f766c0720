"""The components of one rank, built from the configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hvd_dqn.acting.actor import Actor
from hvd_dqn.acting.exploration import Slots, make_exploration
from hvd_dqn.acting.greedy import GreedyPolicy, LatePolicy
from hvd_dqn.common import seeding
from hvd_dqn.common.seeding import Stream
from hvd_dqn.common.stages import StageClock
from hvd_dqn.common.state import DistributedState
from hvd_dqn.common.structs import Batch, Progress, ReplayedEpisodes, ReplayShare
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.learner import Learner, RewardScaling, TargetUpdate, make_learner
from hvd_dqn.methods import schedules
from hvd_dqn.methods.registry import make_network, make_objective
from hvd_dqn.methods.returns import ReturnsObjective
from hvd_dqn.networks import QNetwork
from hvd_dqn.replay import (
    Experience,
    PrioritizedSampler,
    ReplayBuffer,
    Ring,
    Rollout,
    Sampler,
    UniformSampler,
)
from hvd_dqn.reporting.metrics import Callback
from hvd_dqn.run.observer import Observer
from hvd_dqn.run.pace import Pace, make_pace
from hvd_dqn.run.resources import Resources
from hvd_dqn.run.turns import Turns, make_turns


@dataclass
class Components:
    """What a run consists of on this rank, and its state."""

    pace: Pace
    turns: Turns
    progress: Progress
    learner: Learner
    experience: Experience
    actor: Actor
    observer: Observer
    clock: StageClock

    def is_stopping(self) -> bool:
        """Return whether any rank was asked to stop; the same on all ranks. Collective."""
        return self.turns.is_stopping(self.observer.wants_stop)

    def state_dict(self) -> DistributedState:
        """Return the state of everything except a ring's frames. With those, a run of the same
        configuration continues from it bit for bit.
        """
        learner, observer = self.learner.state_dict(), self.observer.state_dict()
        return DistributedState(
            shared={
                "progress": dataclasses.asdict(self.progress),
                "learner": learner.shared,
                "observer": observer.shared,
            },
            per_rank={
                "learner": learner.per_rank,
                "replay": self.experience.state_dict(),
                "actor": self.actor.state_dict(),
                "observer": observer.per_rank,
            },
        )

    def load_state_dict(self, state: DistributedState) -> ReplayedEpisodes:
        """Restore a `state_dict`, after the ring's frames. Returns how the environments replayed
        their episodes.
        """
        self.load_all_but_experience(state, mine=True)
        self.experience.load_state_dict(state.per_rank["replay"])
        return self.actor.load_state_dict(state.per_rank["actor"])

    def load_all_but_experience(self, state: DistributedState, *, mine: bool) -> None:
        """Restore counters, learner and observer. `mine`: `state` was saved by this rank."""
        shared, own = state
        self.progress.env_steps = shared["progress"]["env_steps"]
        self.progress.updates = shared["progress"]["updates"]
        learner = DistributedState(shared["learner"], own["learner"])
        self.learner.load_state_dict(learner, mine=mine)
        self.observer.load_state_dict(
            DistributedState(shared["observer"], own["observer"]), mine=mine
        )


def assemble(
    config: Config,
    comm: Communicator,
    resources: Resources,
    progress: Progress,
    callbacks: Sequence[Callback] = (),
) -> Components:
    """Build every component of this rank, as at the start of a run. Collective."""
    clock = StageClock()
    learner = assemble_learner(config, comm, resources, clock)
    policy = assemble_policy(config, comm, resources, learner.online)
    experience = assemble_experience(config, comm, resources, policy)
    actor = assemble_actor(config, comm, resources, policy, experience, clock)
    observer = Observer(
        config, comm, resources, learner, experience, progress, clock, actor.exploration, callbacks
    )
    pace = make_pace(config, world_size=comm.world_size)
    turns = make_turns(config, progress, pace, comm, learner, resources.stop)
    return Components(pace, turns, progress, learner, experience, actor, observer, clock)


def assemble_learner(
    config: Config, comm: Communicator, resources: Resources, clock: StageClock
) -> Learner:
    """Build the learner, with equal networks on every rank. Collective."""

    def network() -> QNetwork:
        return make_network(
            config.network,
            config.objective,
            obs_space=resources.envs.obs_space,
            num_actions=resources.envs.num_actions,
            branches=resources.envs.branches,
            device=resources.device,
        )

    with seeding.network_initialisation(config.seed):
        online, target = network(), network()
    generator = seeding.torch_generator(config.seed, comm.rank, Stream.UPDATE, resources.device)
    planned = config.planned_updates(comm.world_size)
    discount = config.objective.gamma**config.replay.n_step
    return make_learner(
        config.distributed,
        prioritized=config.replay.sampling == "prioritized",
        scaling=RewardScaling(discount, resources.device)
        if config.objective.normalize_rewards
        else None,
        online=online,
        target=target,
        objective=ReturnsObjective(config.objective)
        if config.rollout.steps
        else make_objective(config.objective, generator),
        config=config.optimizer,
        rate=lambda updates: schedules.learning_rate(
            config.optimizer, comm.world_size, updates, planned
        ),
        target_update=TargetUpdate(config.target_period_updates, config.target_step),
        communicator=comm,
        generator=generator,
        stop_requested=resources.stop,
        clock=clock,
    )


def blank_batch(config: Config, resources: Resources) -> Batch:
    """Return a batch of zeros, of the shapes and types that this rank's experience yields."""
    size, device = config.batch_size, resources.device
    obs = torch.from_numpy(
        np.zeros((size, *resources.envs.obs_space.shape), dtype=resources.envs.obs_dtype)
    ).to(device)
    zeros = torch.zeros(size, device=device)
    return Batch(
        obs=obs,
        action=zeros.long(),
        reward=zeros,
        discount=zeros,
        next_obs=obs[:0] if config.rollout.steps else obs,
        weight=zeros,
        slot=np.zeros(size, dtype=np.int64),
        share=ReplayShare(),
    )


def assemble_experience(
    config: Config, comm: Communicator, resources: Resources, policy: GreedyPolicy
) -> Experience:
    """Build this rank's replay or, if these are asked for, its rollouts."""
    rng = seeding.generator(config.seed, comm.rank, Stream.REPLAY)
    if not config.rollout.steps:
        return assemble_replay(config, resources, rng)
    return Rollout(
        num_envs=config.env.num_envs,
        steps=config.rollout.steps,
        obs_shape=resources.envs.obs_space.shape,
        obs_dtype=resources.envs.obs_dtype,
        gamma=config.objective.gamma,
        td_lambda=config.rollout.td_lambda,
        minibatches=config.rollout.minibatches,
        values=policy.best_values,
        rng=rng,
        device=resources.device,
    )


def assemble_replay(config: Config, resources: Resources, rng: np.random.Generator) -> ReplayBuffer:
    """Build this rank's replay."""
    on_device = config.replay.storage == "device"
    ring = Ring(
        capacity=config.replay.capacity,
        num_envs=config.env.num_envs,
        frame_shape=resources.envs.frame_shape,
        obs_dtype=resources.envs.obs_dtype,
        frame_stack=resources.envs.frame_stack,
        n_step=config.replay.n_step,
        device=resources.device if on_device else torch.device("cpu"),
    )
    sampler: Sampler
    if config.replay.sampling == "prioritized":
        sampler = PrioritizedSampler(ring, rng, priority_exponent=config.replay.priority_exponent)
    else:
        sampler = UniformSampler(ring, rng)
    return ReplayBuffer(
        ring,
        sampler,
        gamma=config.objective.gamma,
        n_step=config.replay.n_step,
        batch_size=config.replay.batch_size,
        rng=rng,
        device=resources.device,
        before_truncating=resources.saver.wait,
    )


def assemble_policy(
    config: Config, comm: Communicator, resources: Resources, online: QNetwork
) -> GreedyPolicy:
    """Build the policy that acts by the online network."""
    generator = seeding.torch_generator(config.seed, comm.rank, Stream.ACTING, resources.device)
    kind = LatePolicy if config.env.overlap_acting else GreedyPolicy
    return kind(online, resources.device, generator)


def assemble_actor(
    config: Config,
    comm: Communicator,
    resources: Resources,
    policy: GreedyPolicy,
    experience: Experience,
    clock: StageClock,
) -> Actor:
    """Build the actor, which steps this rank's environments by the policy."""
    count = config.env.num_envs
    exploration = make_exploration(
        config.exploration,
        Slots(comm.rank * count, count, comm.world_size * count),
        num_actions=resources.envs.num_actions,
        rng=seeding.generator(config.seed, comm.rank, Stream.EXPLORATION),
    )
    return Actor(resources.envs, policy, exploration, experience, clock)
