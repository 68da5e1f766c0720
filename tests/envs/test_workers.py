"""Environments in processes of their own: what they say arrives, and no process is left behind."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs import make_vector_env
from hvd_dqn.envs.interface import EnvironmentFailedError
from tests.launching import clean_environment


def make(what="", num_envs=1, **kwargs):
    config = EnvConfig(
        id="tests.envs.awkward:Odd",
        num_envs=num_envs,
        vectorization="async",
        kwargs=json.dumps({"what": what, **kwargs}),
    )
    return make_vector_env(
        config, num_envs=num_envs, episode_seed=lambda copy, number: number, rank=3
    )


def play(envs, steps):
    envs.reset()
    return [envs.step(np.zeros(envs.num_envs, dtype=np.int64)) for _ in range(steps)]


@pytest.mark.parametrize("what", ["infos", "processes"])
def test_infos_do_not_travel_and_environments_may_start_processes(what):
    envs = make(what)
    try:
        rewards = [float(step.reward[0]) for step in play(envs, 2)]
    finally:
        envs.close()
    assert rewards == [1.0, 1.0]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raise", "SimulatorError: 7: the valve is stuck"),
        ("raise lock", "ValueError: the valve is stuck"),
    ],
)
def test_an_error_arrives_as_text_with_its_traceback(what, said):
    envs = make(what, num_envs=2, only_copy=1, copy="{copy}")
    try:
        with pytest.raises(EnvironmentFailedError) as caught:
            play(envs, 2)
    finally:
        envs.close()
    assert str(caught.value).startswith("copy 1 of rank 3: ")
    assert said in str(caught.value)
    assert "Traceback" in str(caught.value.__cause__)
    assert not multiprocessing.active_children()


def test_what_fails_only_in_a_process_of_its_own_is_told_before_the_run():
    with pytest.raises(UserError, match="OSError: the licence server does not answer"):
        make("fails in a process")
    assert not multiprocessing.active_children()


def test_an_error_while_closing_costs_a_line(capsys):
    envs = make("close")
    play(envs, 1)
    envs.close()
    said = capsys.readouterr().err
    assert "copy 0 of rank 3: close() raised ConnectionError: the server is gone" in said


_ABANDONED = """
import multiprocessing, os, sys, time
from tests.envs.test_workers import make
if __name__ == "__main__":
    envs = make(num_envs=2)
    envs.reset()
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    if sys.argv[1] == "wait":
        time.sleep(100)
"""


@pytest.mark.parametrize("how", ["killed", "leaves"])
def test_processes_end_with_the_one_that_started_them(tmp_path, how):
    script = tmp_path / "abandons.py"
    script.write_text(_ABANDONED)
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, str(script), "wait" if how == "killed" else "exit"],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment() | {"PYTHONPATH": root},
    ) as started:
        pids = [int(word) for word in started.stdout.readline().split()]
        if how == "killed":
            os.kill(started.pid, signal.SIGKILL)
        started.wait(60)
    assert len(pids) == 2
    deadline = time.monotonic() + 60
    while any(map(_is_alive, pids)):
        assert time.monotonic() < deadline, "a process was left behind"
        time.sleep(0.05)


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
