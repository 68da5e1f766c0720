"""run(2k) is run(k), a checkpoint on disk, and run(k): bit for bit."""

from __future__ import annotations

import json

import pytest

from hvd_dqn.common.errors import StoppedError, UserError
from hvd_dqn.common.signals import StopRequest
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.learner import base
from hvd_dqn.run import requirements
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.training import train
from tests.checkpoints import assert_equal, everything
from tests.distributed.workers import ROLLOUTS, recorded_without_a_gpu, small_config

CASES = {
    "uniform": {},
    "prioritised": {"replay.sampling": "prioritized"},
    "noisy and implicit quantiles": {
        "network.noisy": True,
        "network.dueling": True,
        "network.dropout": 0.1,
        "objective.distribution": "implicit_quantile",
        "objective.num_taus": 4,
        "objective.num_target_taus": 4,
    },
    "εz-greedy, soft target, rmsprop": {
        "optimizer.name": "rmsprop",
        "exploration.zeta_exponent": 2.0,
        "target_period_updates": 1,
        "target_step": 0.1,
    },
    "compiled": {"optimizer.compile": True},
    "recorded": {"optimizer.cuda_graph": True},
    "recorded, one update late": {
        "optimizer.cuda_graph": True,
        "distributed.average": "delayed_gradients",
    },
    "gradients applied one update late": {"distributed.average": "delayed_gradients"},
    "prioritised, one update late": {
        "distributed.average": "delayed_gradients",
        "replay.sampling": "prioritized",
    },
    "parameter averaging": {
        "distributed.average": "parameters",
        "distributed.average_period_updates": 25,
    },
    "MinAtar, stacked": {
        "env.id": "MinAtar/Breakout-v1",
        "env.frame_stack": 2,
        "network.torso": "minatar",
    },
    "updates while environments step": {
        "env.overlap_updates": True,
        "learning_starts_env_steps": 0,
        "total_env_steps": 800,
    },
    "acting by the network before the last updates": {
        "env.overlap_updates": True,
        "env.overlap_acting": True,
        "network.noisy": True,
        "total_env_steps": 800,
    },
    "rollouts": {**ROLLOUTS, "network.noisy": True},
    "rollouts, compiled, of masked records": {
        **ROLLOUTS,
        "env.id": "tests.envs.toy:ToyMaskedRing-v0",
        "optimizer.compile": True,
    },
    "rollouts, recorded": {**ROLLOUTS, "optimizer.cuda_graph": True},
    "rollouts of several dimensions, one update late": {
        **ROLLOUTS,
        "env.id": "Pendulum-v1",
        "env.joint_actions": 2,
        "distributed.average": "delayed_gradients",
    },
    "Box2D": {"env.id": "LunarLander-v3"},
    "masked records": {
        "env.id": "tests.envs.toy:ToyMaskedRing-v0",
        "env.frame_stack": 2,
        "exploration.zeta_exponent": 2.0,
    },
    "images, grids and words": {
        "env.id": "tests.envs.toy:ToyComposite-v0",
        "env.text": "tokens",
        "network.scale_observations": False,
    },
    "normalised": {
        "network.normalize_observations": True,
        "network.scale_observations": False,
        "objective.normalize_rewards": True,
    },
    "actions of several dimensions": {"env.id": "Pendulum-v1", "env.joint_actions": 2},
    "Atari": {
        "env.id": "ALE/Pong-v5",
        "env.num_envs": 2,
        "env.frame_stack": 4,
        "network.hidden_sizes": (16,),
        "total_env_steps": 400,
        "learning_starts_env_steps": 100,
        "evaluation.max_episode_steps": 50,
    },
}


class StopAfter(StopRequest):
    """A stop request that is made after a number of checks."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    @property
    def reason(self):
        self.looks -= 1
        return "the test" if self.looks < 0 else None


def records(run_dir):
    """Return the records of the run without times."""
    lines = map(json.loads, run_dir.metrics_file.read_text().splitlines())
    timed = ("seconds", "speed/", "distributed/hidden", "distributed/transfer", "time/", "rank/")
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in lines]


@pytest.mark.parametrize("name", CASES)
def test_a_run_goes_on_bit_for_bit(name, tmp_path, monkeypatch):
    if CASES[name].get("optimizer.cuda_graph"):
        monkeypatch.setattr(requirements, "require_accelerators", lambda *arguments: None)
        monkeypatch.setattr(base, "record_on_gpu", recorded_without_a_gpu)
    config = small_config().changed(
        {"distributed.threads_per_rank": 1, "checkpoint.period_env_steps": 150} | CASES[name]
    )
    whole, parted = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "parted")
    summary = train(config, LocalCommunicator(), whole)
    stops = 0
    for looks in (20, 33, 47, None):
        stop = StopRequest() if looks is None else StopAfter(looks)
        try:
            again = train(config, LocalCommunicator(), parted, stop=stop)
        except StoppedError:
            stops += 1
    assert stops == 3, "it was stopped at three places, and went on from each"
    assert summary.score == again.score
    assert summary.progress == again.progress
    assert_equal(everything(whole.checkpoints), everything(parted.checkpoints))
    assert_equal(records(whole), records(parted))


def test_a_run_cannot_change_between_replay_and_rollouts(tmp_path):
    place = RunDirectory(tmp_path)
    train(small_config(), LocalCommunicator(), place)
    longer = small_config().changed(ROLLOUTS | {"total_env_steps": 3000})
    changes = {"total_env_steps", *ROLLOUTS}
    with pytest.raises(UserError, match=r"of a run without rollouts: start a new run"):
        train(longer, LocalCommunicator(), place, changes=changes)
