"""Wrappers and an environment with infos, as a user's module would define them."""

import gymnasium as gym
import numpy as np


class Appended(gym.ObservationWrapper):
    """Appends a constant to the observation."""

    def __init__(self, env, value=1.0, shape=(1,)):
        super().__init__(env)
        assert isinstance(shape, tuple)
        self.value = np.full(shape, value)
        size = env.observation_space.shape[0] + len(self.value)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def observation(self, observation):
        return np.append(observation, self.value)


def broken(env):
    raise ValueError("no such sensor")


def not_a_wrapper(env):
    return 3


class Informative(gym.Env):
    """Episodes of `length` steps; `info` has the step, twice it in a nested dictionary, `success`
    only at an even step, and a text.
    """

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length=3):
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(2, np.float32), {"distance": -1}

    def step(self, action):
        self.steps += 1
        info = {"distance": self.steps, "inner": {"twice": 2.0 * self.steps}, "text": "x"}
        if self.steps % 2 == 0:
            info["success"] = np.bool_(True)
        return np.zeros(2, np.float32), 1.0, self.steps == self.length, False, info


def make(length=3):
    return Informative(length)


def painted(length=3, render_mode=None):
    """A function that can be asked for pictures."""
    from tests.envs.toy import Painted

    env = Painted(render_mode, seconds=0.0)
    env.length = length
    return env
