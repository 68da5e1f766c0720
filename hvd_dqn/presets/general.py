"""For an environment without a preset of its own."""

from __future__ import annotations

from collections.abc import Callable

from hvd_dqn.config import (
    Config,
    EnvConfig,
    EvaluationConfig,
    ExplorationConfig,
    NetworkConfig,
    OptimizerConfig,
    ReplayConfig,
)


def general() -> Config:
    """Any environment: `hvd-dqn train --env.id ENVIRONMENT` starts from these settings.

    They assume nothing about observations and rewards: numbers are normalised by their running
    statistics, returns are of one step, and random actions are repeated for random durations.
    """
    return Config(
        preset="general",
        total_env_steps=100_000,
        learning_starts_env_steps=1_000,
        vector_steps_per_iteration=1,
        updates_per_iteration=4,
        target_period_updates=1,
        target_step=0.005,
        env=EnvConfig(id="CartPole-v1", num_envs=8),
        network=NetworkConfig(layer_norm=True, normalize_observations=True),
        replay=ReplayConfig(capacity=100_000, batch_size=128),
        optimizer=OptimizerConfig(
            learning_rate=5e-4, final_learning_rate_fraction=0.05, world_size_scaling="sqrt"
        ),
        exploration=ExplorationConfig(
            epsilon_final=0.05, epsilon_decay_env_steps=20_000, zeta_exponent=2.0
        ),
        evaluation=EvaluationConfig(period_env_steps=10_000),
    )


PRESETS: dict[str, Callable[[], Config]] = {"general": general}
