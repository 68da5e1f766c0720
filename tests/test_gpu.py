"""On a GPU: the same update, and ranks that own one or share one."""

import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from hvd_dqn.acting.greedy import GreedyPolicy, LatePolicy
from hvd_dqn.config import Config, NetworkConfig
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.envs import make_vector_env
from hvd_dqn.learner import NonFiniteError
from hvd_dqn.presets import PRESETS
from hvd_dqn.run.assembly import assemble_experience
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.resources import Resources
from hvd_dqn.training import train
from tests.distributed import workers
from tests.distributed.test_command import SMALL
from tests.launching import hvd_dqn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU, or no -m gpu"),
]


def test_the_update_is_the_cpus_to_float_tolerance():
    learners = [
        workers.make_learner(LocalCommunicator(), seed=0, device=torch.device(name))
        for name in ("cpu", "cuda")
    ]
    for batch in workers.batches(50, 32):
        for learner in learners:
            device = learner.online_parameters.values.device
            moved = [v.to(device) for v in batch if isinstance(v, torch.Tensor)]
            learner.start(workers.Batch(*moved, batch.slot, batch.share))
            learner.finish()
    on_cpu, on_gpu = (learner.online_parameters.values.cpu() for learner in learners)
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"compile": True},
        {"name": "radam", "final_learning_rate_fraction": 0.0},
        {"name": "rmsprop", "warmup_updates": 10},
        {"name": "adamw", "weight_decay": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "network",
    [NetworkConfig(), NetworkConfig(noisy=True, precision="bfloat16")],
    ids=["plain", "noisy in bfloat16"],
)
def test_recorded_updates_are_those_one_by_one(network, changes):
    device = torch.device("cuda")
    learners = [
        workers.make_learner(
            LocalCommunicator(),
            seed=0,
            device=device,
            network=network,
            optimizer={"cuda_graph": recorded} | changes,
        )
        for recorded in (False, True)
    ]
    for batch in workers.batches(50, 32):
        moved = [v.cuda() for v in batch if isinstance(v, torch.Tensor)]
        for learner in learners:
            learner.start(workers.Batch(*moved, batch.slot, batch.share))
            learner.finish()
    one_by_one, recorded = (learner.online_parameters.values for learner in learners)
    torch.testing.assert_close(recorded, one_by_one, rtol=1e-3, atol=1e-4)
    learners[1].synchronize()
    theirs, ours = (vars(learner.statistics) for learner in learners)
    for numbers in (theirs, ours):
        del numbers["on_its_way_seconds"]
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-2)


def test_a_bad_number_takes_no_recorded_step():
    device = torch.device("cuda")
    learner = workers.make_learner(
        LocalCommunicator(), seed=0, device=device, optimizer={"cuda_graph": True}
    )
    good, broken = (
        workers.Batch(*(v.cuda() for v in batch if isinstance(v, torch.Tensor)), *batch[6:])
        for batch in workers.batches(2, 32)
    )
    broken.reward[3] = float("nan")
    learner.start(good)
    learner.finish()
    before = learner.online_parameters.values.clone()
    learner.start(broken)
    learner.finish()
    with pytest.raises(NonFiniteError, match="on rank 0 at update 1 "):
        learner.synchronize()
    assert torch.equal(learner.online_parameters.values, before)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.cuda_graph": True, "env.overlap_updates": True},
        {"optimizer.cuda_graph": True, "env.overlap_updates": True, "env.overlap_acting": True},
        {"optimizer.cuda_graph": True, "optimizer.compile": True, "replay.storage": "device"},
        {"replay.sampling": "prioritized", "optimizer.cuda_graph": True},
        {"distributed.average": "delayed_gradients", "optimizer.cuda_graph": True},
        {
            "distributed.average": "parameters",
            "distributed.average_period_updates": 25,
            "optimizer.cuda_graph": True,
        },
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_a_run_with_recorded_updates(tmp_path, changes):
    config = workers.small_config().changed({"device": "cuda"} | changes)
    summary = train(config, LocalCommunicator(), RunDirectory(tmp_path / "run"))
    assert summary.progress.updates > 1000
    assert np.isfinite(summary.score.mean)


