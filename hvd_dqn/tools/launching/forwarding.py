"""What horovodrun does while mpirun runs the ranks: it passes requests to stop on to them.

Our Horovod calls `run` instead of becoming mpirun itself, which ends its ranks at once on Ctrl-C.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ASKING = (*_ENDING, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run an mpirun until it ends; return its exit code, or 128 + N if signal N ended it.

    SIGINT, SIGTERM and SIGHUP (unless it is ignored, as under nohup) reach the ranks as SIGUSR1,
    which programs of hvd_dqn take as a request to save a checkpoint and stop; a second SIGINT or
    SIGTERM ends the ranks at once. SIGUSR1 and SIGUSR2 are forwarded, and so is a suspension by
    Ctrl-Z. If this process is killed, mpirun ends its ranks.
    """
    libc = ctypes.CDLL(None)
    under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    handled = [number for number in _ASKING if number != signal.SIGHUP or not under_nohup]
    handled += [signal.SIGTSTP, signal.SIGCHLD]

    def settle() -> None:
        signal.set_wakeup_fd(-1)  # the pipe is the parent's
        os.setpgid(0, 0)  # a terminal sends its signals to this process alone
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
        if under_nohup:  # Open MPI would handle SIGHUP although it is ignored
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

    pipe = _signal_pipe(handled)
    signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    process = subprocess.Popen(command, env=environment, preexec_fn=settle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
    asked = False
    while (code := process.poll()) is None:
        number = os.read(pipe, 1)[0]
        if number == signal.SIGTSTP:
            process.send_signal(signal.SIGTSTP)
            os.kill(os.getpid(), signal.SIGSTOP)  # returns when this process is continued
            process.send_signal(signal.SIGCONT)
        elif number in (signal.SIGUSR1, signal.SIGUSR2):
            process.send_signal(number)
        elif number in _ENDING and not asked:
            asked = True
            process.send_signal(signal.SIGUSR1)
            with suppress(OSError):  # the terminal may be gone
                os.write(2, b"horovodrun: asked the ranks to stop; once more ends them\n")
        elif number in (signal.SIGINT, signal.SIGTERM):  # a closed terminal may send two SIGHUPs
            process.terminate()
    return code if code >= 0 else 128 - code


def _signal_pipe(handled: Sequence[int]) -> int:
    """Handle these signals from now on; return a pipe with their numbers, a byte each.

    Python runs a handler between bytecodes: a signal just before a blocking call would have to wait
    until the call returns (Bernstein's self-pipe trick).
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in handled:
        signal.signal(number, lambda number, frame: None)
    return reading
