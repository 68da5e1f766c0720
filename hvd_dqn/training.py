"""The training loop. This file and `run/assembly.py` show the whole system.

    hvd-dqn train cartpole                                    one process, no MPI
    horovodrun -np 2 hvd-dqn train cartpole                   two ranks on one machine
    horovodrun -np 8 -H a:4,b:4 hvd-dqn train cartpole        two hosts; also mpirun and srun

Every rank runs this loop with its own environments, replay and random streams. Only `Progress`,
whose counters are equal on every rank, decides when ranks enter a collective. With a parameter
server they are equal at rests, between which a rank takes iterations by itself (`run/turns.py`).
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from hvd_dqn.common.errors import (
    EXIT_OK,
    EXIT_STOPPED,
    LostContactError,
    StoppedByCallbackError,
    StoppedError,
)
from hvd_dqn.common.signals import StopRequest
from hvd_dqn.common.structs import Progress
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.watched import WatchedCommunicator
from hvd_dqn.learner import NonFiniteError
from hvd_dqn.reporting.metrics import Callback
from hvd_dqn.run.assembly import Components, assemble, blank_batch
from hvd_dqn.run.checkpointing import Checkpoints
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.resources import acquire, open_directory
from hvd_dqn.run.restore import restore, save_after
from hvd_dqn.run.start import plan
from hvd_dqn.run.summary import Summary, summary_of
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
    may_exit: bool = True,
) -> Summary:
    """Train until the budget is spent, from the beginning or from a checkpoint. Collective.

    `resume` is "auto", "never" or the directory of a run or a checkpoint; `changes` names the
    settings that may differ from those of the resumed run. If a callback asks for a stop, a
    checkpoint is saved, and the run ends with its final evaluation. A run that has ended already
    returns its summary. `may_exit` says whether a single process that makes no progress is ended.

    Raises `UserError` on all ranks if a requirement is not met, `StoppedError` on all ranks if any
    was asked to stop, after saving a checkpoint, and `NonFiniteError` on all ranks at the same
    update if a loss or gradient is not finite, after saving the last good network.
    """
    stop = stop or StopRequest()
    if config.time_limit_minutes is not None:
        stop.request_after(60 * config.time_limit_minutes)
    start = plan(config, comm, run_dir, resume=resume, changes=changes)
    if start.final is not None:
        return summary_of(start.final)
    progress = Progress()
    watchdog = Watchdog(
        comm, progress, run_dir, limit=config.distributed.hang_seconds, may_exit=may_exit
    )
    comm = WatchedCommunicator(comm, watchdog)
    resources = acquire(config, comm, run_dir, start, stop, watchdog)
    try:
        with watchdog.patience():  # NCCL's first collective and compilation take long
            components = assemble(config, comm, resources, progress, callbacks)
            components.learner.warm_up(blank_batch(config, resources))
        checkpoints = Checkpoints(config, comm, resources, components)
        restored = restore(config, comm, start, components, watchdog.touch)
        open_directory(config, comm, resources, start, watchdog)
        save_after(comm, start, resources.saver, restored)
        components.observer.begin(start, restored.differences())
        summary = run_to_end(components, checkpoints)
        watchdog.conclude(EXIT_OK)
        return summary
    except StoppedError:
        watchdog.conclude(EXIT_STOPPED)
        raise
    except LostContactError as error:
        raise LostContactError(error.cause, watchdog.explain(error.cause)) from error
    finally:
        resources.close()


def run_to_end(components: Components, checkpoints: Checkpoints) -> Summary:
    """Run the loop, and the final evaluation, also if a callback asked for the end."""
    stopped = ""
    try:
        run_loop(components, checkpoints)
    except StoppedByCallbackError as error:
        stopped = str(error)
    return components.observer.conclude(stopped)


def run_loop(components: Components, checkpoints: Checkpoints) -> None:
    """Collect and update until the budget is spent; record, evaluate and save in between."""
    progress, observer, pace = components.progress, components.observer, components.pace

    def iteration() -> None:
        checkpoints.before_iteration()
        iterate(components)

    try:
        components.clock.restart()
        interrupted = not observer.evaluate_if_due()
        checkpoints.after_iteration(0, stopping=interrupted)
        while progress.env_steps < pace.total_env_steps:
            env_steps = components.turns.take(iteration)
            stopping = components.is_stopping()
            interrupted = observer.after_iteration(env_steps, stopping=stopping)
            checkpoints.after_iteration(env_steps, stopping=stopping or interrupted)
            components.clock.lap("checkpoints")
    except NonFiniteError:
        progress.updates = components.learner.updates
        observer.save_last_good()
        checkpoints.give_up()
        raise


def iterate(components: Components) -> None:
    """Collect, then update; with `env.overlap_updates`, update during the last vector step."""
    progress, actor, pace = components.progress, components.actor, components.pace
    for number in range(pace.vector_steps):
        env_steps = progress.env_steps
        progress.env_steps += pace.env_steps_per_vector_step
        if pace.overlap_updates and number == pace.vector_steps - 1:
            actor.begin_step(env_steps)
            update(components)
            episodes = actor.finish_step()
        else:
            episodes = actor.step(env_steps)
        components.observer.add_episodes(episodes)
    if not pace.overlap_updates:
        update(components)
    progress.updates = components.learner.updates


def update(components: Components) -> None:
    """Make the updates of one iteration, if updates have started.

    While the ranks' gradients are being summed, sample the next batch and take an environment step
    that has begun.
    """
    progress, pace = components.progress, components.pace
    learner, experience, clock = components.learner, components.experience, components.clock
    has_started = progress.env_steps >= pace.updates_start_env_steps
    if not has_started or not components.turns.may_update(experience):
        return
    batches = experience.batches(pace.updates, pace.importance_exponent(progress.env_steps))
    batch = next(batches)
    clock.lap("replay")
    for _ in range(pace.updates):
        priority = learner.start(batch)
        clock.lap("gradients")
        experience.update_priorities(batch.slot, priority)
        batch = next(batches, batch)
        clock.lap("replay")
        components.actor.step_meanwhile()
        learner.finish()
        clock.lap("step")
