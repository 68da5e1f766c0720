"""The batch scripts on a real Slurm of two nodes: what they train, and what becomes of them when
jobs are preempted, cancelled, or lose a node.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from hvd_dqn.tools.slurm.job import Job
from hvd_dqn.tools.slurm.script import render
from hvd_dqn.tools.slurm.site import Site
from tests.checkpoints import assert_equal, everything
from tests.cluster.hosts import wait_for
from tests.cluster.slurm import Slurm, why_not
from tests.distributed.workers import small_config

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
]
REPOSITORY = Path(__file__).parents[2]
_MARK = "HVD_DQN_TEST_CLUSTER"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    with Slurm(tmp_path_factory.mktemp("slurm"), 2, base) as cluster:
        cluster.environment |= {
            _MARK: "1",
            "PYTHONPATH": str(REPOSITORY),
            # Root may be refused by mpirun; users are not root.
            **{f"{who}_ALLOW_RUN_AS_ROOT{more}": "1" for who in ("OMPI", "PRTE")
               for more in ("", "_CONFIRM")},
        }  # fmt: skip
        yield cluster


class Batch:
    """A job that was handed in, in a directory of its own."""

    def __init__(self, slurm: Slurm, place: Path, *options: str, env_steps=1200, **job) -> None:
        self.slurm = slurm
        place.mkdir()
        config = small_config().changed(
            {"total_env_steps": env_steps, "checkpoint.period_env_steps": 300}
        )
        (place / "config.json").write_text(config.to_json())
        job = {"nodes": 2, "time": "00:10:00"} | job
        command = ("train", "--config", str(place / "config.json"))
        site = Site(activate=f"export PATH={Path(sys.executable).parent}:$PATH")
        (place / "job.sh").write_text(render(Job(command=command, **job), site, "a test"))
        self.place = place
        said = slurm.run(
            "sbatch", "--parsable", f"--chdir={place}", *options, str(place / "job.sh")
        )
        self.number = said.splitlines()[-1]

    @property
    def run_dir(self) -> Path:
        return self.place / "runs" / f"hvd-dqn-{self.number}"

    @property
    def output(self) -> str:
        return "".join(path.read_text() for path in self.place.glob("*.out"))

    def finish(self) -> None:
        state = self.slurm.wait(self.number)
        assert state == "COMPLETED", f"{state}: {self.output}"

    def is_training(self) -> bool:
        return bool(list(self.run_dir.glob("checkpoints/step-*/manifest.json")))

    def come_back(self) -> None:
        """Wait until it is in the queue again, and let it run at once."""
        self.slurm.wait(self.number, "PENDING")
        self.slurm.run("scontrol", "update", f"JobId={self.number}", "StartTime=now")

    def checkpoints(self):
        return everything(self.run_dir / "checkpoints")


@pytest.fixture(scope="module")
def undisturbed(slurm, tmp_path_factory):
    batch = Batch(slurm, tmp_path_factory.mktemp("jobs") / "undisturbed", env_steps=4800)
    batch.finish()
    return batch


def left_behind() -> list[str]:
    """Ranks, wherever they run."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{_MARK}=1".encode() in (path / "environ").read_bytes().split(b"\0")
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if marked and " train " in command:
            found.append(command)
    return found


def test_two_nodes_by_srun(undisturbed):
    facts = json.loads((undisturbed.run_dir / "run.json").read_text())
    assert facts["hosts"] == ["node1", "node2"]
    assert "greedy episodes" in undisturbed.output, "the root's log, as it grew"
    assert sorted(p.name for p in (undisturbed.run_dir / "logs").iterdir()) == [
        "rank-0.txt",
        "rank-1.txt",
    ]
    assert left_behind() == []


def test_two_nodes_by_mpirun(slurm, undisturbed, tmp_path):
    batch = Batch(slurm, tmp_path / "job", env_steps=4800, launcher="mpirun")
    batch.finish()
    assert json.loads((batch.run_dir / "run.json").read_text())["hosts"] == ["node1", "node2"]
    assert_equal(batch.checkpoints(), undisturbed.checkpoints())


