"""Faults under real launchers: which rank is named, how soon the job ends, what is kept."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hvd_dqn.tools.horovod.recipe import current_recipe, installed_recipe
from tests.chaos import campaign
from tests.checkpoints import assert_equal, everything
from tests.distributed.workers import ROLLOUTS, small_config
from tests.launching import AS_ROOT, clean_environment, hvd_dqn, started, wait_until

pytestmark = pytest.mark.multirank

FAULTY = "tests.envs.toy:ToyFaulty-v0"


def config_file(tmp_path: Path, **changes) -> Path:
    config = small_config().changed({"checkpoint.period_env_steps": 300} | changes)
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    return path


def faulty(tmp_path: Path, fault: str, rank: int | None, *, after: int = 200, **changes) -> Path:
    kwargs = json.dumps({"fault": fault, "after": after, "rank": rank})
    return config_file(tmp_path, **{"env.id": FAULTY, "env.kwargs": kwargs} | changes)


def train(config: Path, run_dir: Path, *options: str, **launch):
    arguments = ["train", "--config", str(config), "--run-dir", str(run_dir), *options]
    return hvd_dqn(*arguments, **launch)


def test_a_campaign_of_faults_changes_no_result():
    tally = campaign(kills=1, hangs=1, corruptions=1, signals=1, ranks=[2])
    assert tally.wrong == 0
    assert tally.left_behind == 0
    assert tally.slowest_exit_seconds < 15


@pytest.mark.parametrize(
    ("launcher", "number", "target"),
    [
        ("mpirun", signal.SIGUSR1, "launcher"),
        ("mpirun", signal.SIGUSR2, "launcher"),
        ("horovodrun", signal.SIGTERM, "rank"),
        ("none", signal.SIGINT, "launcher"),
        ("none", signal.SIGINT, "group"),
        ("none", signal.SIGUSR1, "group"),
    ],
)
def test_a_signal_stops_all_ranks_with_a_checkpoint(tmp_path, launcher, number, target):
    ranks = 1 if launcher == "none" else 2
    more = {"env.vectorization": "async"} if target == "group" else {}
    config = config_file(tmp_path, total_env_steps=200_000, **more)
    run_dir = tmp_path / "run"
    arguments = ["-m", "hvd_dqn", "train", "--config", str(config), "--run-dir", str(run_dir)]
    with started(arguments, ranks=ranks, launcher=launcher) as job:
        beat = run_dir / "heartbeats" / f"rank-{ranks - 1}.json"
        wait_until(lambda: (run_dir / "metrics.jsonl").exists() and beat.exists())
        time.sleep(1)
        struck = time.monotonic()
        if target == "group":  # as a terminal and Open MPI do: with the environments' processes
            os.killpg(job.process.pid, number)
        else:
            os.kill(
                json.loads(beat.read_text())[1] if target == "rank" else job.process.pid, number
            )
        done = job.wait()
        assert time.monotonic() - struck < 10
    assert done.code == 75, done.output
    (line,) = done.lines("hvd-dqn: ")
    assert number.name in line
    assert "after saving a checkpoint" in line
    manifests = list(run_dir.glob("checkpoints/step-*/manifest.json"))
    stopped_at = max(json.loads(m.read_text())["body"]["env_steps"] for m in manifests)
    assert f"{stopped_at:,} env steps" in line


def test_under_nohup_a_hangup_does_not_reach_the_ranks_of_horovodrun(tmp_path):
    """Open MPI's mpirun handles SIGHUP even if it is ignored."""
    require_our_horovod()
    up, over = tmp_path / "up", tmp_path / "over"
    rank = f"touch {up}; sleep 3; touch {over}"
    program = (
        "import os, signal\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        f"os.execvp('horovodrun', ['horovodrun', '-np', '2', 'sh', '-c', '{rank}'])\n"
    )
    with started(["-c", program], launcher="none", **AS_ROOT) as job:
        wait_until(up.exists)
        os.killpg(job.process.pid, signal.SIGHUP)
        done = job.wait(30)
    assert done.code == 0, done.output
    assert over.exists()


