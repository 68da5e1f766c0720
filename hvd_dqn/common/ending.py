"""The end of a command's process, whatever the user's code has left running in it."""

from __future__ import annotations

import atexit
import concurrent.futures.thread
import contextlib
import multiprocessing
import os
import sys
import threading
import time
from typing import NoReturn

_SECONDS_TO_END = 5.0


def end_process(code: int) -> NoReturn:
    """Exit with `code`. Threads and processes that other code left get five seconds to end, for
    which Python alone would wait forever. Then the process ends without them, and says which.
    """
    left = _left_running()
    if not left:
        sys.exit(code)
    print(f"hvd-dqn: ending without waiting for {', '.join(left)}", file=sys.stderr, flush=True)
    for child in multiprocessing.active_children():
        child.kill()  # Python's exit functions wait for them
    unless_they_hang = threading.Timer(_SECONDS_TO_END, os._exit, [code])
    unless_they_hang.daemon = True
    unless_they_hang.start()
    atexit._run_exitfuncs()  # among them MPI's
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _left_running() -> list[str]:
    """Wait for the threads and processes that Python waits for when it exits. Return the names of
    those that have not ended after `_SECONDS_TO_END`.
    """
    threads = [
        thread
        for thread in threading.enumerate()
        if thread is not threading.current_thread() and not thread.daemon
    ]
    children = [child for child in multiprocessing.active_children() if not child.daemon]
    if not threads and not children:
        return []
    # The idle threads of executors end only on request, for which they are not waited for here.
    executors = threading.Thread(target=concurrent.futures.thread._python_exit, daemon=True)
    executors.start()
    deadline = time.monotonic() + _SECONDS_TO_END
    for join in [one.join for one in threads] + [one.join for one in children]:
        join(max(0.0, deadline - time.monotonic()))
    names = [f"the thread {thread.name!r}" for thread in threads if thread.is_alive()]
    return names + [f"the process {c.name!r} ({c.pid})" for c in children if c.is_alive()]
