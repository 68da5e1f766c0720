"""`hvd-dqn launch`: restarts, stops with a checkpoint, lost hosts."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

import hvd_dqn as hvd_dqn_package
from hvd_dqn.checkpoint.manifest import step_directory
from hvd_dqn.common.errors import UserError
from hvd_dqn.tools.launching.launchers import (
    Host,
    _goes_by_plain_ssh,
    environment_of_a_launch,
    parse_hosts,
    this_program,
)
from hvd_dqn.tools.launching.restarts import _resuming, option
from tests.checkpoints import assert_equal, everything
from tests.distributed.test_faults import config_file, faulty, train
from tests.launching import hvd_dqn, started, wait_until


def test_hosts():
    assert parse_hosts("a:4,b") == [Host("a", 4), Host("b", 1)]
    assert parse_hosts("") == []
    for text in ("a:x", ":3", "a:0"):
        with pytest.raises(UserError, match="is not HOST:SLOTS"):
            parse_hosts(text)


def test_hosts_are_tested_only_if_the_launcher_uses_plain_ssh(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for program in ("horovodrun", "mpirun --bind-to core"):
        assert _goes_by_plain_ssh(program.split())
    for program in ("horovodrun -p 2222", "mpirun --mca plm_ssh_args -p2222"):
        assert not _goes_by_plain_ssh(program.split())
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert not _goes_by_plain_ssh(["mpirun"])
    assert _goes_by_plain_ssh(["horovodrun"])


def test_another_attempt_resumes_from_the_checkpoint_of_the_first(tmp_path):
    run_dir = tmp_path / "run"
    never = ["train", "cartpole", f"--run-dir={run_dir}", "--resume", "never"]
    assert option(never, "run-dir") == str(run_dir)
    assert _resuming(never)[-2:] == ["--resume", "auto"]
    named = ["train", "cartpole", "--run_dir", str(run_dir), "--resume", "old/step-1"]
    assert _resuming(named) == named, "it has no checkpoint yet"
    whole = run_dir / "checkpoints" / step_directory(2)
    whole.mkdir(parents=True)
    (whole / "manifest.json").write_text("{}")
    assert _resuming(named) == [*named, "--resume", "auto"]
    elsewhere = [*named[:2], "--checkpoint.directory", str(tmp_path / "kept"), *named[2:]]
    assert _resuming(elsewhere) == elsewhere
    (run_dir / "checkpoints").rename(tmp_path / "kept")
    assert _resuming(elsewhere) == [*elsewhere, "--resume", "auto"]
    assert _resuming(["train", "cartpole"]) == ["train", "cartpole"]


def test_a_session_directory_set_by_the_user_is_kept(monkeypatch, tmp_path):
    names = ("PRTE_MCA_prte_tmpdir_base", "PRTE_MCA_prte_local_tmpdir_base")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    with environment_of_a_launch(["mpirun"]) as environment:
        assert Path(environment[names[1]]).is_dir()
    assert not Path(environment[names[1]]).exists()
    with environment_of_a_launch(["mpirun", "--prtemca", "prte_tmpdir_base", "/"]) as environment:
        assert not environment.keys() & set(names)
    for name in names:
        monkeypatch.setenv(name, "/scratch")
        with environment_of_a_launch(["mpirun"]) as environment:
            assert {environment[other] for other in names if other in environment} == {"/scratch"}
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with environment_of_a_launch(["srun"]) as environment:
        assert not environment.keys() & set(names), "mpirun reports that it cannot write"


def test_ranks_run_the_package_that_starts_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    by_name = [sys.executable, "-m", "hvd_dqn"]
    (tmp_path / "hvd_dqn").mkdir()
    assert this_program() == by_name, "there is no script"
    script = tmp_path / "bin" / "hvd-dqn"
    script.parent.mkdir()
    script.touch()
    assert this_program() == [str(script)]
    monkeypatch.chdir(Path(hvd_dqn_package.__file__).parents[1])
    assert this_program() == by_name


@pytest.mark.multirank
def test_a_killed_rank_does_not_change_the_result(tmp_path):
    config, run_dir = config_file(tmp_path, total_env_steps=4800), tmp_path / "run"
    command = ["train", "--config", str(config), "--run-dir", str(run_dir)]
    arguments = ["-m", "hvd_dqn", "launch", "-np", "2", "--max-restarts", "2", "--", *command]
    with started(arguments, launcher="none") as job:
        beat = run_dir / "heartbeats" / "rank-1.json"
        wait_until(lambda: list(run_dir.glob("checkpoints/step-*/manifest.json")))
        os.kill(json.loads(beat.read_text())[1], signal.SIGKILL)
        done = job.wait()
    assert done.code == 0, done.output
    (line,) = done.lines("hvd-dqn launch: ")
    assert "attempt 1 on 2 ranks" in line
    assert "rank 1 " in line
    assert "signal 9" in line
    assert "resuming from" in done.output
    assert train(config, tmp_path / "alone").code == 0
    assert_equal(everything(run_dir / "checkpoints"), everything(tmp_path / "alone/checkpoints"))


@pytest.mark.multirank
@pytest.mark.parametrize(
    ("launcher", "number"), [("horovodrun", signal.SIGINT), ("mpirun", signal.SIGTERM)]
)
def test_signals_that_kill_a_launcher_stop_with_a_checkpoint(tmp_path, launcher, number):
    config, run_dir = config_file(tmp_path, total_env_steps=200_000), tmp_path / "run"
    command = ["train", "--config", str(config), "--run-dir", str(run_dir)]
    how = "mpirun --allow-run-as-root --oversubscribe" if launcher == "mpirun" else launcher
    arguments = ["-m", "hvd_dqn", "launch", "-np", "2", "--launcher", how, "--", *command]
    with started(arguments, launcher="none") as job:
        wait_until(lambda: (run_dir / "metrics.jsonl").exists())
        time.sleep(1)
        os.kill(job.process.pid, number)
        done = job.wait(20)
        assert job.members() == []
    assert done.code == 75, done.output
    assert "after saving a checkpoint" in done.output


@pytest.mark.multirank
def test_the_session_directory_of_a_killed_mpirun_does_no_harm(tmp_path):
    script = tmp_path / "mpirun-of-a-dead-ones-number"
    script.write_text(
        """#!/bin/sh
