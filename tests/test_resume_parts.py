"""run(2k) is run(k), its state put into new parts, and run(k): bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hvd_dqn import train as room
from hvd_dqn.assembly import assemble
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.resources import acquire
from hvd_dqn.run_directory import RunDirectory
from hvd_dqn.state_files import join, split
from tests.distributed.workers import small_config

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
    "εz-greedy, soft target": {
        "exploration.zeta_exponent": 2.0,
        "target_period_updates": 1,
        "target_step": 0.1,
    },
    "parameter averaging": {
        "distributed.average": "parameters",
        "distributed.average_period_updates": 25,
    },
    "rmsprop": {"optimizer.name": "rmsprop"},
    "radam": {"optimizer.name": "radam"},
    "MinAtar, stacked": {
        "env.id": "MinAtar/Breakout-v1",
        "env.frame_stack": 2,
        "network.torso": "minatar",
    },
    "Box2D": {"env.id": "LunarLander-v3"},
    "Atari": {
        "env.id": "ALE/Pong-v5",
        "env.num_envs": 2,
        "env.frame_stack": 4,
        "network.hidden_sizes": (16,),
        "total_env_steps": 400,
        "learning_starts_env_steps": 100,
    },
}


def parts_of(config, path):
    resources = acquire(config, LocalCommunicator(), RunDirectory(path))
    return resources, assemble(config, LocalCommunicator(), resources)


def iterate(config, parts, count):
    for _ in range(count):
        room.iterate(config, LocalCommunicator(), parts)


def equal(ours, theirs, path=""):
    assert type(ours) is type(theirs), path
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), path
        for key in ours:
            if key not in ("seconds", "period_seconds", "waited_seconds"):
                equal(ours[key], theirs[key], f"{path}/{key}")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), path
    elif isinstance(ours, float):
        assert np.array_equal(ours, theirs, equal_nan=True), path
    else:
        assert ours == theirs, path


@pytest.mark.parametrize("name", CASES)
def test_a_run_goes_on_bit_for_bit(name, tmp_path):
    config = small_config().changed({"distributed.threads_per_rank": 1} | CASES[name])
    count = config.total_env_steps // config.env_steps_per_iteration(1) // 2
    resources, parts = parts_of(config, tmp_path / "whole")
    iterate(config, parts, count)
    tensors, text = split(parts.state_dict())
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    iterate(config, parts, count)
    resources.close()
    # the second starts elsewhere in all it can: another seed's networks, replay and episodes
    other_resources, other = parts_of(config, tmp_path / "resumed")
    iterate(config, other, 3)
    assert other.load_state_dict(join(tensors, text)) == 0, "every episode was played again"
    iterate(config, other, count)
    other_resources.close()
    assert parts.learner.updates > 50
    equal(parts.state_dict(), other.state_dict())
