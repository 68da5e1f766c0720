"""`hvd-dqn launch`: restarts, stops with a checkpoint, lost hosts."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import hvd_dqn as hvd_dqn_package
from hvd_dqn.checkpoint.manifest import step_directory
from hvd_dqn.commands.cli import run
from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed.launcher import NETWORK_INTERFACE
from hvd_dqn.presets import PRESETS
from hvd_dqn.tools.launching.launchers import (
    Host,
    MpirunLauncher,
    _goes_by_plain_ssh,
    environment_of_a_launch,
    listening_on,
    parse_hosts,
    stays_here,
    this_program,
)
from hvd_dqn.tools.launching.restarts import _Output, _resuming, _Stop, _with_rank, launch
from tests.checkpoints import assert_equal, everything
from tests.distributed.test_faults import config_file, faulty, require_our_horovod, train
from tests.launching import clean_environment, hvd_dqn, started, wait_until


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


def training(*words):
    """What `hvd-dqn launch -np 2 -- train …` makes of the words."""
    made = []

    def keep(training, launcher, *, max_restarts):
        made.append(training)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hvd_dqn.commands.launch.launch", keep)
        assert run(["launch", "-np", "2", "--", "train", *words]) == 0
    return made[0]


def save_checkpoint(directory, env_steps):
    whole = directory / step_directory(env_steps)
    whole.mkdir(parents=True)
    (whole / "manifest.json").write_text("{}")


def test_another_attempt_resumes_from_the_checkpoint_of_the_first(tmp_path):
    run_dir = tmp_path / "run"
    never = training("cartpole", f"--run-dir={run_dir}", "--resume", "never")
    assert never.run_dir == run_dir
    assert _resuming(never) == [*never.words, "--resume", "auto"]
    kept = json.loads(PRESETS["cartpole"]().to_json())
    kept["checkpoint"]["directory"] = str(tmp_path / "kept")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(kept))
    named = ("--run_dir", str(run_dir), "--resume", "old/step-1")
    for words, place in (
        (("cartpole", *named), run_dir / "checkpoints"),
        (("cartpole", "--checkpoint.directory", str(tmp_path / "kept"), *named), tmp_path / "kept"),
        (("--config", str(config), *named), tmp_path / "kept"),
    ):
        told = training(*words)
        assert told.checkpoints == str(place)
        assert _resuming(told) == told.words, "it has no checkpoint yet"
        save_checkpoint(place, 2)
        assert _resuming(told) == [*told.words, "--resume", "auto"]
        shutil.rmtree(place)
    alone = training("cartpole")
    assert alone.words[-2:] == ["--run-dir", str(alone.run_dir)], "all attempts share a directory"
    assert _resuming(alone) == alone.words


CLOSING = '{"env_steps": 9, "updates": 1, "seconds": 1.0, "closing/return_mean": 1.0}\n'
OPEN = '{"env_steps": 5, "updates": 1, "seconds": 1.0}\n'
STOP_LINE = (
    "[1,0]<stderr>: hvd-dqn: stopped by the time limit on rank 0 at update 3, 9 env steps, after "
    "saving a checkpoint; run it again"
)


@pytest.mark.parametrize(
    ("before", "after", "saves", "said", "asked", "code", "expected"),
    [
        ("", CLOSING, False, False, False, 0, 0),
        ("", CLOSING, False, False, False, 1, 0),  # something failed after the end of the run
        (OPEN, OPEN + CLOSING, True, False, True, 143, 0),
        (CLOSING, CLOSING, False, False, False, 0, 0),
        (CLOSING, CLOSING, False, False, False, 1, 1),  # of an earlier start
        ("", OPEN, False, False, False, 0, 1),
        ("", OPEN, True, True, False, 0, 75),
        ("", OPEN, True, True, False, 1, 75),
        ("", OPEN, True, False, True, 0, 75),
        ("", OPEN, True, False, False, 1, 1),
        (OPEN, OPEN, False, True, False, 1, 75),  # just resumed: the checkpoint is the same
        ("", OPEN, False, False, True, 0, 1),
        ("", OPEN, True, True, True, 75, 75),
        (CLOSING, CLOSING, False, False, False, 2, 2),
        (OPEN, OPEN, False, False, True, 138, 75),  # mpirun did not forward the signal yet
        (OPEN, OPEN + OPEN, False, False, True, 138, 1),
    ],
)
def test_the_run_directory_decides_how_an_attempt_has_ended(
    tmp_path, monkeypatch, capfd, before, after, saves, said, asked, code, expected
):
    """An mpirun may report 0 or 1 for a run that has stopped, and 1 for one that is complete."""
    told = training("cartpole", "--run-dir", str(tmp_path))
    (tmp_path / "metrics.jsonl").write_text(before)
    save_checkpoint(tmp_path / "checkpoints", 3)
    script = tmp_path / "mpirun"
    work = [
        f"printf '%s' '{after}' > {tmp_path}/next; cmp -s {tmp_path}/next {tmp_path}/metrics.jsonl "
        f"|| mv {tmp_path}/next {tmp_path}/metrics.jsonl",
        f"cp -r {tmp_path}/checkpoints/{step_directory(3)} "
        f"{tmp_path}/checkpoints/{step_directory(9)}" * saves,
        f"echo '{STOP_LINE}'" * said,
        "kill -TERM $PPID; sleep 0.2" * asked,
        f"exit {code}",
    ]
    script.write_text("#!/bin/sh\n" + "\n".join(work) + "\n")
    script.chmod(0o755)
    launcher = MpirunLauncher(str(script), ranks=2, min_ranks=2)
    monkeypatch.setattr(launcher, "ask_to_stop", lambda process: None)
    assert launch(told, launcher, max_restarts=0) == expected
    told_why = capfd.readouterr().err
    assert ("although" in told_why) == (expected in (0, 75) and expected != code)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_exit_code_of_a_dry_run_stands(tmp_path, code):
    """It leaves no records to judge it by, and is not tried again."""
    starts, script = tmp_path / "starts", tmp_path / "mpirun"
    script.write_text(f"#!/bin/sh\necho >> {starts}\nexit {code}\n")
    script.chmod(0o755)
    how = ["launch", "-np", "2", "--launcher", str(script)]
    assert run([*how, "--", "train", "cartpole", "--dry-run"]) == code
    assert starts.read_text() == "\n"


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            "prterun noticed that process rank 1 with PID 4 on node vm exited on\nsignal 9.\n",
            "prterun noticed that process rank 1 with PID 4 on node vm exited on signal 9.",
        ),
        ("=   PID 15 RUNNING AT vm\n=   EXIT CODE: 9\n", "rank 1 on vm was lost, exit code: 9"),
        (
            "=   RANK 1 PID 15 RUNNING AT vm.site\n=   KILLED BY SIGNAL: 9 (Killed)\n",
            "rank 1 on vm was lost, killed by signal: 9",
        ),
        ("=   PID 16 RUNNING AT vm\n=   EXIT CODE: 9\n", "PID 16 RUNNING AT vm, exit code: 9"),
    ],
)
def test_a_killed_rank_is_named_by_the_launchers_of_several_mpis(tmp_path, said, cause):
    (tmp_path / "heartbeats").mkdir()
    for rank, pid in enumerate((14, 15)):
        (tmp_path / f"heartbeats/rank-{rank}.json").write_text(json.dumps(["vm", pid, 3, 4]))
    output = _Output(io.BytesIO(said.encode()))
    output.start()
    output.join(5)
    assert _with_rank(output.cause(), tmp_path) == cause


def test_a_hangup_is_a_request_to_stop_unless_nohup_ignores_it():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _Stop(MpirunLauncher("mpirun", ranks=2, min_ranks=2)) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_asked()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with _Stop(MpirunLauncher("mpirun", ranks=2, min_ranks=2)) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.is_asked()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("command", "environ", "expected"),
    [
        ("horovodrun -np 2", {}, True),
        ("horovodrun -np 2", {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2"}, True),
        ("/opt/bin/mpirun -np 2", {}, True),
        ("mpirun -np 2", {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "1"}, True),
        ("mpirun -np 2", {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2"}, False),
        ("mpirun -np 2", {"PBS_JOBID": "1"}, False),
        ("mpirun -np 2 -H localhost:2", {"PBS_JOBID": "1"}, True),
        ("horovodrun -np 2 -H localhost:1,node2:1", {}, False),
        ("mpirun -np 2 --hostfile hosts", {}, False),
        ("horovodrun -np 2 -hostfile hosts", {}, False),
        ("srun -n 2", {}, False),
    ],
)
def test_whether_all_ranks_are_on_this_host(command, environ, expected):
    assert stays_here(command.split(), environ) == expected


def test_a_launcher_gets_what_makes_it_listen_on_one_interface(monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setenv(NETWORK_INTERFACE, "ib0")
    with environment_of_a_launch(["horovodrun", "-np", "2"]) as environment:
        assert environment["HVD_DQN_LISTEN_ON"] == "lo"
        assert Path(environment["LD_PRELOAD"]).exists()
        assert environment["PRTE_MCA_ras"] == environment["OMPI_MCA_ras"]
        assert listening_on("lo", environment) == environment, "it is preloaded once"
    with environment_of_a_launch(["horovodrun", "-np", "2", "-H", "a:1,b:1"]) as environment:
        assert environment["HVD_DQN_LISTEN_ON"] == environment["HYDRA_IFACE"] == "ib0"
        assert environment["OMPI_MCA_btl_tcp_if_include"] == "ib0"
        assert environment["PRTE_MCA_prte_if_include"] == "ib0"
        assert "PRTE_MCA_ras" not in environment
    monkeypatch.setenv("LD_PRELOAD", "/their/own.so")
    with environment_of_a_launch(["mpirun", "-np", "2"]) as environment:
        assert environment["LD_PRELOAD"].endswith(".so:/their/own.so")


def test_an_unknown_network_interface_is_refused(capsys):
    arguments = ["launch", "-np", "2", "--network-interface", "ib7", "--", "train", "cartpole"]
    assert run(arguments) == 2
    assert "has no network interface 'ib7'" in capsys.readouterr().err


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
    ("launcher", "number"), [("horovodrun", signal.SIGHUP), ("mpirun", signal.SIGTERM)]
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


@pytest.mark.multirank
@pytest.mark.parametrize("home", ["/", "/proc/none", None])
@pytest.mark.parametrize("launcher", ["horovodrun", "none"])
def test_launchers_need_no_home(tmp_path, monkeypatch, launcher, home):
    """Without HOME, Open MPI ends at once."""
    if home is None:
        require_our_horovod()
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    run_dir = tmp_path / "run"
    command = ["train", "--config", str(config_file(tmp_path)), "--run-dir", str(run_dir)]
    if launcher == "none":
        command = ["launch", "-np", "2", "--", *command]
    done = hvd_dqn(*command, launcher=launcher)
    assert done.code == 0, done.output
    assert home is None or not Path(home, ".horovod").exists()


@pytest.mark.multirank
def test_horovodrun_imports_no_torch_itself(tmp_path):
    require_our_horovod()
    (tmp_path / "torch.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    environment = clean_environment(PYTHONPATH=str(tmp_path))
    command = ["horovodrun", "-np", "1", "true"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "imported").exists()
