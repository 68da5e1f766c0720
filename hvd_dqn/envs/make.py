"""From an environment's id to environments, or to a one-line error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import EnvConfig
from hvd_dqn.distributed.communicator import hostname
from hvd_dqn.envs.atari import Atari, SingleAtari
from hvd_dqn.envs.checks import require_three_axes
from hvd_dqn.envs.driving import Driving
from hvd_dqn.envs.family import Family, Made
from hvd_dqn.envs.interface import GroupLostError, Place, told
from hvd_dqn.envs.jax import Gymnax, Jumanji
from hvd_dqn.envs.minatar import MinAtar
from hvd_dqn.envs.minigrid import MiniGrid
from hvd_dqn.envs.pools import EnvPool
from hvd_dqn.envs.ready import ReadyEnvironment
from hvd_dqn.envs.simulators import Simulators
from hvd_dqn.envs.solvers import make_solver_simulators
from hvd_dqn.envs.vector import VectorEnvironment

FAMILIES = (
    *(EnvPool(), Gymnax(), Jumanji()),
    *(Atari(), SingleAtari(), MinAtar(), MiniGrid(), Driving(), Family()),
)
"""A new family is one module with a subclass of `Family`, and one entry here. The first that claims
an id makes its environments; the last one claims all ids.
"""


def family_of(config: EnvConfig) -> Family:
    """Return the family of `env.id`."""
    return next(family for family in FAMILIES if family.claims(config))


def make_env(config: EnvConfig, **kwargs: Any) -> gym.Env[Any, Any]:
    """Return one Gymnasium environment; see `Family.make_env`."""
    return family_of(config).make_env(config, **kwargs)


def make_vector_env(
    config: EnvConfig,
    *,
    num_envs: int,
    episode_seed: Callable[[int, int], int],
    rank: int = 0,
    first_copy: int = 0,
    max_episode_steps: int | None = None,
    threads: int = 1,
    pictures: bool = False,
    info_keys: Sequence[str] = (),
    on_step: Callable[[], None] = lambda: None,
    ready: int | None = None,
) -> VectorEnvironment:
    """Return `num_envs` copies that step together; episode k of copy i starts from
    `episode_seed(i, k)`.

    `rank` and `first_copy` number the copies, for messages and the placeholders in `env.kwargs`.
    `max_episode_steps` truncates the episodes of an environment without its own limit, and Atari
    games if it is below theirs. `threads` is the number for simulators that step their copies in
    threads (Atari). `pictures`: the copies can be rendered (`VectorEnvironment.picture`).
    `info_keys` names the numbers in infos that episodes keep. `on_step` is called after every step.
    `ready`: each step finishes those of so many copies, for environments in processes. Raises
    `UserError` if the environments cannot be made.
    """
    family = family_of(config)
    places = [
        Place(rank, copy, copies=2 * config.num_envs + 1)
        for copy in range(first_copy, first_copy + num_envs)
    ]

    def make() -> Made:
        if config.ranks_per_env:
            if info_keys:
                raise UserError(
                    "logging.info-keys: solver ranks send no infos",
                    "leave it out, or env.ranks-per-env",
                )
            return make_solver_simulators(config, places, pictures=pictures, on_wait=on_step)
        return family.make_simulators(
            config, places, threads=threads, pictures=pictures, info_keys=info_keys
        )

    left = config.restarts

    def remake(error: Exception, close: Callable[[], None]) -> Simulators:
        nonlocal left
        if left == 0 or isinstance(error, GroupLostError):
            raise error
        left -= 1
        print(
            f"hvd-dqn: {told(error)} (on {hostname()}); recreating all {num_envs} environments "
            f"of its rank, {left} restarts left",
            file=sys.stderr,
            flush=True,
        )
        close()
        return make().simulators

    simulators, limit_of = make()
    try:
        require_three_axes(config.id, simulators.raw_space, config.channels)
    except UserError:
        simulators.close()
        raise
    kind = VectorEnvironment if ready is None else partial(ReadyEnvironment, ready=ready)
    return kind(
        simulators,
        episode_seed=episode_seed,
        frame_stack=config.frame_stack,
        channels=family.channels if config.channels == "auto" else config.channels,
        reward_scale=config.reward_scale,
        reward_clip=config.reward_clip,
        info_keys=info_keys,
        max_episode_steps=max_episode_steps,
        limit_of=limit_of,
        places=places,
        remake=remake,
        on_step=on_step,
    )
