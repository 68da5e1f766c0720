"""Simulators that do what a script says, so that a test knows every frame beforehand."""

import gymnasium as gym
import numpy as np


class ScriptedSimulators:
    """Step t of copy i pays rewards[t][i] and ends as ends[t][i] says: None, "life", "terminated",
    "truncated". Every frame is drawn anew and kept in `log[i]`, one list an episode.
    """

    action_space = gym.spaces.Discrete(3)
    lets_others_run = True
    seeds_episodes = True

    def __init__(self, raw_space, ends, rewards=None, num_envs=None):
        self.raw_space, self.ends = raw_space, ends
        self.num_envs = num_envs or len(ends[0])
        self.rewards = np.ones((len(ends), self.num_envs)) if rewards is None else rewards
        self.rng = np.random.default_rng(0)
        self.time = 0
        self.seeds = [[] for _ in range(self.num_envs)]
        self.log = [[] for _ in range(self.num_envs)]
        self.frames = np.zeros((self.num_envs, *raw_space.shape), raw_space.dtype)
        self.must_reset = np.ones(self.num_envs, dtype=bool)

    def reset(self, chosen, seeds):
        for copy, seed in zip(np.flatnonzero(chosen), seeds, strict=True):
            self.seeds[copy].append(seed)
            self.log[copy].append([])
            self.draw(copy)
        self.must_reset &= ~chosen
        return self.frames.copy()

    def step(self, action):
        from hvd_dqn.envs.simulators import SimulatorStep

        assert not self.must_reset.any(), "a copy that ended was stepped"
        ends = np.array(self.ends[self.time], dtype=object)
        for copy in range(self.num_envs):
            self.draw(copy)
        reward = self.rewards[self.time]
        self.time += 1
        self.must_reset = np.isin(ends, ["terminated", "truncated"])
        terminated = np.isin(ends, ["terminated", "life"])
        return SimulatorStep(
            self.frames.copy(), reward, terminated, ends == "truncated", self.must_reset.copy()
        )

    def close(self, *, broken=False):
        pass

    def draw(self, copy):
        shape, dtype = self.raw_space.shape, self.raw_space.dtype
        if dtype == np.float64:
            frame = self.rng.normal(size=shape)
        else:
            frame = self.rng.integers(0, 2 if dtype == np.bool_ else 256, size=shape).astype(dtype)
        self.frames[copy] = frame
        self.log[copy][-1].append(frame)


def bytes_space(*shape):
    return gym.spaces.Box(0, 255, shape, np.uint8)
