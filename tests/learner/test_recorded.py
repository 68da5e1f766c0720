"""Recorded passes and steps against those that the host launches one by one; without a GPU, a
function that is called again stands for the CUDA graph. On one: tests/test_gpu.py.
"""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

from hvd_dqn.acting.greedy import GreedyPolicy, LatePolicy
from hvd_dqn.config import NetworkConfig, ObjectiveConfig
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.learner import NonFiniteError, base
from hvd_dqn.methods.registry import make_network
from hvd_dqn.replay import ReplayBuffer
from hvd_dqn.run import requirements
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.training import train
from tests.distributed import workers

DISTRIBUTED = {
    "gradients": {},
    "delayed gradients": {"average": "delayed_gradients"},
    "parameters": {"average": "parameters", "average_period_updates": 5},
}


def learners(**options):
    """An eager and a recorded learner."""
    plain = workers.make_learner(LocalCommunicator(), seed=0, **options)
    optimizer = options.pop("optimizer", {}) | {"cuda_graph": True}
    with workers.recording_without_a_gpu(optimizer.get("name", "adam")) as record:
        learner = workers.make_learner(LocalCommunicator(), seed=0, optimizer=optimizer, **options)
    return plain, learner, record


@pytest.mark.parametrize("distributed", DISTRIBUTED.values(), ids=DISTRIBUTED)
@pytest.mark.parametrize(
    "optimizer",
    [
        {},
        {"max_grad_norm": None, "learning_rate": 1e-2},
        {"max_grad_norm": 0.3},  # between the least and the greatest
        {"name": "adamw", "weight_decay": 0.1, "warmup_updates": 10},
        {"name": "radam", "final_learning_rate_fraction": 0.0},
        {"name": "rmsprop"},
    ],
    ids=str,
)
def test_recorded_updates_equal_eager_ones(optimizer, distributed):
    plain, recorded, record = learners(optimizer=optimizer, distributed=distributed)
    before = recorded.online_parameters.values.clone()
    recorded.warm_up(workers.batches(1, 16)[0])
    assert torch.equal(recorded.online_parameters.values, before)
    norms = [0.0]
    for batch in workers.batches(60, 16):
        for learner in (plain, recorded):
            learner.start(batch)
            learner.finish()
        assert recorded.updates == plain.updates
        assert recorded.learning_rate == plain.learning_rate
        norms.append(plain.statistics.grad_norm)
    recorded.synchronize()
    assert record.call_count == 2, "passes and step"
    if optimizer.get("max_grad_norm"):
        clipped = np.diff(norms) > optimizer["max_grad_norm"]
        assert 5 < clipped.sum() < 55
    for name in ("online_parameters", "target_parameters"):
        one, other = (getattr(learner, name).values for learner in (plain, recorded))
        torch.testing.assert_close(other, one, rtol=1e-3, atol=2e-6)
    assert (recorded.online_parameters.values - before).abs().max() > 1e-3
    for learner in (plain, recorded):
        learner.statistics.on_its_way_seconds = 0.0
    assert vars(recorded.statistics) == pytest.approx(vars(plain.statistics), rel=1e-3, abs=1e-2)


