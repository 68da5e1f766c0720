"""Atari on a few CPU cores: double DQN with the small network of Mnih et al. 2013, "Playing Atari
with Deep Reinforcement Learning".

A pass of that network takes a third of the arithmetic of that of 2015. Everything else is like
`double-dqn` of 2016, except

- three-step returns, and Adam with a learning rate of 2.5e-4 and an ε of 1e-4;
- a replay of 100,000 transitions, updates from the 10,000th env step on, and ε of 0.01 from the
  100,000th on, because the budget is shorter: 700,000 env steps on Pong, otherwise 2 million;
- the target network is updated every 1,000 updates;
- evaluations of five games every 100,000 env steps;
- passes are compiled, for which a C++ compiler is needed.

The protocol is that of 2015; `--env.atari-protocol machado2018` plays with sticky actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvd_dqn.config import Config
from hvd_dqn.presets.atari import double_dqn

_COMMON: dict[str, Any] = {
    "total_env_steps": 2_000_000,
    "learning_starts_env_steps": 10_000,
    "target_period_updates": 1_000,
    "network.torso": "mnih2013",
    "network.hidden_sizes": (256,),
    "replay.capacity": 100_000,
    "replay.n_step": 3,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 2.5e-4,
    "optimizer.adam_eps": 1e-4,
    "optimizer.compile": True,
    "exploration.epsilon_decay_env_steps": 100_000,
    "evaluation.period_env_steps": 100_000,
    "evaluation.episodes": 5,
}


def atari_cpu() -> Config:
    """Atari on two cores: double DQN with the network of Mnih et al. 2013."""
    return double_dqn().changed({**_COMMON, "preset": "atari-cpu", "env.id": "ALE/Breakout-v5"})


def pong_cpu() -> Config:
    """Pong on two cores: double DQN with the network of Mnih et al. 2013, in 700,000 env steps."""
    return double_dqn().changed({**_COMMON, "preset": "pong-cpu", "total_env_steps": 700_000})


PRESETS: dict[str, Callable[[], Config]] = {"atari-cpu": atari_cpu, "pong-cpu": pong_cpu}
