"""Loggers by their names, and several as one."""

from __future__ import annotations

import contextlib
import functools
import importlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hvd_dqn.common.errors import UserError, typed_line
from hvd_dqn.reporting.loggers.logger import LoggedRun, Logger, Outcome

_KNOWN = {
    "tensorboard": ("hvd_dqn.reporting.loggers.tensorboard", "TensorBoard"),
    "wandb": ("hvd_dqn.reporting.loggers.wandb", "WeightsAndBiases"),
    "mlflow": ("hvd_dqn.reporting.loggers.mlflow", "MLflow"),
}
_MOST_WAITING = 10_000
_MOST_WAITING_FOR_MORE = 16
"""Calls after which arrays and videos, which take memory, are left out."""
_SECONDS_TO_END: dict[Outcome, float] = {"finished": 60.0, "stopped": 10.0}

Call = Callable[[Logger], None]


class Loggers:
    """All of a run's, each on a thread of its own: one that is slow or hangs holds up nobody, and
    one that raises is left out from then on.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Logger]]) -> None:
        """They are made by their threads; `failures` has what those raised that could not be."""
        threads = {name: _LoggerThread(name, make) for name, make in makers.items()}
        failures = {name: thread.wait_until_made() for name, thread in threads.items()}
        self.failures = {name: error for name, error in failures.items() if error is not None}
        self._threads = [thread for name, thread in threads.items() if name not in self.failures]
        self._outcome: Outcome = "stopped"

    def scalars(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """See `Logger`. What is of single ranks is left out: a curve for each of a thousand helps
        nobody. The closing evaluation's make it a run that has finished.
        """
        chosen = {name: value for name, value in metrics.items() if not name.startswith("rank/")}
        self._tell(lambda logger: logger.scalars(env_steps, chosen))
        if "closing/return_mean" in metrics:
            self._outcome = "finished"

    def histograms(self, env_steps: int, values: Mapping[str, np.ndarray]) -> None:
        """See `Logger`; the arrays must not change any more."""
        self._tell(lambda logger: logger.histograms(env_steps, values), _MOST_WAITING_FOR_MORE)

    def video(self, env_steps: int, path: Path) -> None:
        """See `Logger`."""
        self._tell(lambda logger: logger.video(env_steps, path), _MOST_WAITING_FOR_MORE)

    def close(self) -> None:
        """See `Logger`. All have a minute together, of a run that may go on ten seconds; who takes
        longer is left alone.
        """
        for thread in self._threads:
            thread.tell_to_end(self._outcome)
        seconds = _SECONDS_TO_END[self._outcome]
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            if not thread.has_ended_by(deadline):
                thread.leave_out(f"it has not ended after {seconds:.0f} s")
        self._threads = []

    def _tell(self, call: Call, most_waiting: int | None = None) -> None:
        for thread in self._threads:
            thread.tell(call, most_waiting)


class _LoggerThread:
    """Makes one logger and calls it, in order."""

    def __init__(self, name: str, make: Callable[[], Logger]) -> None:
        self._name = name
        self._make = make
        self._calls: queue.Queue[Call | None] = queue.Queue(_MOST_WAITING)
        self._made: queue.Queue[BaseException | None] = queue.Queue(1)
        self._outcome: Outcome = "stopped"
        self._is_left_out = False
        self._thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)
        self._thread.start()

    def wait_until_made(self) -> BaseException | None:
        """What making it raised, if anything."""
        return self._made.get()

    def tell(self, call: Call, most_waiting: int | None) -> None:
        """Soon; not where so many wait already."""
        if self._is_left_out or (most_waiting and self._calls.qsize() > most_waiting):
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self.leave_out(f"{_MOST_WAITING} records wait for it")

    def tell_to_end(self, outcome: Outcome) -> None:
        """When it has been told all."""
        self._outcome = outcome
        with contextlib.suppress(queue.Full):  # it hangs
            self._calls.put_nowait(None)

    def has_ended_by(self, deadline: float) -> bool:
        """Waits for it until then."""
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        return not self._thread.is_alive()

    def leave_out(self, reason: str) -> None:
        """It is told nothing more."""
        if not self._is_left_out:
            said = f"hvd-dqn: nothing more for {self._name}: {reason}"
            print(said, file=sys.stderr, flush=True)
        self._is_left_out = True

    def _work(self) -> None:
        try:
            logger = self._make()
        except BaseException as error:
            self._made.put(error)
            return
        self._made.put(None)
        while not self._is_left_out and (call := self._calls.get()) is not None:
            try:
                call(logger)
            except BaseException as error:  # a curve is not worth a run
                self.leave_out(typed_line(error))
        try:
            logger.close("stopped" if self._is_left_out else self._outcome)
        except BaseException as error:
            self.leave_out(typed_line(error))


def open_loggers(names: Sequence[str], run: LoggedRun) -> Loggers:
    """Those of `logging.loggers`. `UserError` where one cannot be had at the beginning of a run;
    one that goes on does so without it.
    """
    loggers = Loggers({name: functools.partial(_class_of(name), run) for name in names})
    for name, error in loggers.failures.items():
        if run.env_steps == 0:
            loggers.close()
            raise UserError(
                f"logging.loggers: {name} cannot begin: {typed_line(error)}",
                "mend that, or leave it out",
            ) from error
        told = f"hvd-dqn: going on without {name}: {typed_line(error)}"
        print(told, file=sys.stderr, flush=True)
    return loggers


def require_loggers(names: Sequence[str]) -> None:
    """`UserError` where one cannot be imported; writes nothing."""
    for name in names:
        _class_of(name)


def _class_of(name: str) -> Callable[[LoggedRun], Logger]:
    path, kind = _KNOWN.get(name) or name.split(":", 1)
    told = f"logging.loggers: {name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        extra = f"pip install 'hvd_dqn[{name}]', or " if name in _KNOWN else ""
        raise UserError(
            f"{told} needs the module {error.name!r}, which is not here", f"{extra}leave it out"
        ) from error
    except Exception as error:  # another's code may raise anything
        raise UserError(f"{told} cannot be imported: {typed_line(error)}") from error
    if not hasattr(module, kind):
        raise UserError(f"{told}: the module has no {kind!r}")
    made: Callable[[LoggedRun], Logger] = getattr(module, kind)
    return made
