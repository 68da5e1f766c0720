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
    """Declares MiniGrid's images as what they are: in each cell an object, a colour and a state.
    The networks get them one-hot.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        space = env.observation_space
        if isinstance(space, gym.spaces.Dict) and "image" in space.spaces:
            shape = space["image"].shape
            if shape is not None and shape[-1:] == (3,) and space["image"].dtype == np.uint8:
                codes = gym.spaces.MultiDiscrete(np.broadcast_to(_CODES, shape), dtype=np.uint8)
                self.observation_space = gym.spaces.Dict({**space.spaces, "image": codes})
