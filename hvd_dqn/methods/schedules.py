"""Values that change over a run: pure functions of a counter."""

from __future__ import annotations

import math

import numpy as np

from hvd_dqn.config import ExplorationConfig, OptimizerConfig, ReplayConfig


def linear(initial: float, final: float, share: float) -> float:
    """`initial` at share 0, `final` at share 1 and beyond."""
    return initial + (final - initial) * min(max(share, 0.0), 1.0)


def period_ended(now: int, last: int, period: int) -> bool:
    """Whether a multiple of `period` lies in the `last` steps up to `now`."""
    return now // period > (now - last) // period


def epsilon(
    config: ExplorationConfig, env_steps: int, *, first: int, count: int, total: int
) -> np.ndarray:
    """Shares of random actions [count] after `env_steps` global env steps, of the environments from
    number `first` on, of `total` over all ranks.
    """
    if config.kind == "ladder":  # Horgan et al. 2018, section 4
        place = np.arange(first, first + count) / max(total - 1, 1)
        rungs: np.ndarray = 0.4 ** (1 + 7 * place)
        return rungs
    decay = config.epsilon_decay_env_steps
    share = env_steps / decay if decay else 1.0
    return np.full(count, linear(config.epsilon_initial, config.epsilon_final, share))


def importance_exponent(config: ReplayConfig, share: float) -> float:
    """β after this share of the run."""
    return linear(config.importance_exponent_initial, config.importance_exponent_final, share)


def world_size_factor(config: OptimizerConfig, world_size: int) -> float:
    """What `world_size_scaling` multiplies the learning rate by."""
    return {"none": 1.0, "sqrt": math.sqrt(world_size), "linear": float(world_size)}[
        config.world_size_scaling
    ]


def learning_rate(
    config: OptimizerConfig, world_size: int, updates: int, planned_updates: int
) -> float:
    """The optimizer's step size for the update after `updates` of `planned_updates`."""
    warmup = config.warmup_updates
    rise = min((updates + 1) / warmup, 1.0) if warmup else 1.0
    share = updates / planned_updates
    if config.schedule == "cosine":  # Loshchilov & Hutter 2017, equation 5, without restarts
        share = (1 - math.cos(math.pi * min(share, 1.0))) / 2
    fall = linear(1.0, config.final_learning_rate_fraction, share)
    return config.learning_rate * world_size_factor(config, world_size) * rise * fall