def test_horovodrun_reports_an_unreachable_host_on_one_line():
    require_our_horovod()
    command = ["horovodrun", "-np", "2", "-H", "nowhere.invalid:2", "true"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["horovodrun: ssh does not reach all of nowhere.invalid"]


def test_a_second_interrupt_stops_at_once(tmp_path):
    config = faulty(tmp_path, "hang", None)
    run_dir = tmp_path / "run"
    arguments = ["-m", "hvd_dqn", "train", "--config", str(config), "--run-dir", str(run_dir)]
    with started(arguments, launcher="none") as job:
        wait_until(lambda: (run_dir / "metrics.jsonl").exists())
        time.sleep(3)
        os.kill(job.process.pid, signal.SIGINT)
        time.sleep(1)
        assert job.process.poll() is None, "the first one asks"
        os.kill(job.process.pid, signal.SIGINT)
        done = job.wait(5)
    assert done.code == 1
    assert "interrupted" in done.output


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ([signal.SIGINT], 75),
        ([signal.SIGHUP], 75),
        ([signal.SIGTERM, signal.SIGTERM], 1),
        ([signal.SIGKILL], -9),
    ],
)
def test_horovodrun_asks_its_ranks_to_stop(tmp_path, numbers, code):
    """As a terminal, a closed one, an impatient scheduler and a merciless one end it."""
    require_our_horovod()
    config, run_dir = config_file(tmp_path, total_env_steps=200_000), tmp_path / "run"
    begun = run_dir / "metrics.jsonl"
    if len(numbers) == 2:  # a rank that hangs in its first step cannot do what it is asked
        config, begun = faulty(tmp_path, "hang", 1, after=1), run_dir / "heartbeats/rank-1.json"
    arguments = ["-m", "hvd_dqn", "train", "--config", str(config), "--run-dir", str(run_dir)]
    with started(arguments, launcher="horovodrun") as job:
        wait_until(begun.exists)
        time.sleep(2)
        for number in numbers:
            os.kill(job.process.pid, number)
            time.sleep(0.5)
        done = job.wait(20)
        wait_until(lambda: not job.members())
    assert done.code == code, done.output
    saved = [line for line in done.lines("hvd-dqn: ") if "after saving a checkpoint" in line]
    assert len(saved) == (code == 75)
    assert ("asked the ranks to stop" in done.output) == (numbers != [signal.SIGKILL])


RESUMED = {
    "prioritised": {
        "replay.n_step": 3,
        "replay.sampling": "prioritized",
        "network.noisy": True,
        "network.dueling": True,
    },
    "masked": {"env.id": "tests.envs.toy:ToyMaskedRing-v0", "env.frame_stack": 2},
    "dictionaries": {
        "env.id": "tests.envs.toy:ToyComposite-v0",
        "env.text": "tokens",
        "network.scale_observations": False,
        "network.normalize_observations": True,
        "total_env_steps": 800,
    },
    "branches": {"env.id": "Pendulum-v1", "env.joint_actions": 2},
    "rollouts": ROLLOUTS,
}


