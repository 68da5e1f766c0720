"""The family of MinAtar."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any, cast

import gymnasium as gym

from hvd_dqn.envs.family import Family


class MinAtar(Family):
    """MinAtar registers its ids when asked to, and its episodes need `FreshEpisodes`."""

    ids = r"MinAtar/"
    package = "minatar"
    module = "minatar.gym"
    extra = "minatar"
    channels = "last"

    def _construct(self, env_id: str, kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
        with warnings.catch_warnings():
            # Gymnasium calls `-v0` older than `-v1`; they differ in their actions.
            warnings.filterwarnings("ignore", ".*is out of date")
            return FreshEpisodes(super()._construct(env_id, kwargs))

    def _register_ids(self, module: ModuleType) -> None:
        if "MinAtar/Breakout-v1" not in gym.registry:
            cast(Any, module).register_envs()


class FreshEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Starts MinAtar's episodes as a new game would.

    MinAtar 1.0.15 keeps the last action over a reset: a sticky first step would repeat the last
    action of the previous episode. It also seeds by making a new generator, which takes 90 µs, as
    long as ten steps; seeding in place gives the same numbers and takes 1.5 µs.
    """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode that depends only on its seed."""
        game = self.env.get_wrapper_attr("game")
        game.last_action = 0
        if seed is not None:
            game.random.seed(seed)
            game.env.random = game.random
        return super().reset(options=options)
