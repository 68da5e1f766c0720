"""Driving: highway-env, with the settings of the DQN example in its documentation.

Differences: four environments step together, at the same ratio of one update per env step; double
DQN; the learning rate falls to a tenth.
"""

from __future__ import annotations

from collections.abc import Callable

from hvd_dqn.config import Config


def highway() -> Config:
    """highway-fast-v0: drive fast, keep right, and avoid collisions."""
    return Config(preset="highway").changed(
        {
            "env.id": "highway-fast-v0",
            "env.num_envs": 4,
            "total_env_steps": 20_000,
            "learning_starts_env_steps": 200,
            "updates_per_iteration": 4,
            "target_period_updates": 50,
            "network.hidden_sizes": (256, 256),
            "replay.capacity": 15_000,
            "replay.batch_size": 32,
            "objective.gamma": 0.8,
            "optimizer.learning_rate": 5e-4,
            "optimizer.final_learning_rate_fraction": 0.1,
            "exploration.epsilon_final": 0.05,
            "exploration.epsilon_decay_env_steps": 2_000,
            "evaluation.period_env_steps": 4_000,
            "evaluation.episodes": 20,
            "evaluation.final_episodes": 50,
        }
    )


PRESETS: dict[str, Callable[[], Config]] = {"highway": highway}