def test_a_replays_share_divides_a_recorded_sum_too():
    plain, recorded, _ = learners(prioritized=True)
    share = workers.share_of(1)
    for batch in workers.batches(30, 16):
        for learner in (plain, recorded):
            learner.start(batch._replace(share=share))
            learner.finish()
    one, other = (learner.online_parameters.values for learner in (plain, recorded))
    torch.testing.assert_close(other, one, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("where", ["reward alone", "reward and observation"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("told_by", ["the next update", "synchronize", "saving"])
def test_a_bad_number_takes_no_recorded_step(bad, where, told_by):
    """Huber's gradient of an infinite reward is finite, its loss is not."""
    _, learner, _ = learners()
    good, broken, next_one = workers.batches(3, 8)
    learner.start(good)
    learner.finish()
    before = learner.online_parameters.values.clone()
    broken.reward[3] = bad
    if where != "reward alone":
        broken.obs[3] = bad
    learner.start(broken)
    learner.finish()
    assert torch.equal(learner.online_parameters.values, before)
    if told_by == "the next update":
        learner.start(next_one)
    tell = {
        "the next update": learner.finish,
        "synchronize": learner.synchronize,
        "saving": learner.state_dict,
    }[told_by]
    with pytest.raises(NonFiniteError, match="on rank 0 at update 1 "):
        tell()
    assert torch.equal(learner.online_parameters.values, before)
    assert learner.updates == 1


def test_a_stop_request_is_known_after_synchronizing():
    _, learner, _ = learners()
    learner._stop_requested = lambda: True
    (batch,) = workers.batches(1, 8)
    learner.start(batch)
    learner.finish()
    assert not learner.stop_agreed
    learner.synchronize()
    assert learner.stop_agreed


@pytest.mark.parametrize("distributed", DISTRIBUTED.values(), ids=DISTRIBUTED)
def test_a_state_includes_the_last_recorded_update(distributed):
    """It is saved between two updates and loaded by a learner with recordings of its own."""
    _, one, _ = learners(distributed=distributed)
    _, other, _ = learners(distributed=distributed)
    first, later = workers.batches(40, 16)[:20], workers.batches(40, 16)[20:]
    for batch in first:
        one.start(batch)
        one.finish()
    state = one.state_dict()
    assert one.statistics.updates == 20
    other.warm_up(first[0])
    other.load_state_dict(state)
    for batch in later:
        for learner in (one, other):
            learner.start(batch)
            learner.finish()
    assert torch.equal(one.online_parameters.values, other.online_parameters.values)
    assert torch.equal(one.target_parameters.values, other.target_parameters.values)


def test_warming_up_leaves_no_bad_number_behind():
    """A custom torso may divide by the standard deviation of a batch of zeros."""
    _, learner, _ = learners(distributed=DISTRIBUTED["parameters"])
    good = workers.batches(10, 8)
    blank = workers.batches(1, 8)[0]
    blank.obs[:] = float("nan")
    learner.warm_up(blank)
    for batch in good:
        learner.start(batch)
        learner.finish()
    assert learner.updates == 10


@pytest.fixture
def recording(monkeypatch):
    """Whole runs record without a GPU."""
    monkeypatch.setattr(requirements, "require_accelerators", lambda *arguments: None)
    monkeypatch.setattr(base, "record_on_gpu", workers.recorded_without_a_gpu)


def records(run_dir):
    return [json.loads(line) for line in run_dir.metrics_file.read_text().splitlines()]


@pytest.mark.parametrize("average", ["gradients", "delayed_gradients"])
def test_a_recorded_run_writes_the_same_records(recording, average, tmp_path):
    """Each record includes all updates so far."""
    told = {}
    for recorded in (False, True):
        config = workers.small_config().changed(
            {"optimizer.cuda_graph": recorded, "distributed.average": average}
        )
        run_dir = RunDirectory(tmp_path / str(recorded))
        train(config, LocalCommunicator(), run_dir)
        told[recorded] = [line for line in records(run_dir) if "loss/td_huber" in line]
    assert len(told[True]) == len(told[False]) > 3
    for ours, theirs in zip(told[True], told[False], strict=True):
        assert ours["updates"] == theirs["updates"]
    ours, theirs = (told[recorded][0]["loss/td_huber"] for recorded in (True, False))
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_a_bad_number_is_reported_before_the_next_evaluation(recording, monkeypatch, tmp_path):
    """Otherwise the evaluation would be recorded first."""
    sample = ReplayBuffer.batches

    def spoilt(self, count, exponent):
        for batch in sample(self, count, exponent):
            now = spoilt.calls = spoilt.calls + 1
            if now == 60:
                batch.reward[0] = float("inf")
            yield batch

    spoilt.calls = 0
    monkeypatch.setattr(ReplayBuffer, "batches", spoilt)
    config = workers.small_config().changed(
        {"optimizer.cuda_graph": True}
        | {f"{section}.period_env_steps": 8 for section in ("evaluation", "logging", "checkpoint")}
    )
    run_dir = RunDirectory(tmp_path / "run")
    with pytest.raises(NonFiniteError, match="at update 59 "):
        train(config, LocalCommunicator(), run_dir)
    assert max(line["updates"] for line in records(run_dir)) == 56, "the iteration before"


def test_a_late_policy_copies_buffers_too():
    """Such as spectral norms, by which convolutions are divided."""
    network = make_network(
        NetworkConfig(torso="impala", spectral_norm=True, hidden_sizes=(16,)),
        ObjectiveConfig(),
        obs_space=gym.spaces.Box(0, 255, (4, 40, 40), np.uint8),
        num_actions=3,
        device=torch.device("cpu"),
    )
    cpu = torch.device("cpu")
    policy, newest = LatePolicy(network, cpu), GreedyPolicy(network, cpu)
    obs = np.random.default_rng(0).integers(0, 256, (2, 4, 40, 40)).astype(np.uint8)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        before = policy.values(obs)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.3)
        network.prepare(generator, learning=True)
        assert np.array_equal(policy.values(obs), before)
        policy.follow()
        np.testing.assert_allclose(policy.values(obs), newest.values(obs), rtol=1e-5)
        assert not np.allclose(policy.values(obs), before)


def test_a_run_may_resume_with_and_without_overlap_acting(tmp_path):
    """From a checkpoint without a late policy, and from one with it."""
    config = workers.small_config().changed({"env.overlap_updates": True, "total_env_steps": 400})
    run_dir = RunDirectory(tmp_path / "run")
    train(config, LocalCommunicator(), run_dir)
    longer = config.changed({"env.overlap_acting": True, "total_env_steps": 800})
    changes = {"env.overlap_acting", "total_env_steps"}
    summary = train(longer, LocalCommunicator(), run_dir, changes=changes)
    assert summary.progress.env_steps >= 800
    without = longer.changed({"env.overlap_acting": False, "total_env_steps": 1200})
    summary = train(without, LocalCommunicator(), run_dir, changes=changes)
    assert summary.progress.env_steps >= 1200
