"""The loggers of a run: found by name, opened, and called on one thread."""

from __future__ import annotations

import functools
import importlib
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hvd_dqn.common.errors import UserError, typed_line
from hvd_dqn.config.running import LOGGERS
from hvd_dqn.reporting.loggers.logger import LoggedRun, Logger, Outcome

_OPEN_SECONDS = 120.0
"""Longer than wandb's own limit of 90 s, whose error says more."""
_CLOSE_SECONDS: dict[Outcome, float] = {"finished": 60.0, "stopped": 10.0}
_MAX_PENDING = 10_000
_MAX_PENDING_ARRAYS = 16
"""Arrays and videos take memory: they are dropped if more calls than this are pending."""


class Loggers:
    """All loggers of a run, called in order on one thread: a slow logger delays the others, but
    never the training.

    A logger that raises is closed and gets no more calls; its error is printed as one line.
    """

    def __init__(
        self, makers: Mapping[str, Callable[[], Logger]], *, required: bool = True
    ) -> None:
        """Open a logger per entry of `makers`, for up to two minutes in total.

        Raises `UserError` if one fails or is not open by then. With `required=False`, prints a line
        instead; a logger that opens later still gets all records.
        """
        self._calls: queue.SimpleQueue[Callable[[Logger], None] | None] = queue.SimpleQueue()
        self._loggers: dict[str, Logger] = {}
        self._current = ""  # the logger that the thread is opening, calling or closing
        self._outcome: Outcome = "stopped"
        self._misses_records = False
        failed: list[tuple[str, BaseException]] = []

        def fail(name: str, error: BaseException) -> None:
            if required:
                failed.append((name, error))
            else:
                _warn(f"continuing without {name}: {typed_line(error)}")

        opened = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(makers, opened, fail), name="loggers", daemon=True
        )
        self._thread.start()
        if not opened.wait(_OPEN_SECONDS):
            fail(self._current, TimeoutError(f"not open after {_OPEN_SECONDS:.0f} s"))
        if failed:
            name, error = failed[0]
            self.close()
            raise UserError(
                f"logging.loggers: {name} cannot be opened: {typed_line(error)}",
                "solve that, or run without this logger",
            ) from error

    def scalars(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """See `Logger.scalars`. Metrics of single ranks (`rank/…`) are omitted: a curve for each of
        a thousand ranks helps nobody. The metrics of the final evaluation mark the run as finished.
        """
        chosen = {name: value for name, value in metrics.items() if not name.startswith("rank/")}
        if "closing/return_mean" in metrics:
            self._outcome = "finished"
        if self._calls.qsize() < _MAX_PENDING:
            self._calls.put(lambda logger: logger.scalars(env_steps, chosen))
        elif not self._misses_records:
            self._misses_records = True
            _warn(f"{self._current} is {_MAX_PENDING} records behind: the loggers miss some")

    def histograms(self, env_steps: int, values: Mapping[str, np.ndarray]) -> None:
        """See `Logger.histograms`. The caller must not change the arrays afterwards."""
        if self._calls.qsize() <= _MAX_PENDING_ARRAYS:
            self._calls.put(lambda logger: logger.histograms(env_steps, values))

    def video(self, env_steps: int, path: Path) -> None:
        """See `Logger.video`."""
        if self._calls.qsize() <= _MAX_PENDING_ARRAYS:
            self._calls.put(lambda logger: logger.video(env_steps, path))

    def close(self) -> None:
        """Make all pending calls and close the loggers, for up to 60 s in total, or 10 s if the run
        did not finish; then leave the thread behind.
        """
        self._calls.put(None)
        seconds = _CLOSE_SECONDS[self._outcome]
        self._thread.join(seconds)
        if self._thread.is_alive():
            _warn(f"{self._current} is not closed after {seconds:.0f} s: its data is incomplete")

    def _work(
        self,
        makers: Mapping[str, Callable[[], Logger]],
        opened: threading.Event,
        fail: Callable[[str, BaseException], None],
    ) -> None:
        for name, make in makers.items():
            self._current = name
            try:
                self._loggers[name] = make()
            except BaseException as error:
                fail(name, error)
        opened.set()
        while (call := self._calls.get()) is not None:
            for name, logger in list(self._loggers.items()):
                self._current = name
                try:
                    call(logger)
                except BaseException as error:  # a curve is not worth a run
                    _warn(f"no more records for {name}: {typed_line(error)}")
                    self._close(name, "stopped")
        for name in list(self._loggers):
            self._close(name, self._outcome)

    def _close(self, name: str, outcome: Outcome) -> None:
        self._current = name
        try:
            self._loggers.pop(name).close(outcome)
        except BaseException as error:
            _warn(f"{name} could not be closed: {typed_line(error)}")


def open_loggers(names: Sequence[str], run: LoggedRun, *, required: bool = True) -> Loggers:
    """Open the loggers of `logging.loggers`. Raises `UserError` if one that is `required` cannot be
    opened; otherwise the run continues without it.
    """
    makers = {name: functools.partial(_find(name), run) for name in names}
    return Loggers(makers, required=required)


def require_loggers(names: Sequence[str]) -> None:
    """Raise `UserError` if one of the loggers cannot be imported. Writes nothing."""
    for name in names:
        _find(name)


def _find(name: str) -> Callable[[LoggedRun], Logger]:
    path, kind = LOGGERS.get(name, name).split(":", 1)
    option = f"logging.loggers: {name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        extra = f"pip install 'hvd_dqn[{name}]', or " if name in LOGGERS else ""
        raise UserError(
            f"{option} needs the module {error.name!r}, which is not installed",
            f"{extra}run without this logger",
        ) from error
    except Exception as error:  # a user's module may raise anything
        raise UserError(f"{option} cannot be imported: {typed_line(error)}") from error
    if not hasattr(module, kind):
        raise UserError(f"{option}: module {path!r} has no class {kind!r}")
    logger: Callable[[LoggedRun], Logger] = getattr(module, kind)
    return logger


def _warn(text: str) -> None:
    print(f"hvd-dqn: {text}", file=sys.stderr, flush=True)
