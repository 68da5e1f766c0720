"""The scripts that the image runs, without the image; tests/container/try.sh builds it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hvd_dqn.common.structs import Progress
from hvd_dqn.config import Config
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.watchdog import Watchdog

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "docker"
LIMIT = Config().distributed.hang_seconds


def check(runs):
    """The health check's exit code and message, by the command of the Dockerfile."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    command = re.search(r"^HEALTHCHECK .*\n *CMD (\[.*\])$", dockerfile, re.MULTILINE)
    python, *options, script = json.loads(command[1])
    assert (python, Path(script).name) == ("python", "healthcheck.py")
    done = subprocess.run(
        [sys.executable, *options, SCRIPTS / "healthcheck.py", runs],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr.strip()


def heartbeat(run, rank, *, age=0.0, **changes):
    """Write a rank's heartbeat as the watchdog does, then change what it says."""
    directory = RunDirectory(run)
    directory.heartbeats.mkdir(parents=True, exist_ok=True)
    comm = LocalCommunicator()
    comm.rank = rank
    watchdog = Watchdog(comm, Progress(), directory, limit=LIMIT)
    watchdog._write()
    file = directory.heartbeats / f"rank-{rank}.json"
    beat = watchdog._read(rank)._replace(**changes)
    file.write_text(json.dumps(beat))
    os.utime(file, (time.time() - age,) * 2)


def test_a_container_without_an_active_run_is_healthy(tmp_path):
    assert check(tmp_path / "none") == (0, "")
    (tmp_path / "a" / "heartbeats").mkdir(parents=True)
    assert check(tmp_path) == (0, "")


@pytest.mark.parametrize("place", ["a", "sweep/seed-0"])
def test_a_silent_rank_is_unhealthy(tmp_path, place):
    run = tmp_path / place
    heartbeat(run, 0)
    heartbeat(run, 1, age=LIMIT - 20)
    assert check(tmp_path) == (0, "")
    heartbeat(run, 1, age=LIMIT + 20)
    code, said = check(tmp_path)
    assert code == 1
    assert f"{run}: rank-1 has written no heartbeat for" in said


def test_the_limit_is_that_of_the_run(tmp_path):
    heartbeat(tmp_path / "a", 0, age=LIMIT + 20)
    config = Config().changed({"distributed.hang_seconds": 2 * LIMIT})
    RunDirectory(tmp_path / "a").config_file.write_text(config.to_json())
    assert check(tmp_path) == (0, "")


def test_other_runs_hosts_and_processes_do_not_count(tmp_path):
    with subprocess.Popen(["true"]) as process:
        process.wait()
    heartbeat(tmp_path / "killed", 0, age=LIMIT + 20, pid=process.pid)
    heartbeat(tmp_path / "killed", 1, age=LIMIT + 20, host="elsewhere")
    assert check(tmp_path) == (0, "")
    heartbeat(tmp_path / "before", 0, age=LIMIT + 40)
    assert check(tmp_path) == (0, "")


def entrypoint(tmp_path, *words, **environment):
    """What the entry point prints with a `hvd-dqn` that prints its arguments."""
    program = tmp_path / "hvd-dqn"
    program.write_text('#!/bin/sh\necho hvd-dqn "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        [SCRIPTS / "entrypoint.sh", *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PATH": f"{tmp_path}:{os.defpath}", "TMPDIR": str(tmp_path), **environment},
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("words", "ran"),
    [
        (["hvd-dqn", "train", "a b"], "hvd-dqn train a b"),
        (["train", "cartpole"], "hvd-dqn train cartpole"),
        (["--help"], "hvd-dqn --help"),
        (["echo", "hello"], "hello"),
    ],
)
def test_the_entry_point_completes_commands(tmp_path, words, ran):
    assert entrypoint(tmp_path, *words) == ran


def test_every_start_has_its_own_directory_for_open_mpi(tmp_path):
    name = "PRTE_MCA_prte_local_tmpdir_base"
    show = ["sh", "-c", f'echo "${name}"']
    first, second = (Path(entrypoint(tmp_path, *show)) for _ in range(2))
    assert first != second
    assert first.parent == second.parent == tmp_path
    assert first.is_dir()
    assert entrypoint(tmp_path, *show, **{name: "/data"}) == "/data"
    assert entrypoint(tmp_path, *show, PRTE_MCA_prte_tmpdir_base="/data") == ""


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="Debian: shellcheck")
def test_the_scripts_are_well_formed():
    files = [SCRIPTS / "entrypoint.sh", ROOT / "tests/container/try.sh"]
    done = subprocess.run(["shellcheck", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
