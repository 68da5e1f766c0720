"""A process ends with its exit code, whatever is left running in it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launching import clean_environment, launch

LEFT = {
    "nothing": "",
    "a thread": "threading.Thread(target=time.sleep, args=(1e5,), name='client').start()",
    "a process": "multiprocessing.Process(target=time.sleep, args=(1e5,), name='server').start()",
    "an idle executor": "executor = ThreadPoolExecutor(); executor.submit(int).result()",
    "a thread that soon ends": "threading.Thread(target=time.sleep, args=(1,)).start()",
    "a daemon": "threading.Thread(target=time.sleep, args=(1e5,), daemon=True).start()",
}
NAMED = {"a thread": "the thread 'client'", "a process": "the process 'server' ("}
SCRIPT = """
import atexit, multiprocessing, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from hvd_dqn.common.ending import end_process
atexit.register(print, "closed")
{}
end_process(75)
"""


@pytest.mark.parametrize("name", LEFT)
def test_a_process_ends_with_its_code(name):
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(LEFT[name])],
        capture_output=True,
        text=True,
        env=clean_environment(PYTHONPATH=str(Path.cwd())),
        timeout=100,
    )
    assert done.returncode == 75
    assert done.stdout == "closed\n"
    if name in NAMED:
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"hvd-dqn: ending without waiting for {NAMED[name]}")
    else:
        assert done.stderr == ""
    assert name in NAMED or time.monotonic() - began < 60


RANK = """
import threading, time
from hvd_dqn.common.ending import end_process
from hvd_dqn.distributed.connect import connect
comm = connect("mpi")
if comm.is_root:
    threading.Thread(target=time.sleep, args=(1e5,), name="client").start()
comm.close()
end_process(0)
"""


@pytest.mark.multirank
def test_a_rank_that_ends_without_its_thread_ends_the_job_well(tmp_path):
    (tmp_path / "script.py").write_text(RANK)
    done = launch([str(tmp_path / "script.py")], PYTHONPATH=str(Path.cwd()))
    assert done.code == 0, done.output
    assert done.output.strip().endswith("ending without waiting for the thread 'client'")
