"""A vector environment in each of Gymnasium's autoreset modes, as a user would write one."""

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

LENGTHS = (2, 3, 5)
"""Steps of every episode of each copy."""


class Vector(VectorEnv):
    """Copy i observes (its episode, steps in it), and its episodes end after `LENGTHS[i]` steps:
    the first and third copy's terminate, the second's is truncated.
    """

    def __init__(self, num_envs=3, mode="DISABLED"):
        self.num_envs, self.mode = num_envs, AutoresetMode[mode]
        self.metadata = {"autoreset_mode": self.mode}
        self.single_action_space = gym.spaces.Discrete(2)
        self.single_observation_space = gym.spaces.Box(0, 99, (2,), np.float64)
        self.obs = np.zeros((num_envs, 2))
        self.lengths = np.array(LENGTHS[:num_envs])
        self.actions, self.seeds = [], []
        self.ended = np.zeros(num_envs, bool)

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        self._start(mask)
        return self.obs, {}

    def _start(self, mask):
        self.obs[mask] += [1, 0]
        self.obs[mask, 1] = 0
        self.ended[mask] = False

    def step(self, actions):
        self.actions.append(np.array(actions))
        again = self.ended.copy()
        assert not (again.any() and self.mode is AutoresetMode.DISABLED), "stepped after its end"
        if again.any():
            self._start(again)
        self.obs[~again, 1] += 1
        over = ~again & (self.obs[:, 1] == self.lengths)
        cut = np.arange(self.num_envs) == 1
        infos = {"steps": self.obs[:, 1].copy()}
        reward = np.where(again, 0.0, 1.0).astype(np.float32)
        if self.mode is AutoresetMode.SAME_STEP and over.any():
            final = np.full(self.num_envs, None, dtype=object)
            for copy in np.flatnonzero(over):
                final[copy] = self.obs[copy].copy()
            infos |= {"final_obs": final, "final_info": {"steps": infos["steps"].copy()}}
            infos["steps"] = np.where(over, 0, infos["steps"])
            self._start(over)
        else:
            self.ended = over
        return self.obs, reward, over & ~cut, over & cut, infos


class Silent(Vector):
    """Does not say how it resets."""

    def __init__(self, num_envs):
        super().__init__(num_envs)
        self.metadata = {}


def two(num_envs):
    return Vector(2)


def single(num_envs):
    return gym.make("CartPole-v1")