@pytest.mark.parametrize("changes", RESUMED.values(), ids=RESUMED)
def test_a_time_limit_stops_with_a_checkpoint_and_the_run_goes_on(tmp_path, changes):
    config = config_file(tmp_path, **{"total_env_steps": 1500, **changes})
    done = train(config, tmp_path / "run", "--time-limit-minutes", "0.004", ranks=2)
    assert done.code == 75, done.output
    assert "the time limit" in done.lines("hvd-dqn: ")[0]
    assert train(config, tmp_path / "run", ranks=2).code == 0
    assert train(config, tmp_path / "alone", ranks=2).code == 0
    assert_equal(
        everything(tmp_path / "run/checkpoints"), everything(tmp_path / "alone/checkpoints")
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_hung_environment_is_named(tmp_path, rank):
    config = faulty(tmp_path, "hang", rank, **{"distributed.hang_seconds": 5.0})
    done = train(config, tmp_path / "run")
    assert done.code == 1, done.output
    assert done.seconds < 40
    (line,) = done.lines("hvd-dqn: ")
    assert f"rank {rank} on" in line
    assert "no progress for" in line
    stacks = (tmp_path / "run" / f"crash-rank-{rank}.txt").read_text()
    assert "toy.py" in stacks, "the stack of the main thread, in the environment"


def test_a_rank_out_of_memory_is_named(tmp_path):
    done = train(faulty(tmp_path, "memory", 1), tmp_path / "run")
    assert done.code == 1, done.output
    (line,) = done.lines("hvd-dqn: ")
    assert "rank 1 on" in line
    assert "MemoryError" in line


def test_a_nan_leaves_the_checkpoints_before_it_good(tmp_path):
    config = faulty(tmp_path, "nan", 1)
    done = train(config, tmp_path / "run")
    assert done.code == 1, done.output
    warning, line = done.lines("hvd-dqn: ")
    assert "of rank 1: the reward of step" in warning
    assert "not finite on rank 1 at update" in line
    again = train(
        faulty(tmp_path, "none", None), tmp_path / "run", "--resume-changes", "env.kwargs"
    )
    assert again.code == 0, again.output
    assert "resuming from" in again.output


def test_a_full_disk_costs_checkpoints_and_not_the_run(tmp_path):
    done = train(faulty(tmp_path, "disk", None), tmp_path / "run")
    assert done.code == 0, done.output
    assert "checkpoint failed: rank 0 on" in done.output
    assert done.lines("greedy episodes ·"), "the score is told, with a picture or without"
    assert "the newest is at" in done.output
    again = train(
        faulty(tmp_path, "none", None), tmp_path / "run", "--resume-changes", "env.kwargs"
    )
    assert again.code == 0, again.output
    assert "resuming from" in again.output


def test_a_disk_that_takes_no_checkpoint_at_all_does_not_cost_the_run_either(tmp_path):
    done = train(faulty(tmp_path, "disk", None, after=20), tmp_path / "run")
    assert done.code == 0, done.output
    assert "there is no earlier one" in done.output
    assert done.lines("greedy episodes ·")


def test_a_flaky_environment_is_made_anew(tmp_path):
    config = faulty(tmp_path, "once", 1, **{"env.restarts": 1})
    done = train(config, tmp_path / "run")
    assert done.code == 0, done.output
    (line,) = done.lines("hvd-dqn: ")
    assert "the simulator broke" in line
    assert "recreating" in line


def test_other_numbers_of_ranks_go_on_with_every_transition(tmp_path):
    config = config_file(tmp_path, **{"replay.capacity": 4000})
    for ranks, total in ((2, 1200), (3, 1800), (1, 2400)):
        done = train(
            config, tmp_path / "run", "--total_env_steps", str(total),
            "--resume-changes", "total_env_steps", ranks=ranks,
        )  # fmt: skip
        assert done.code == 0, done.output
        ranks_now = everything(tmp_path / "run/checkpoints")["ranks"]
        assert len(ranks_now) == ranks
        steps = sum(len(rank["frames"]) for rank in ranks_now.values())
        assert steps >= total, "a row for every step, and more for final observations"
    assert ", saved by 3 ranks" in done.output
    facts = json.loads((tmp_path / "run/run.json").read_text())
    assert [start["from"]["world_size"] for start in facts["resumed"]] == [2, 3]
    assert facts["resumed"][1]["from"]["changed"] == {"total_env_steps": [1800, 2400]}


def test_rollouts_go_on_with_another_number_of_ranks(tmp_path):
    """No experience is lost, since the updates of every rollout come before its checkpoint."""
    config = config_file(tmp_path, **ROLLOUTS, total_env_steps=600)
    for ranks, total in ((2, 600), (1, 1200)):
        done = train(
            config, tmp_path / "run", "--total_env_steps", str(total),
            "--resume-changes", "total_env_steps", ranks=ranks,
        )  # fmt: skip
        assert done.code == 0, done.output
    assert ", saved by 2 ranks" in done.output
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    steps = [(record["env_steps"], record["updates"]) for record in records]
    assert steps == sorted(steps)
    assert steps[-1][0] >= 1200


def test_nothing_listens_in_a_run_of_one_process(tmp_path):
    config, run_dir = config_file(tmp_path, total_env_steps=200_000), tmp_path / "run"
    arguments = ["-m", "hvd_dqn", "train", "--config", str(config), "--run-dir", str(run_dir)]
    with started(arguments, launcher="none") as job:
        wait_until(lambda: (run_dir / "metrics.jsonl").exists())
        assert listening(job.members()) == []


@pytest.mark.parametrize("program", ["horovodrun", "mpirun --mca btl ^openib"])
def test_a_job_on_one_host_listens_on_loopback_only(tmp_path, program):
    if program == "horovodrun":
        require_our_horovod()
    config, run_dir = config_file(tmp_path, total_env_steps=200_000), tmp_path / "run"
    train = ["train", "--config", str(config), "--run-dir", str(run_dir)]
    arguments = ["-m", "hvd_dqn", "launch", "-np", "2", "--launcher", program, "--", *train]
    with started(arguments, launcher="none", **AS_ROOT) as job:
        wait_until(lambda: (run_dir / "metrics.jsonl").exists())
        assert len(job.members()) >= 4, "launch, mpirun and two ranks"
        found = listening(job.members())
    assert found, "mpirun's own, for its ranks"
    assert all(ipaddress.ip_address(address).is_loopback for address in found)


def require_our_horovod():
    if current_recipe().differences(installed_recipe() or {}):
        pytest.skip("the installed Horovod lacks our patches of today")


def listening(processes):
    """The addresses on which these processes accept TCP connections."""
    links = set()
    for pid in processes:
        with contextlib.suppress(FileNotFoundError):  # a process or a file that has gone by now
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    links.add(str(descriptor.readlink()))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
                words = [fields[1][n : n + 8] for n in range(0, len(fields[1]) - 5, 8)]
                raw = b"".join(bytes.fromhex(word)[::-1] for word in words)
                found.append(str(ipaddress.ip_address(raw)))
    return found