def test_a_warning_before_the_time_limit_costs_nothing(slurm, undisturbed, tmp_path):
    batch = Batch(slurm, tmp_path / "job", env_steps=4800)
    wait_for(batch.is_training, "a checkpoint", 60)
    slurm.run("scancel", "--batch", "--signal=USR1", batch.number)
    batch.come_back()
    batch.finish()
    assert "stopped by SIGUSR1" in batch.output
    assert "going on from" in batch.output
    assert_equal(batch.checkpoints(), undisturbed.checkpoints())


def test_a_job_that_may_not_be_requeued_hands_in_another(slurm, undisturbed, tmp_path):
    batch = Batch(slurm, tmp_path / "job", "--no-requeue", env_steps=4800)
    wait_for(batch.is_training, "a checkpoint", 60)
    slurm.run("scancel", "--batch", "--signal=USR1", batch.number)
    assert slurm.wait(batch.number) == "FAILED"
    slurm.wait(str(int(batch.number) + 1))
    assert_equal(batch.checkpoints(), undisturbed.checkpoints())


def test_a_preempted_job_comes_back(slurm, undisturbed, tmp_path):
    batch = Batch(slurm, tmp_path / "job", env_steps=4800, partition="main")
    wait_for(batch.is_training, "a checkpoint", 60)
    urgent = ["sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", f"--chdir={tmp_path}"]
    number = slurm.run(*urgent, "--wrap", "sleep 1")
    batch.come_back()
    assert slurm.wait(number) == "COMPLETED"
    batch.finish()
    assert "going on from" in batch.output
    assert_equal(batch.checkpoints(), undisturbed.checkpoints())


def test_a_cancelled_job_stays_cancelled_and_leaves_nothing(slurm, tmp_path):
    batch = Batch(slurm, tmp_path / "job", env_steps=200_000)
    wait_for(batch.is_training, "a checkpoint", 60)
    slurm.run("scancel", batch.number)
    assert slurm.wait(batch.number) == "CANCELLED"
    wait_for(lambda: not left_behind(), "ranks to end", 30)
    assert slurm.run("squeue", "-h", "-j", batch.number, "-t", "PENDING,RUNNING") == ""


def test_seeds_are_runs_of_their_own(slurm, tmp_path):
    from hvd_dqn.tools.summary import summarize

    batch = Batch(slurm, tmp_path / "job", nodes=1, array_seeds="3,5")
    for task in ("3", "5"):
        assert slurm.wait(f"{batch.number}_{task}") == "COMPLETED", batch.output
    runs = [summarize(path) for path in sorted(batch.run_dir.iterdir())]
    assert [Path(run.run).name for run in runs] == ["seed-3", "seed-5"]
    assert [run.seed for run in runs] == [3, 5]
    assert all(run.return_mean is not None and run.ranks == 1 for run in runs)


def test_what_is_wrong_is_told_in_a_line_and_not_tried_again(slurm, tmp_path):
    batch = Batch(slurm, tmp_path / "job", env_steps=1200)
    (tmp_path / "job/config.json").write_text("{")
    assert slurm.wait(batch.number) == "FAILED"
    assert "config.json" in batch.output
    assert "attempt 2" not in batch.output
    assert slurm.run("scontrol", "show", "job", batch.number).count("ExitCode=2:0") == 1


@pytest.mark.parametrize("spare", [True, False])
def test_a_node_that_fails_ends_in_recovery(slurm, tmp_path, spare):
    options = ["--export=ALL,MIN_NODES=1"] if spare else []
    batch = Batch(slurm, tmp_path / "job", *options, env_steps=12_000)
    wait_for(batch.is_training, "a checkpoint", 60)
    _, victim = slurm.hosts.hosts
    victim.fail()
    try:
        if spare:
            batch.finish()
        else:
            slurm.wait(batch.number, "PENDING", seconds=120)
    finally:
        slurm.start_node(slurm.hosts.restart(victim))
        wait_for(slurm.all_idle, "the node to come back", 60)
    if not spare:
        batch.come_back()
        batch.finish()
    assert "going on from" in batch.output
    ranks = 1 if spare else 2
    last = json.loads((batch.run_dir / "run.json").read_text())["resumed"][-1]
    assert last["world_size"] == ranks, os.linesep + batch.output
