"""When a run saves checkpoints, and how it ends if it is asked to stop."""

from __future__ import annotations

import contextlib

from hvd_dqn.checkpoint import SaveError
from hvd_dqn.common.errors import RunError, StoppedByCallbackError, StoppedError
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.methods.schedules import period_ended
from hvd_dqn.run.assembly import Components
from hvd_dqn.run.resources import Resources


class Checkpoints:
    """Saves a run periodically; the loop calls it before and after iterations."""

    def __init__(
        self,
        config: Config,
        communicator: Communicator,
        resources: Resources,
        components: Components,
    ) -> None:
        self._config = config
        self._comm = communicator
        self._resources = resources
        self._components = components
        self._saver = resources.saver

    def before_iteration(self) -> None:
        """Wait if the next iteration would overwrite rows that are still being written."""
        self._saver.wait_before_overwriting(self._config.vector_steps)

    def after_iteration(self, env_steps: int, *, stopping: bool) -> None:
        """Start a checkpoint if a period, or the run, ended within the last `env_steps`, and
        complete it at the next record. Collective.

        If the ranks are `stopping`, raises `StoppedError` on all of them after saving a checkpoint
        (`StoppedByCallbackError` if only callbacks asked for it), or `RunError` if none could be
        saved.
        """
        config, now = self._config, self._components.progress.env_steps
        if stopping:
            self._save_and_stop()
        last = now >= config.total_env_steps
        due = last or period_ended(now, env_steps, config.checkpoint_period_env_steps)
        if due or period_ended(now, env_steps, config.logging.period_env_steps):
            self._finish()
        if due and self._saver.newest != now:
            self._begin()
        if last:
            self._finish()

    def give_up(self) -> None:
        """Complete the checkpoint that is being written, which is still valid when a run fails on
        all ranks. Collective.
        """
        with contextlib.suppress(SaveError):
            self._saver.finish()

    def _save_and_stop(self) -> None:
        self._finish()
        if self._saver.newest != self._components.progress.env_steps:
            self._begin()
        stop = self._resources.stop
        asked = [
            (by_callback, rank, reason)
            for rank, (reason, by_callback) in enumerate(
                self._comm.gather([stop.reason, stop.is_by_callback])
            )
            if reason is not None
        ]
        by_callback, rank, reason = min(asked)
        progress = self._components.progress
        try:
            self._saver.finish()
        except SaveError as error:
            raise RunError(
                f"asked to stop by {reason} on rank {rank} at update {progress.updates:,}, but no "
                f"checkpoint could be written ({error}); {self._newest()}"
            ) from error
        raise (StoppedByCallbackError if by_callback else StoppedError)(
            f"stopped by {reason} on rank {rank} at update {progress.updates:,}, "
            f"{progress.env_steps:,} env steps, after saving a checkpoint"
        )

    def _begin(self) -> None:
        components = self._components
        self._saver.begin(
            components.state_dict(),
            components.experience.ring,
            components.progress,
            metrics_bytes=self._resources.outputs.sink.position,
        )

    def _finish(self) -> None:
        """Complete a checkpoint. If it cannot be written, say so; the run continues."""
        try:
            self._saver.finish()
        except SaveError as error:
            self._resources.outputs.display.say(f"checkpoint failed: {error}; {self._newest()}")

    def _newest(self) -> str:
        newest = self._saver.newest
        if newest is None:
            return "there is no earlier one"
        return f"the newest is at {newest:,} env steps"