def test_acting_on_a_stream_of_its_own_is_by_the_copy_alone():
    """While the other stream is busy, and changes what it was copied from."""
    busy_cycles = 2_000_000_000  # a second
    learner = workers.make_learner(LocalCommunicator(), seed=0, device=torch.device("cuda"))
    policy = LatePolicy(learner.online, torch.device("cuda"))
    newest = GreedyPolicy(learner.online, torch.device("cuda"))
    obs = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    policy.follow()
    policy.values(obs)  # libraries load at the first, and the kernel that changes parameters
    learner.online_parameters.values.mul_(1.0)
    before = newest.values(obs)
    torch.cuda._sleep(busy_cycles)
    learner.online_parameters.values.mul_(1.1)
    is_done = torch.cuda.Event()
    is_done.record()
    np.testing.assert_allclose(policy.values(obs), before, rtol=1e-5, atol=1e-6)
    assert not is_done.query(), "it has not waited"
    torch.cuda._sleep(busy_cycles)
    policy.follow()
    late = policy.values(obs)
    assert is_done.query(), "it has waited for the copy"
    np.testing.assert_allclose(late, newest.values(obs), rtol=1e-5, atol=1e-6)
    assert np.abs(late - before).max() > 1e-3


def filled_replay(storage: str, device: str, **changes):
    """Images stacked by two, episodes that end, more steps than the ring holds; prioritised."""
    config = Config().changed(
        {
            "env.id": "MinAtar/Breakout-v1",
            "env.num_envs": 3,
            "env.frame_stack": 2,
            "replay.capacity": 90,
            "replay.batch_size": 64,
            "replay.n_step": 3,
            "replay.sampling": "prioritized",
            "replay.storage": storage,
            **changes,
        }
    )
    envs = make_vector_env(
        config.env, num_envs=3, episode_seed=lambda copy, number: 7 * number + copy
    )
    resources = Resources(
        run_dir=None,
        device=torch.device(device),
        envs=envs,
        evaluator=None,
        networks=None,
        saver=Mock(),
        stop=None,
    )
    replay = assemble_experience(config, LocalCommunicator(), resources, None)
    rng = np.random.default_rng(0)
    replay.start(envs.reset())
    for _ in range(70):
        action = rng.integers(envs.num_actions, size=3)
        replay.add(action, envs.step(action))
    envs.close()
    return replay


@pytest.mark.parametrize("storage", ["host", "device"])
@pytest.mark.parametrize(
    "changes", [{}, {"env.frame_stack": 4, "replay.n_step": 1, "replay.sampling": "uniform"}]
)
def test_batches_are_those_of_the_host(storage, changes):
    here = filled_replay("host", "cpu", **changes)
    there = filled_replay(storage, "cuda", **changes)
    for _ in range(20):
        ours, theirs = here.sample(0.5), there.sample(0.5)
        torch.cuda.synchronize()
        assert theirs.obs.is_cuda
        for name in ("obs", "action", "reward", "discount", "next_obs", "weight"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name).cpu()), name
        here.update_priorities(ours.slot, ours.reward.abs() + 0.1)
        there.update_priorities(theirs.slot, theirs.reward.abs() + 0.1)


def test_every_preset_updates_on_a_gpu(tmp_path):
    options = {"names": list(PRESETS), "run_dir": str(tmp_path), "changes": {"device": "cuda"}}
    for name, result in workers.presets(LocalCommunicator(), options).items():
        assert result["updates"] >= 3, name
        assert result["losses"], name


@pytest.mark.multirank
@pytest.mark.parametrize("backend", ["horovod", "mpi"])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("recorded", [False, True])
def test_ranks_train_on_gpus_shared_or_not(tmp_path, recorded, ranks, backend):
    run_dir = tmp_path / "run"
    options = ["--device", "cuda", "--distributed.backend", backend, "--run-dir", str(run_dir)]
    options += ["--optimizer.cuda_graph", str(recorded)]
    done = hvd_dqn("train", "cartpole", *SMALL, *options, ranks=ranks)
    assert done.code == 0, done.output
    facts = json.loads((run_dir / "run.json").read_text())
    assert all(device.startswith("cuda") for device in facts["devices"])
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    logged = [record for record in records if "speed/env_steps_per_second" in record]
    assert logged[-1]["updates"] > 0
    assert all(r["distributed/drift_max"] == 0 == r["distributed/resyncs"] for r in logged)