mkdir -p "$TMPDIR/ompi.$$"
touch "$TMPDIR/ompi.$$/pmix.$(uname -n).tool"
echo "sessions in '$PRTE_MCA_prte_local_tmpdir_base'"
exec mpirun --allow-run-as-root --oversubscribe "$@"
"""
    )
    script.chmod(0o755)
    place = tmp_path / "tmp"
    place.mkdir()
    config = config_file(tmp_path)
    command = ["train", "--config", str(config), "--run-dir", str(tmp_path / "run")]
    arguments = ["launch", "-np", "2", "--max-restarts", "0", "--launcher", str(script)]
    options = {"launcher": "none", "TMPDIR": str(place)}
    done = hvd_dqn(*arguments, "--", *command, **options)
    assert done.code == 0, done.output
    assert not done.lines("hvd-dqn launch: ")
    (used,) = re.findall(r"sessions in '(.*)'", done.output)
    assert Path(used).parent == place
    assert not list(place.glob("hvd-dqn-launch-*")), "it is removed"
    arguments[-1] += f" --prtemca prte_tmpdir_base {place}"
    done = hvd_dqn(*arguments, "--", *command, **options)
    assert "sessions in ''" in done.output, "the user's choice is kept"
    if done.code == 0:
        pytest.skip("this mpirun ignores the leftovers of another")
    assert "listener thread failed to start" in done.output


@pytest.mark.multirank
def test_giving_up_names_the_cause_of_every_failure(tmp_path):
    config = faulty(tmp_path, "raise", 1, after=5)
    command = ["train", "--config", str(config), "--run-dir", str(tmp_path / "run")]
    done = hvd_dqn("launch", "-np", "2", "--max-restarts", "1", "--", *command, launcher="none")
    assert done.code == 1, done.output
    line = done.lines("hvd-dqn launch: giving up after 2 attempts")[0]
    assert line.count("the simulator broke") == 2
    bad = ["train", "cartpole", "--seed", "x"]
    done = hvd_dqn("launch", "-np", "2", "--", *bad, launcher="none")
    assert done.code == 2, "invalid input is not retried"
    assert not done.lines("hvd-dqn launch: ")


@pytest.mark.multirank
def test_a_lost_host_is_dropped_if_min_np_allows(tmp_path):
    config = config_file(tmp_path)
    command = ["train", "--config", str(config), "--run-dir", str(tmp_path / "run")]
    where = ["-np", "2", "-H", "localhost:1,gone.invalid:1"]
    done = hvd_dqn("launch", *where, "--", *command, launcher="none")
    assert done.code == 2, done.output
    problem = "gone.invalid cannot be reached by ssh: 1 of 2 required ranks (--min-np) are left"
    assert done.lines(problem) == [f"hvd-dqn: {problem}"]
    assert len(done.output.splitlines()) == 1
    done = hvd_dqn("launch", *where, "--min-np", "1", "--", *command, launcher="none")
    assert done.code == 0, done.output
    assert "gone.invalid cannot be reached by ssh; continuing on 1 of 2 ranks" in done.output
    assert "1 rank (" in done.output
    done = hvd_dqn("launch", "-np", "3", *where[2:], "--", *command, launcher="none")
    assert (done.code, done.lines("3 ranks, but -H has 2 slots")) == (2, done.output.splitlines())
