"""PQN: Q(λ) from rollouts, without replay and target network (Gallici, Fellows, Ellis, Pou,
Masmitja, Foerster & Martin 2025, "Simplifying Deep Temporal Difference Learning").

The settings are those of the authors' configurations (purejaxql: pqn_atari, pqn_minatar and
pqn_cartpole), for one rank. Differences, with reasons:

- After a convolution, features of all channels and places are normalised together; purejaxql
  normalises the channels of each place.
- Layers have torch's initial weights; purejaxql's are those of He et al. 2015.
- A truncated episode bootstraps from its final observation; purejaxql treats it as terminal.
- `pqn` has the budget of the paper, 50 million env steps.
- `pqn` uses the network of Mnih et al. 2015, as purejaxql does, and clips rewards to ±1. Like
  `dqn`, it plays by the protocol of Machado et al. 2018 unless `env.atari-protocol` says otherwise;
  the authors' is that of 2015.
- `minatar-pqn` plays MinAtar's games (`-v0`: six actions, sticky actions). The authors play
  gymnax's versions, for which `--env.id gymnax:Breakout-MinAtar` can be given.
- `lunarlander-pqn` has no model there: it is `cartpole-pqn` with a budget for LunarLander.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvd_dqn.config import Config

_COMMON: dict[str, Any] = {
    "vector_steps_per_iteration": 1,
    "updates_per_iteration": 1,
    "learning_starts_env_steps": 0,
    "target_period_updates": 512,  # only synchronises the ranks
    "network.layer_norm": True,
    "objective.double": False,
    "objective.loss": "squared",
    "optimizer.name": "radam",
    "optimizer.final_learning_rate_fraction": 0.0,
    "optimizer.max_grad_norm": 10.0,
}
_MINATAR: dict[str, Any] = {
    "preset": "minatar-pqn",
    "total_env_steps": 10_000_000,
    "env.id": "MinAtar/Breakout-v0",
    "env.num_envs": 128,
    "network.hidden_sizes": (128,),
    "rollout.steps": 32,
    "rollout.epochs": 2,
    "rollout.minibatches": 32,
    "rollout.td_lambda": 0.65,
    "optimizer.learning_rate": 5e-4,
    "exploration.epsilon_final": 0.05,
    "exploration.epsilon_decay_env_steps": 1_000_000,
    "evaluation.period_env_steps": 500_000,
    "evaluation.episodes": 20,
    "evaluation.final_episodes": 100,
    "logging.period_env_steps": 100_000,
}
_ATARI: dict[str, Any] = {
    **_MINATAR,
    "preset": "pqn",
    "total_env_steps": 50_000_000,
    "env.id": "ALE/Breakout-v5",
    "env.frame_stack": 4,
    "env.reward_clip": 1.0,
    "network.hidden_sizes": (512,),
    "optimizer.learning_rate": 2.5e-4,
    "optimizer.final_learning_rate_fraction": 1.0,
    "exploration.epsilon_final": 0.001,
    "exploration.epsilon_decay_env_steps": 5_000_000,
    "evaluation.episodes": 8,
    "evaluation.final_episodes": 30,
}
_CARTPOLE: dict[str, Any] = {
    "preset": "cartpole-pqn",
    "total_env_steps": 500_000,
    "env.id": "CartPole-v1",
    "env.num_envs": 32,
    "env.reward_scale": 0.1,
    "network.hidden_sizes": (256, 256),
    "rollout.steps": 64,
    "rollout.epochs": 4,
    "rollout.minibatches": 16,
    "rollout.td_lambda": 0.95,
    "optimizer.learning_rate": 1e-4,
    "exploration.epsilon_final": 0.2,
    "exploration.epsilon_decay_env_steps": 100_000,
    "evaluation.period_env_steps": 25_000,
    "logging.period_env_steps": 10_000,
}
_LUNARLANDER: dict[str, Any] = {
    **_CARTPOLE,
    "preset": "lunarlander-pqn",
    "total_env_steps": 1_000_000,
    "env.id": "LunarLander-v3",
    "env.reward_scale": 1.0,
    "exploration.epsilon_final": 0.05,
    "exploration.epsilon_decay_env_steps": 200_000,
    "evaluation.period_env_steps": 50_000,
    "logging.period_env_steps": 20_000,
}


def pqn() -> Config:
    """PQN (Gallici et al. 2025) on Atari: rollouts instead of a replay."""
    return Config().changed(_COMMON | _ATARI)


def minatar_pqn() -> Config:
    """PQN (Gallici et al. 2025) on MinAtar: ten million env steps in minutes on one core."""
    return Config().changed(_COMMON | _MINATAR)


def cartpole_pqn() -> Config:
    """PQN (Gallici et al. 2025) on CartPole."""
    return Config().changed(_COMMON | _CARTPOLE)


def lunarlander_pqn() -> Config:
    """PQN (Gallici et al. 2025) on LunarLander."""
    return Config().changed(_COMMON | _LUNARLANDER)


PRESETS: dict[str, Callable[[], Config]] = {
    "pqn": pqn,
    "minatar-pqn": minatar_pqn,
    "cartpole-pqn": cartpole_pqn,
    "lunarlander-pqn": lunarlander_pqn,
}
