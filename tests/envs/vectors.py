"""A vector environment in each of Gymnasium's autoreset modes, as a user would write one."""

import functools

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


class Errands(gym.Env):
    """Deterministic, with a record, a mask and continuous actions by choice: walks from place to
    place, of which some steps are illegal; the third one of a kind ends the episode.
    """

    def __init__(self, mask="observation", moves="discrete", limit=7):
        self.mask, self.limit = mask, limit
        parts = {
            "place": gym.spaces.Discrete(5, start=1),
            "seen": gym.spaces.MultiBinary(5),
            "heat": gym.spaces.Tuple([gym.spaces.Box(-1, 9, (), np.float64)] * 2),
        }
        if mask == "observation":
            parts["action_mask"] = gym.spaces.MultiBinary(3)
        self.observation_space = gym.spaces.Dict(parts)
        self.action_space = {
            "discrete": gym.spaces.Discrete(3, start=-1),
            "box": gym.spaces.Box(-1, 1, (1,), np.float32),
            "tuple": gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Discrete(3)]),
        }[moves]
        self.moves = moves

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.seen, self.steps = 1, np.zeros(5, np.int8), 0
        return self._obs()

    def _obs(self):
        legal = np.array([self.place > 1, 1, self.place < 5], np.int8)
        heat = (np.array(self.steps / 2), np.array(self.place / 4))
        obs = {"place": np.int64(self.place), "seen": self.seen.copy(), "heat": heat}
        if self.mask == "observation":
            obs["action_mask"] = legal
        return obs, {"action_mask": legal} if self.mask == "info" else {}

    def step(self, action):
        if self.moves == "tuple":
            assert len(action) == 2
            move = int(action[1]) - 1
        else:
            assert self.action_space.contains(np.asarray(action, self.action_space.dtype)), action
            move = int(np.asarray(action).item())
        if self.mask == "none":
            move = np.clip(self.place + move, 1, 5) - self.place
        assert 1 <= self.place + move <= 5, "an illegal action"
        self.place += move
        self.seen[self.place - 1] = 1
        self.steps += 1
        obs, info = self._obs()
        return obs, float(self.place), self.seen.sum() == 3, self.steps == self.limit, info


def errand(copy, **kwargs):
    """The copy of this number, each of which ends at another time."""
    return Errands(**kwargs, limit=7 - copy)


def errands(num_envs, mode="DISABLED", **kwargs):
    makers = [functools.partial(errand, copy, **kwargs) for copy in range(num_envs)]
    return gym.vector.SyncVectorEnv(makers, autoreset_mode=AutoresetMode[mode])


def two(num_envs):
    return Vector(2)


def single(num_envs):
    return gym.make("CartPole-v1")
