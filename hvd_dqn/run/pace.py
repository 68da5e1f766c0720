"""When a run steps, updates and ends, in numbers that are equal on every rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hvd_dqn.config import Config
from hvd_dqn.methods import schedules


@dataclass(frozen=True)
class Pace:
    """The loop's counts, and the schedule of the importance exponent.

    A vector step counts the env steps of the ranks that take it together: all, or with a parameter
    server one. An iteration takes `vector_steps` steps of the vector environment and then `updates`
    updates, once `updates_start_env_steps` have been taken. `importance_exponent` gives β after a
    number of global env steps.
    """

    total_env_steps: int
    env_steps_per_vector_step: int
    vector_steps: int
    updates: int
    updates_start_env_steps: int
    overlap_updates: bool
    importance_exponent: Callable[[int], float]

    @property
    def env_steps_per_iteration(self) -> int:
        """Env steps of one iteration."""
        return self.vector_steps * self.env_steps_per_vector_step


def make_pace(config: Config, *, world_size: int) -> Pace:
    """Return the pace of this configuration on `world_size` ranks."""
    total = config.total_env_steps
    return Pace(
        total_env_steps=total,
        env_steps_per_vector_step=config.env.ready_envs * config.ranks_together(world_size),
        vector_steps=config.vector_steps,
        updates=config.updates,
        updates_start_env_steps=config.updates_start_env_steps(world_size),
        overlap_updates=config.env.overlap_updates,
        importance_exponent=lambda env_steps: schedules.importance_exponent(
            config.replay, env_steps / total
        ),
    )
