"""The composition root and the loop: this is the whole system.

    hvd-dqn train cartpole                                    one process, no MPI
    horovodrun -np 2 hvd-dqn train cartpole                   two ranks of one machine
    horovodrun -np 8 -H a:4,b:4 hvd-dqn train cartpole        two hosts; likewise mpirun, srun

Every rank runs this on environments, a replay and random streams of its own. Collectives are gated
by `Progress` alone, whose counters are equal on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from hvd_dqn.common.errors import LostContactError
from hvd_dqn.common.signals import StopRequest
from hvd_dqn.common.structs import Progress
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.watched import WatchedCommunicator
from hvd_dqn.learner import NonFiniteError
from hvd_dqn.methods import schedules
from hvd_dqn.reporting.metrics import Callback
from hvd_dqn.run.assembly import Components, assemble, blank_batch
from hvd_dqn.run.checkpointing import Checkpoints
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.observer import Summary
from hvd_dqn.run.resources import acquire
from hvd_dqn.run.restore import resume as resume_parts
from hvd_dqn.run.start import plan
from hvd_dqn.run.watchdog import Watchdog


def train(
    config: Config,
    comm: Communicator,
    run_dir: RunDirectory,
    *,
    resume: str = "auto",
    changes: Set[str] = frozenset(),
    stop: StopRequest | None = None,
    callbacks: Sequence[Callback] = (),
) -> Summary:
    """Train to the end of the budget, from the beginning or from a checkpoint. Collective.

    `resume`: auto, never, or a checkpoint's directory; `changes`: fields in which the run may
    differ from the one it goes on with. Raises `UserError` on all ranks where something cannot be
    had, `StoppedError` on all ranks where one was asked to stop and a checkpoint is saved, and
    `NonFiniteError` on all ranks, at the same update and with the last good network saved, where
    the numbers go wrong.
    """
    stop = stop or StopRequest()
    if config.time_limit_minutes is not None:
        stop.after(60 * config.time_limit_minutes)
    start = plan(config, comm, run_dir, resume=resume, changes=changes)
    progress = Progress()
    watchdog = Watchdog(comm, progress, run_dir, limit=config.distributed.hang_seconds)
    comm = WatchedCommunicator(comm, watchdog)
    resources = acquire(config, comm, run_dir, start, stop, watchdog)
    resources.callbacks = callbacks
    try:
        with watchdog.patience():  # NCCL's first collective and compiling take their time
            parts = assemble(config, comm, resources, progress)
            parts.learner.warm_up(blank_batch(config, resources))
        observer = parts.observer
        checkpoints = Checkpoints(config, comm, resources, parts)
        lost = resume_parts(config, comm, start, parts, resources.saver, watchdog.touch)
        observer.begin(start, episodes_lost=lost)
        steps = config.env_steps_per_iteration(comm.world_size)
        try:
            parts.clock.restart()
            interrupted = not observer.evaluate_if_due()
            checkpoints.after_iteration(0, stopping=interrupted)
            while progress.env_steps < config.total_env_steps:
                iterate(config, comm, parts)
                stopping = parts.is_stopping(config, comm)
                interrupted = observer.after_iteration(steps, stopping=stopping)
                checkpoints.after_iteration(steps, stopping=stopping or interrupted)
                parts.clock.lap("checkpoints")
        except NonFiniteError:
            progress.updates = parts.learner.updates
            observer.save_last_good()
            checkpoints.give_up()
            raise
        return observer.conclude()
    except LostContactError as error:
        raise LostContactError(error.cause, watchdog.explain(error.cause)) from error
    finally:
        resources.close()


def iterate(config: Config, comm: Communicator, parts: Components) -> None:
    """Collect, then update; or update while the last step is under way."""
    progress = parts.progress
    last = config.vector_steps_per_iteration - 1
    for number in range(config.vector_steps_per_iteration):
        env_steps = progress.env_steps
        progress.env_steps += config.env.num_envs * comm.world_size
        if config.env.overlap_updates and number == last:
            parts.actor.begin_step(env_steps)
            update(config, comm, parts)
            episodes = parts.actor.finish_step()
        else:
            episodes = parts.actor.step(env_steps)
        parts.observer.add_episodes(episodes)
    if not config.env.overlap_updates:
        update(config, comm, parts)
    progress.updates = parts.learner.updates


def update(config: Config, comm: Communicator, parts: Components) -> None:
    """An iteration's updates, where it is time for them; the next batch is sampled, and a step that
    was begun taken, while the ranks' gradients are on their way.
    """
    progress, learner, replay, clock = parts.progress, parts.learner, parts.replay, parts.clock
    if progress.env_steps < config.updates_start_env_steps(comm.world_size):
        return
    beta = schedules.importance_exponent(config.replay, progress.env_steps / config.total_env_steps)
    batches = replay.batches(config.updates_per_iteration, beta)
    batch = next(batches)
    clock.lap("replay")
    for _ in range(config.updates_per_iteration):
        priority = learner.start(batch)
        clock.lap("gradients")
        replay.update_priorities(batch.slot, priority)
        batch = next(batches, batch)
        clock.lap("replay")
        parts.actor.step_meanwhile()
        learner.finish()
        clock.lap("step")
