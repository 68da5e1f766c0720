"""What horovodrun passes on to its mpirun, of which a shell stands in for the signals alone."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launching import clean_environment, wait_until

PROGRAM = """
import os, sys
from hvd_dqn.tools.launching.forwarding import run
sys.exit(run(["sh", "-c", sys.argv[1]], os.environ))
"""
LOOP = "echo $$; while :; do sleep 0.05; done"
STOPS = f"trap 'exit 75' USR1; {LOOP}"


@contextlib.contextmanager
def forwarding(script, program=PROGRAM):
    """Yield the process, whose standard error nobody reads, and the id of what it runs."""
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [sys.executable, "-c", program, script],
        env=clean_environment(PYTHONPATH=str(Path.cwd())),
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
        start_new_session=True,
    )
    os.close(writing)
    child = int(process.stdout.readline())
    try:
        yield process, child
    finally:
        for pid in (process.pid, child):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def has_ended(pid):
    return not Path(f"/proc/{pid}").exists() or state_of(pid) == "Z"


@pytest.mark.parametrize(
    ("script", "numbers", "code"),
    [
        (STOPS, [signal.SIGINT], 75),
        # a terminal that closes and the shell in it both send SIGHUP
        (f"trap 'sleep 0.5; exit 75' USR1; {LOOP}", [signal.SIGHUP, signal.SIGHUP], 75),
        (f"trap '' USR1; {LOOP}", [signal.SIGTERM, signal.SIGTERM], 143),
        (f"trap 'exit 3' USR2; {LOOP}", [signal.SIGUSR2], 3),
    ],
)
def test_requests_reach_the_launcher_and_its_exit_code_comes_back(script, numbers, code):
    with forwarding(script) as (process, _):
        for number in numbers:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        assert process.wait(20) == code


def test_a_suspension_includes_the_launcher():
    with forwarding(STOPS) as (process, child):
        process.send_signal(signal.SIGTSTP)
        wait_until(lambda: state_of(process.pid) == state_of(child) == "T", "both to stop")
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: state_of(child) != "T", "the launcher to continue")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 75


EARLY = """
import os, signal, subprocess, sys
from hvd_dqn.tools.launching import forwarding
setpgid = os.setpgid
def interrupted(*words):  # as if the terminal sent Ctrl-C before the child has a group of its own
    os.kill(os.getppid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    setpgid(*words)
os.setpgid = interrupted
subprocess.Popen.send_signal = lambda self, number: print(signal.Signals(number).name, flush=True)
sys.exit(forwarding.run(["sleep", "1"], os.environ))
"""


def test_one_ctrl_c_while_the_launcher_starts_is_one_request():
    done = subprocess.run(
        [sys.executable, "-c", EARLY],
        env=clean_environment(PYTHONPATH=str(Path.cwd())),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        start_new_session=True,
    )
    assert done.stdout.split() == ["SIGUSR1"]


def test_the_launcher_does_not_outlive_a_process_that_is_killed():
    with forwarding(STOPS) as (process, child):
        process.kill()
        process.wait()
        wait_until(lambda: has_ended(child), "the launcher to end")
        assert has_ended(child)
