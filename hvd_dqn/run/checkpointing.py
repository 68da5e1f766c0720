"""When a run is saved, and what it does when it was asked to stop."""

from __future__ import annotations

import contextlib

from hvd_dqn.checkpoint import SaveError
from hvd_dqn.common.errors import RunError, StoppedError
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.methods.schedules import period_ended
from hvd_dqn.run.assembly import Components
from hvd_dqn.run.resources import Resources


class Checkpoints:
    """Saves a run by its counters; the loop calls it after every iteration."""

    def __init__(
        self,
        config: Config,
        communicator: Communicator,
        resources: Resources,
        parts: Components,
    ) -> None:
        self._config = config
        self._comm = communicator
        self._resources = resources
        self._parts = parts
        self._saver = resources.saver

    def after_iteration(self, env_steps: int, *, stopping: bool) -> None:
        """Begin a checkpoint where a period ended in the last `env_steps`, or the run did; finish
        it at the next record. Collective.

        Raises `StoppedError` on all ranks, with a checkpoint saved, where they are `stopping`, and
        `RunError` where there is none to go on from.
        """
        config, now = self._config, self._parts.progress.env_steps
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
        self._saver.wait_before_overwriting(config.vector_steps_per_iteration)

    def give_up(self) -> None:
        """The run fails on all ranks alike: a checkpoint on its way is still a good one.
        Collective.
        """
        with contextlib.suppress(SaveError):
            self._saver.finish()

    def _save_and_stop(self) -> None:
        self._finish()
        if self._saver.newest != self._parts.progress.env_steps:
            self._begin()
        reasons = self._comm.gather(self._resources.stop.reason)
        rank, reason = next((r, text) for r, text in enumerate(reasons) if text is not None)
        progress = self._parts.progress
        try:
            self._saver.finish()
        except SaveError as error:
            raise RunError(
                f"asked to stop by {reason} on rank {rank} at update {progress.updates:,}, and no "
                f"checkpoint could be written ({error}); {self._what_remains()}"
            ) from error
        raise StoppedError(
            f"stopped by {reason} on rank {rank} at update {progress.updates:,}, "
            f"{progress.env_steps:,} env steps, with a checkpoint"
        )

    def _begin(self) -> None:
        parts = self._parts
        self._saver.begin(
            parts.state_dict(),
            parts.replay.ring,
            parts.progress,
            metrics_bytes=self._resources.sink.position,
        )

    def _finish(self) -> None:
        """A checkpoint that cannot be written costs nothing else while there is another."""
        try:
            self._saver.finish()
        except SaveError as error:
            if self._saver.newest is None:
                raise RunError(f"no checkpoint could be written: {error}") from error
            self._resources.display.say(f"no checkpoint: {error}; {self._what_remains()}")

    def _what_remains(self) -> str:
        newest = self._saver.newest
        return "there is none" if newest is None else f"the newest is of {newest:,} env steps"
