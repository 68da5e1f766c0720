"""When a run steps, updates and ends, in numbers that are equal on every rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hvd_dqn.config import Config
from hvd_dqn.methods import schedules


@dataclass(frozen=True)
class Pace:
    """The loop's counts, and the schedules that follow its counter of global env steps.

    An iteration takes `vector_steps` steps of the vector environment and then `updates` updates,
    once `updates_start_env_steps` have been taken. `epsilon` gives each of this rank's N
    environments its share of random actions [N]; `importance_exponent` gives β.
    """

    total_env_steps: int
    env_steps_per_vector_step: int
    vector_steps: int
    updates: int
    updates_start_env_steps: int
    overlap_updates: bool
    epsilon: Callable[[int], np.ndarray]
    importance_exponent: Callable[[int], float]

    @property
    def env_steps_per_iteration(self) -> int:
        """Global env steps of one iteration."""
        return self.vector_steps * self.env_steps_per_vector_step


def make_pace(config: Config, *, rank: int, world_size: int) -> Pace:
    """Return the pace of this configuration on rank `rank` of `world_size`."""
    num_envs, total = config.env.num_envs, config.total_env_steps

    def epsilon(env_steps: int) -> np.ndarray:
        return schedules.epsilon(
            config.exploration,
            env_steps,
            first=rank * num_envs,
            count=num_envs,
            total=world_size * num_envs,
        )

    return Pace(
        total_env_steps=total,
        env_steps_per_vector_step=num_envs * world_size,
        vector_steps=config.vector_steps_per_iteration,
        updates=config.updates_per_iteration,
        updates_start_env_steps=config.updates_start_env_steps(world_size),
        overlap_updates=config.env.overlap_updates,
        epsilon=epsilon,
        importance_exponent=lambda env_steps: schedules.importance_exponent(
            config.replay, env_steps / total
        ),
    )
