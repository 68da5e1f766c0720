"""Requests to stop, made by a person, a scheduler or a time limit."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any, cast

_TO_GROUPS = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP}
"""Signals that Open MPI and terminals send to whole process groups."""
_STOPPING = (signal.SIGTERM, *_TO_GROUPS)


class StopRequest:
    """Whether this rank was asked to stop, and why.

    Within its context, SIGTERM, SIGUSR1, SIGUSR2, a first SIGINT and, unless the process ignores it
    (nohup), SIGHUP count as requests. A second SIGINT calls `on_second_interrupt`. Signals are read
    by a thread, since Python's handlers do not run while the main thread waits inside a library.
    """

    def __init__(self, on_second_interrupt: Callable[[], None] = lambda: None) -> None:
        self._deadline: float | None = None
        self.on_second_interrupt = on_second_interrupt
        self._signal: str | None = None
        self._requested: str | None = None
        self._is_settled = False
        self._interrupts = 0
        self._before: dict[int, Any] = {}
        self._handler = self._handle
        self._raising: BaseException | None = None
        self._lock = threading.Lock()
        self.taken: set[str] = set()
        """Signals that `reclaim` has taken back from other code."""

    @property
    def reason(self) -> str | None:
        """What requested the stop: a signal's name, the time limit, or the text given to `request`;
        `None` if nothing did.
        """
        if self._signal is not None:
            return self._signal
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "the time limit"
        return self._requested

    @property
    def is_by_callback(self) -> bool:
        """Whether `request` alone requested the stop."""
        return self._requested is not None and self.reason is self._requested

    def request(self, reason: str) -> None:
        """Request a stop from within the program: a callback has seen enough."""
        if not self._is_settled:
            self._requested = self._requested or reason

    def settle(self) -> None:
        """Fulfil the callbacks' request: from now on, only signals and the time limit count."""
        self._requested, self._is_settled = None, True

    def request_after(self, seconds: float) -> None:
        """Request a stop `seconds` from now."""
        self._deadline = time.monotonic() + seconds

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.reason is not None

    def reclaim(self) -> None:
        """Take back the signals whose handlers other code has replaced since, such as an
        environment or a package that it imports. Costs microseconds; call it on the main thread.
        """
        if not self._before or threading.current_thread() is not threading.main_thread():
            return
        for number in self._before:
            if signal.getsignal(number) != self._handler:
                signal.signal(number, self._handler)
                self.taken.add(signal.Signals(number).name)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)

    def interrupt(self, error: BaseException) -> None:
        """Raise `error` in the main thread, as soon as it runs Python code again. Call it on
        another thread, which waits for that.
        """
        self._raising = error
        while self._interrupt_main():
            time.sleep(0.05)

    def _interrupt_main(self) -> bool:
        """Interrupt a system call of the main thread, unless the error was raised. Once is not
        enough: the thread may be about to enter the call.
        """
        with self._lock:
            if self._raising is not None:
                signal.pthread_kill(cast(int, threading.main_thread().ident), signal.SIGINT)
            return self._raising is not None

    def ignore_signals(self) -> None:
        """Ignore these signals from now on, also after this context ends."""
        if self._before:
            self._before = dict.fromkeys(self._before, signal.SIG_IGN)
            ignore_signals()

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._handle_signals()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._before:
            return
        with self._lock:
            self._raising = None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._writing)  # ends the thread

    def _handle_signals(self) -> None:
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        numbers = [n for n in _STOPPING if n != signal.SIGHUP or not _is_ignored(n)]
        self._before = {number: signal.signal(number, self._handler) for number in numbers}
        threading.Thread(
            target=self._read_signals, args=(reading,), name="signals", daemon=True
        ).start()

    def _read_signals(self, reading: int) -> None:
        while numbers := os.read(reading, 64):
            for number in numbers:
                if number not in _STOPPING:
                    continue
                self._signal = self._signal or signal.Signals(number).name
                self._interrupts += number == signal.SIGINT
                if self._interrupts == 2:
                    self.on_second_interrupt()
        os.close(reading)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Python's own handler. The thread reads the signals; this one raises for `interrupt`."""
        error, self._raising = self._raising, None
        if error is not None:
            raise error


@contextmanager
def shield_children() -> Iterator[None]:
    """Within this context, new processes do not receive the signals that are sent to the whole
    process group: they continue until this process ends them. SIGTERM still ends them.
    """
    resource_tracker.ensure_running()  # if started later, it would unblock SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_GROUPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """Ignore the signals that request a stop, for the rest of this process. Call it before exiting
    with an error: a launcher that ends the other ranks once the first has gone must not turn their
    exit codes into those of a signal.
    """
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)


def leave_stopping_to_others() -> None:
    """Do nothing on the signals that request a stop, for the rest of this process: another rank
    decides when this one ends. Unlike ignored signals, they reach the programs that it starts.
    """
    for number in _STOPPING:
        signal.signal(number, lambda number, frame: None)


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN
