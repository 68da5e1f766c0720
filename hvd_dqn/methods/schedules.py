"""Schedules of settings over a run: pure functions of a counter."""

from __future__ import annotations

import math

from hvd_dqn.config import OptimizerConfig, ReplayConfig


def linear(initial: float, final: float, share: float) -> float:
    """Interpolate from `initial` at share 0 to `final` at share 1 and above."""
    return initial + (final - initial) * min(max(share, 0.0), 1.0)


def period_ended(now: int, last: int, period: int) -> bool:
    """Whether a multiple of `period` lies in the `last` steps up to `now`."""
    return now // period > (now - last) // period


def importance_exponent(config: ReplayConfig, share: float) -> float:
    """Return β after this share of the run."""
    return linear(config.importance_exponent_initial, config.importance_exponent_final, share)


def world_size_factor(config: OptimizerConfig, world_size: int) -> float:
    """Return the factor by which `world_size_scaling` multiplies the learning rate."""
    return {"none": 1.0, "sqrt": math.sqrt(world_size), "linear": float(world_size)}[
        config.world_size_scaling
    ]


def learning_rate(
    config: OptimizerConfig, world_size: int, updates: int, planned_updates: int
) -> float:
    """Return the learning rate of the update that follows `updates` of `planned_updates`."""
    warmup = config.warmup_updates
    rise = min((updates + 1) / warmup, 1.0) if warmup else 1.0
    share = updates / planned_updates
    if config.schedule == "cosine":  # Loshchilov & Hutter 2017, equation 5, without restarts
        share = (1 - math.cos(math.pi * min(share, 1.0))) / 2
    fall = linear(1.0, config.final_learning_rate_fraction, share)
    return config.learning_rate * world_size_factor(config, world_size) * rise * fall
