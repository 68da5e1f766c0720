"""Loggers by their names, and several as one."""

from __future__ import annotations

import importlib
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hvd_dqn.errors import UserError
from hvd_dqn.loggers.logger import LoggedRun, Logger, Outcome

_KNOWN = {
    "tensorboard": ("hvd_dqn.loggers.tensorboard", "TensorBoard"),
    "wandb": ("hvd_dqn.loggers.wandb", "WeightsAndBiases"),
    "mlflow": ("hvd_dqn.loggers.mlflow", "MLflow"),
}
_MOST_WAITING = 10_000
_SECONDS_TO_END = 60.0


class Loggers:
    """All of a run's, each on a thread of its own: one that is slow or hangs holds up nobody, and
    one that raises is left out from then on.
    """

    def __init__(self, loggers: Mapping[str, Logger]) -> None:
        self._threads = [_LoggerThread(name, logger) for name, logger in loggers.items()]
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
        self._tell(lambda logger: logger.histograms(env_steps, values))

    def video(self, env_steps: int, path: Path) -> None:
        """See `Logger`."""
        self._tell(lambda logger: logger.video(env_steps, path))

    def close(self) -> None:
        """See `Logger`; those that take longer than a minute are left alone."""
        outcome = self._outcome
        self._tell(lambda logger: logger.close(outcome))
        for thread in self._threads:
            thread.end()

    def _tell(self, call: Callable[[Logger], None]) -> None:
        for thread in self._threads:
            thread.tell(call)


class _LoggerThread:
    """Calls one logger, in order."""

    def __init__(self, name: str, logger: Logger) -> None:
        self._name = name
        self._logger = logger
        self._calls: queue.Queue[Callable[[Logger], None] | None] = queue.Queue(_MOST_WAITING)
        self._is_left_out = False
        self._thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)
        self._thread.start()

    def tell(self, call: Callable[[Logger], None]) -> None:
        """Soon."""
        try:
            if not self._is_left_out:
                self._calls.put_nowait(call)
        except queue.Full:
            self._leave_out(f"{_MOST_WAITING} records wait for it")

    def end(self) -> None:
        """When it has been told all."""
        try:
            self._calls.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(_SECONDS_TO_END)
        if self._thread.is_alive():
            self._leave_out(f"it has not ended after {_SECONDS_TO_END:.0f} s")

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._is_left_out:
                continue
            try:
                call(self._logger)
            except Exception as error:  # a curve is not worth a run
                self._leave_out(f"{type(error).__name__}: {error}")

    def _leave_out(self, reason: str) -> None:
        self._is_left_out = True
        print(f"hvd-dqn: nothing more for {self._name}: {reason}", file=sys.stderr, flush=True)


def open_loggers(names: Sequence[str], run: LoggedRun) -> Loggers:
    """Those of `logging.loggers`. `UserError` where one cannot be had."""
    loggers: dict[str, Logger] = {}
    try:
        for name in names:
            loggers[name] = _open(name, run)
    except UserError:
        Loggers(loggers).close()
        raise
    return Loggers(loggers)


def require_loggers(names: Sequence[str]) -> None:
    """`UserError` where one cannot be imported; writes nothing."""
    for name in names:
        _class_of(name)


def _open(name: str, run: LoggedRun) -> Logger:
    make = _class_of(name)
    try:
        return make(run)
    except Exception as error:  # the libraries raise what they like
        raise UserError(
            f"logging.loggers: {name} cannot begin: {type(error).__name__}: "
            f"{' '.join(str(error).split())}",
            "mend that, or leave it out",
        ) from error


def _class_of(name: str) -> Callable[[LoggedRun], Logger]:
    module, kind = _KNOWN.get(name) or name.split(":", 1)
    try:
        made: Callable[[LoggedRun], Logger] = getattr(importlib.import_module(module), kind)
    except ModuleNotFoundError as error:
        extra = f"pip install 'hvd_dqn[{name}]', or " if name in _KNOWN else ""
        raise UserError(
            f"logging.loggers: {name} needs the module {error.name!r}, which is not here",
            f"{extra}leave it out",
        ) from error
    except AttributeError as error:
        raise UserError(f"logging.loggers: {module} has no {kind!r}") from error
    except (ImportError, SyntaxError, ValueError) as error:
        raise UserError(
            f"logging.loggers: {name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return made
