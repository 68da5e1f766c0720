"""The family of MiniGrid and BabyAI."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from hvd_dqn.config import EnvConfig
from hvd_dqn.envs.family import Family
from hvd_dqn.envs.interface import ONLY, Place
from hvd_dqn.spaces.records import Text

_CODES = (11, 6, 4)
"""Kinds of objects, colours, and states of a cell; the agent's direction is the fourth state."""


class MiniGrid(Family):
    """Grids of codes, which are no colours, and a mission as text."""

    ids = r"(MiniGrid|BabyAI)-"
    package = "minigrid"
    module = "minigrid"
    extra = "minigrid"
    text: Text | None = "drop"

    def make_env(self, config: EnvConfig, place: Place = ONLY, **kwargs: Any) -> gym.Env[Any, Any]:
        """See `Family`."""
        return CodedGrids(super().make_env(config, place, **kwargs))


class CodedGrids(gym.Wrapper[Any, Any, Any, Any]):
    """Declares MiniGrid's images as what they are: in each cell an object, a colour and a state,
    which networks get one-hot. Its missions are text in a space of MiniGrid's own.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Dict):
            return  # a wrapper has changed it
        parts = dict(space.spaces)
        image = parts.get("image")
        if isinstance(image, gym.spaces.Box) and image.shape[2:] == (3,) and max(image.shape) < 30:
            parts["image"] = gym.spaces.MultiDiscrete(np.broadcast_to(_CODES, image.shape))
        if type(parts.get("mission")).__name__ == "MissionSpace":
            parts["mission"] = gym.spaces.Text(200)
        self.observation_space = gym.spaces.Dict(parts)
