"""Environments that do to a run what simulators' wrappers do, named `tests.run.toys:Name-v0`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import gymnasium as gym
import numpy as np


class Plain(gym.Env):
    """Shows zeros for 20 steps and pays 1 for each."""

    observation_space = gym.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)
    reward = 1.0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(4, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(4, np.float32), self.reward, self.steps == 20, False, {}


class Curriculum(Plain):
    """Pays more in every episode of its life."""

    reward = -1.0

    def reset(self, **kwargs):
        self.reward += 1
        return super().reset(**kwargs)


class Shrinking(Plain):
    """Whose episodes end earlier once it was made anew: the first of its life takes 9 steps."""

    first = True

    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        ended = self.steps == (9 if self.first else 20)
        self.first = self.first and not ended
        return obs, reward, ended, truncated, info


class Moving(Plain):
    """Changes the working directory when it is made, and in every episode."""

    def __init__(self, place):
        self.place = place
        os.chdir(Path(place))

    def reset(self, **kwargs):
        os.chdir(Path(self.place))
        return super().reset(**kwargs)


class Deaf(Plain):
    """Takes the handlers of signals away: `when` it is made, or in its first episode."""

    def __init__(self, when="made"):
        self.when = when
        if when == "made":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def reset(self, **kwargs):
        if self.when == "reset":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return super().reset(**kwargs)


for _cls in (Plain, Curriculum, Shrinking, Moving, Deaf):
    gym.register(f"{_cls.__name__}-v0", entry_point=_cls)
