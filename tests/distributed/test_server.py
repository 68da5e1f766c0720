"""The parameter server on several ranks: no rank waits, and no step is lost."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch

from hvd_dqn.config import NetworkConfig
from hvd_dqn.distributed.communicator import LocalCommunicator
from tests.distributed import workers
from tests.distributed.test_faults import config_file, faulty, train
from tests.distributed.test_ranks import run_job, standing
from tests.launching import started, wait_until

pytestmark = pytest.mark.multirank

__all__ = ["run_job", "standing"]  # fixtures
SERVER = {"distributed.average": "server", "distributed.backend": "mpi"}


@pytest.mark.parametrize("messages", [False, True])
def test_each_rank_changes_the_memory_of_all_by_itself(run_job, messages):
    count = 300
    first, second = run_job("one_sided", launcher="mpirun", backend="mpi", messages=messages,
        count=count,
    )  # fmt: skip
    assert sorted(first["claims"] + second["claims"]) == list(range(0, 4 * count, 2))
    for rank in (first, second):
        assert rank["parts"] == [[2 * count] * 3, [2 * count] * 5], "no change is lost"
        assert rank["told"] == 7
    assert 0 < second["waited"] < 0.5, "the owner slept for a second"


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "radam"])
@pytest.mark.parametrize("target_step", [1.0, 0.1])
def test_one_rank_does_what_a_learner_without_a_server_does(run_job, optimizer, target_step):
    updates = 40
    (ours,) = run_job("served", ranks=1, launcher="mpirun", backend="mpi", messages=False,
        updates=[updates], optimizer=optimizer, target_step=target_step, hidden_sizes=[32, 32],
    )  # fmt: skip
    learner = workers.make_learner(
        LocalCommunicator(),
        seed=0,
        target_period=7,
        target_step=target_step,
        optimizer={"name": optimizer},
    )
    start = learner.online_parameters.values.clone()
    for batch in workers.batches(updates, 16):
        learner.start(batch)
        learner.finish()
    assert (learner.online_parameters.values - start).abs().max() > 0.001
    assert ours["parameters"] == learner.online_parameters.values.tolist(), "bit for bit"
    assert ours["target"] == learner.target_parameters.values.tolist()
    assert ours["updates"] == ours["agreed"] == updates
    assert ours["loss"] == pytest.approx(learner.statistics.loss, rel=1e-6)


@pytest.mark.parametrize("messages", [False, True])
def test_a_rank_steps_the_shards_of_one_that_does_nothing(run_job, messages):
    updates, sizes = 20, [256, 256]
    results = run_job("served", launcher="mpirun", backend="mpi", messages=messages,
        updates=[0, updates], hidden_sizes=sizes, reload=True,
    )  # fmt: skip
    learner = workers.make_learner(
        LocalCommunicator(), seed=0, target_period=7, network=NetworkConfig(hidden_sizes=(256, 256))
    )
    for batch in workers.batches(updates, 16):
        learner.start(batch)
        learner.finish()
    for result in results:
        assert result["shards"] == 2
        assert result["updates"] == result["agreed"] == updates
        assert result["sha"] == results[0]["sha"]
        torch.testing.assert_close(
            torch.tensor(result["parameters"]),
            learner.online_parameters.values,
            rtol=1e-4,
            atol=1e-6,
        )
        assert result["again"] == {"parameters": result["sha"], "updates": updates}


@pytest.mark.parametrize("messages", [False, True])
def test_every_step_of_every_rank_is_taken_once(run_job, messages):
    counts = [30, 50]
    first, second = run_job("served", launcher="mpirun", backend="mpi", messages=messages,
        updates=counts, hidden_sizes=[256, 256],
    )  # fmt: skip
    assert first["optimizer"]["step"] == second["optimizer"]["step"] == sum(counts)
    assert first["updates"] == second["agreed"] == max(first["last"], second["last"]) == sum(counts)
    assert first["sha"] == second["sha"]
    assert first["loss"] == second["loss"]


def test_a_slow_rank_does_not_hold_up_the_other(run_job):
    """Rank 1 needs 10 ms for a step, and rank 0 next to nothing."""
    kwargs = json.dumps({"seconds": 0.005, "rank": "{rank}", "slow_rank": 1})
    changes = SERVER | {
        "env.id": "tests.envs.toy:ToySlow-v0",
        "env.kwargs": kwargs,
        "env.num_envs": 2,
        "total_env_steps": 3000,
        "learning_starts_env_steps": 100,
        "replay.n_step": 1,
        "logging.period_env_steps": 500,
        "evaluation.period_env_steps": 3000,
        "evaluation.envs": "training",
    }
    fast, slow = run_job("whole_run", launcher="mpirun", backend="mpi", changes=changes)
    assert fast["vector_steps"] + slow["vector_steps"] == 3000 / 2, "the budget is spent exactly"
    assert fast["vector_steps"] > 2 * slow["vector_steps"] > 0
    assert fast["updates"] == slow["updates"] > 1000
    assert fast["online"] == slow["online"]
    assert fast["score"] == slow["score"] > 15, "it learns: of at most 20, chance pays 5"


def test_a_stop_ends_all_ranks_with_a_checkpoint_from_which_they_resume(tmp_path):
    run_dir = tmp_path / "run"
    config = config_file(tmp_path, total_env_steps=400_000, **SERVER)
    arguments = ["-m", "hvd_dqn", "train", "--config", str(config), "--run-dir", str(run_dir)]
    with started(arguments) as job:
        beat, metrics = run_dir / "heartbeats" / "rank-1.json", run_dir / "metrics.jsonl"
        wait_until(lambda: metrics.exists() and "gradient/norm_mean" in metrics.read_text())
        os.kill(json.loads(beat.read_text())[1], signal.SIGTERM)
        done = job.wait()
    assert done.code == 75, done.output
    (line,) = done.lines("hvd-dqn: ")
    assert "stopped by SIGTERM on rank 1" in line
    assert "after saving a checkpoint" in line
    bodies = [
        json.loads(m.read_text())["body"] for m in run_dir.glob("checkpoints/*/manifest.json")
    ]
    newest = max(bodies, key=lambda body: body["env_steps"])
    assert newest["updates"] > 0
    total = newest["env_steps"] + 1000
    shorter = config_file(tmp_path, total_env_steps=total, **SERVER)
    again = train(shorter, run_dir, "--resume-changes", "total_env_steps")
    assert again.code == 0, again.output
    assert "resuming from" in again.output
    final = json.loads((run_dir / "final.json").read_text())
    assert final["env_steps"] == total
    assert final["updates"] == newest["updates"] + 1000 // 8 * 4


def test_the_rank_with_a_number_that_is_not_finite_is_named(tmp_path):
    done = train(faulty(tmp_path, "nan", 1, **SERVER), tmp_path / "run")
    assert done.code == 1, done.output
    (line,) = done.lines("not finite")
    assert "not finite on rank 1 after update" in line


def test_horovodrun_serves_parameters_too(tmp_path):
    config = config_file(tmp_path, **SERVER | {"distributed.backend": "horovod"})
    done = train(config, tmp_path / "run", launcher="horovodrun")
    assert done.code == 0, done.output
    final = json.loads((tmp_path / "run" / "final.json").read_text())
    assert final["env_steps"] == 2400


def test_a_process_without_mpi_is_refused(tmp_path):
    config = config_file(tmp_path, **SERVER | {"distributed.backend": "auto"})
    done = train(config, tmp_path / "run", launcher="none")
    assert done.code == 2
    (line,) = done.lines("hvd-dqn: ")
    assert "needs MPI's one-sided operations" in line
    assert "--distributed.backend mpi" in line
    assert not (tmp_path / "run").exists()
