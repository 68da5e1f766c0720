"""Tianshou's DQN, with its own collector and trainer.

    python benchmarks/peer_tianshou.py '{"env_id": "CartPole-v1", …}'

The argument is `compare.WORK`. `compare.py` runs this in the peers' Python.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from typing import Any

import gymnasium as gym
import torch
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, CollectStats, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net


def main(work: dict[str, Any]) -> None:
    """Train; prints the env steps per second of each record as JSON."""
    torch.set_num_threads(1)
    envs = DummyVectorEnv([lambda: gym.make(work["env_id"])] * work["num_envs"])
    env = gym.make(work["env_id"])
    net = Net(
        state_shape=env.observation_space.shape,
        action_shape=env.action_space.n,
        hidden_sizes=work["hidden_sizes"],
    )
    policy = DiscreteQLearningPolicy(
        model=net, action_space=env.action_space, eps_training=0.04, eps_inference=0.0
    )
    algorithm = DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=work["learning_rate"]),
        gamma=work["gamma"],
        target_update_freq=work["target_period_updates"],
        is_double=False,
        huber_loss_delta=1.0,
    )
    buffer = VectorReplayBuffer(work["capacity"], work["num_envs"])
    collector = Collector[CollectStats](algorithm, envs, buffer, exploration_noise=True)
    collector.reset()
    collector.collect(n_step=work["learning_starts"], random=True)
    times: list[tuple[int, float]] = []

    def note(epoch: int, env_steps: int) -> None:
        if not times or env_steps >= times[-1][0] + work["record_env_steps"]:
            times.append((env_steps, time.perf_counter()))

    algorithm.run_training(
        OffPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=work["total_env_steps"],
            collection_step_num_env_steps=work["round_env_steps"],
            update_step_num_gradient_steps_per_sample=work["round_updates"]
            / work["round_env_steps"],
            batch_size=work["batch_size"],
            training_fn=note,
            verbose=False,
            show_progress=False,
        )
    )
    rates = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(times[1:])]
    print(json.dumps({"env_steps_per_second": rates}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
