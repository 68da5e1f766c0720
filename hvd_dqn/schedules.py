"""Values that change over a run: pure functions of a counter."""

from __future__ import annotations

import math

from hvd_dqn.config import ExplorationConfig, OptimizerConfig


def linear(initial: float, final: float, share: float) -> float:
    """`initial` at share 0, `final` at share 1 and beyond."""
    return initial + (final - initial) * min(max(share, 0.0), 1.0)


def epsilon(config: ExplorationConfig, env_steps: int) -> float:
    """Share of random actions after `env_steps` global env steps."""
    decay = config.epsilon_decay_env_steps
    return linear(config.epsilon_initial, config.epsilon_final, env_steps / decay if decay else 1.0)


def world_size_factor(config: OptimizerConfig, world_size: int) -> float:
    """What `world_size_scaling` multiplies the learning rate by."""
    return {"none": 1.0, "sqrt": math.sqrt(world_size), "linear": float(world_size)}[
        config.world_size_scaling
    ]


def learning_rate(
    config: OptimizerConfig, world_size: int, updates: int, planned_updates: int
) -> float:
    """Adam's step size for the update after `updates` of `planned_updates`."""
    warmup = config.warmup_updates
    rise = min((updates + 1) / warmup, 1.0) if warmup else 1.0
    fall = linear(1.0, config.final_learning_rate_fraction, updates / planned_updates)
    return config.learning_rate * world_size_factor(config, world_size) * rise * fall
