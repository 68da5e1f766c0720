"""A request to stop, from a person, a scheduler or the clock."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

_TO_GROUPS = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT}
"""Open MPI and terminals send these to whole process groups."""
_STOPPING = (signal.SIGTERM, *_TO_GROUPS)


class StopRequest:
    """Whether this rank was asked to stop, and why.

    Within it, SIGTERM, SIGUSR1, SIGUSR2 and a first SIGINT are requests. A thread hears them, as
    the main one may be waiting within a library where Python's handlers do not run; a second SIGINT
    calls `at_once` there.
    """

    def __init__(self, at_once: Callable[[], None] = lambda: None) -> None:
        self._deadline: float | None = None
        self.at_once = at_once
        self._signal: str | None = None
        self._interrupts = 0
        self._before: dict[int, Any] = {}

    @property
    def reason(self) -> str | None:
        """What asked for it; `None` where nothing has."""
        if self._signal is not None:
            return self._signal
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "the time limit"
        return None

    def ask(self, reason: str) -> None:
        """From within the program."""
        self._signal = self._signal or reason

    def after(self, seconds: float) -> None:
        """Ask when this much time has passed from now."""
        self._deadline = time.monotonic() + seconds

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.reason is not None

    def ignore_from_now_on(self) -> None:
        """See the function of this name; behind this request's end, too."""
        if self._before:
            self._before = dict.fromkeys(self._before, signal.SIG_IGN)
            ignore_from_now_on()

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._before:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._writing)  # ends the thread

    def _listen(self) -> None:
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _noted) for number in _STOPPING}
        threading.Thread(target=self._hear, args=(reading,), name="signals", daemon=True).start()

    def _hear(self, reading: int) -> None:
        while numbers := os.read(reading, 64):
            for number in numbers:
                if number not in _STOPPING:
                    continue
                self._signal = self._signal or signal.Signals(number).name
                self._interrupts += number == signal.SIGINT
                if self._interrupts > 1:
                    self.at_once()
        os.close(reading)


@contextmanager
def kept_from_children() -> Iterator[None]:
    """Processes that are begun within it never hear what asks this one to stop and is sent to its
    whole group: they go on until this one ends them, which SIGTERM still does.
    """
    resource_tracker.ensure_running()  # where it began within, it would let SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_GROUPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_from_now_on() -> None:
    """To the end of this process, which is near: a launcher that ends the others when a first rank
    has gone should not turn their exit code into that of a signal.
    """
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _noted(number: int, frame: FrameType | None) -> None:
    """Python's own handler does nothing: the thread has heard the signal."""
