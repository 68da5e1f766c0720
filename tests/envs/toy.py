"""Environments made for tests, named as a third party's would be: `tests.envs.toy:Name-v0`."""

import resource
import time
from typing import ClassVar

import gymnasium as gym
import numpy as np


class Counting(gym.Env):
    """Observes (seed of the episode, steps so far); ends after `length` steps, by `end`; each step
    pays 1.
    """

    def __init__(self, length=5, end="truncated", first_action=0):
        self.length, self.end = length, end
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gym.spaces.Discrete(3, start=first_action)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.seed = 0, seed % 1000
        return self._obs(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        over = self.steps >= self.length
        return (
            self._obs(),
            1.0,
            over and self.end == "terminated",
            over and self.end == "truncated",
            {},
        )

    def _obs(self):
        return np.array([self.seed, self.steps], dtype=np.float64)


class Recorded(Counting):
    """Observes (seed of the episode, steps so far, sum of the actions); a step pays its action, and
    takes up to `seconds`.
    """

    def __init__(self, seconds=0.0, **kwargs):
        super().__init__(**kwargs)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.seconds, self.chance = seconds, np.random.default_rng()

    def reset(self, **kwargs):
        self.total = 0
        return super().reset(**kwargs)

    def step(self, action):
        time.sleep(self.seconds * self.chance.random())
        self.total += action
        _, _, *rest = super().step(action)
        return self._obs(), float(action), *rest

    def _obs(self):
        return np.array([self.seed, self.steps, self.total], dtype=np.float64)


class Identity(gym.Env):
    """The observation names the action that pays 1: any learner that works learns it in seconds."""

    def __init__(self, size=4, length=20):
        self.size, self.length = size, length
        self.observation_space = gym.spaces.Box(0, 1, (size,), np.float32)
        self.action_space = gym.spaces.Discrete(size)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def step(self, action):
        reward = float(action == self.answer)
        self.steps += 1
        return self._draw(), reward, False, self.steps >= self.length, {}

    def _draw(self):
        self.answer = int(self.np_random.integers(self.size))
        return np.eye(self.size, dtype=np.float32)[self.answer]


class Faulty(Identity):
    """Goes wrong after `after` steps of its life, on one rank or on all: `nan` rewards, an
    exception (`raise`; `once`: in the first of a process's environments to get there), no end of a
    step (`hang`), more memory than there is (`memory`), or files that can grow no more (`disk`).
    """

    broken = False

    def __init__(self, fault="raise", after=60, rank=None, **kwargs):
        super().__init__(**kwargs)
        self.fault, self.after, self.rank, self.life = fault, after, rank, 0

    def step(self, action):
        from hvd_dqn.distributed.launcher import detect_launch

        self.life += 1
        launch = detect_launch()
        mine = self.rank is None or (launch is not None and launch.rank == self.rank)
        obs, reward, terminated, truncated, info = super().step(action)
        if mine and self.life >= self.after:
            self._go_wrong()
            reward = float("nan") if self.fault == "nan" else reward
            obs = obs * np.float32("nan") if self.fault == "blind" else obs
        return obs, reward, terminated, truncated, info

    def _go_wrong(self):
        if self.fault == "raise" or (self.fault == "once" and not Faulty.broken):
            Faulty.broken = True
            raise RuntimeError("the simulator broke")
        if self.fault == "hang":
            time.sleep(1000)
        if self.fault == "memory":
            resource.setrlimit(resource.RLIMIT_AS, (2**33, resource.RLIM_INFINITY))
            np.ones(2**34, dtype=np.uint8)
        if self.fault == "disk" and self.life == self.after:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))


class Slow(Identity):
    """Takes time: each step sleeps `seconds`, times a Pareto variable of the exponent `tail` of at
    most 100 if that is given; `slow_rank` and `slow_copy`: only those steps. `rank` and `copy` are
    placeholders of `env.kwargs`.
    """

    def __init__(
        self,
        seconds=0.0,
        tail=None,
        rank=0,
        copy=0,
        slow_rank=None,
        slow_copy=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.seconds, self.tail = seconds, tail
        self.is_slow = slow_rank in (None, rank) and slow_copy in (None, copy)
        self.chance = np.random.default_rng()

    def step(self, action):
        if self.is_slow:
            many = 1.0 if self.tail is None else min(self.chance.pareto(self.tail) + 1, 100)
            time.sleep(self.seconds * many)
        return super().step(action)


class Painted(Identity):
    """An environment that renders slowly."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None, seconds=0.2):
        super().__init__()
        self.render_mode, self.seconds = render_mode, seconds

    def render(self):
        time.sleep(self.seconds)
        return np.zeros((8, 8, 3), np.uint8)


class Unbounded(Counting):
    def __init__(self):
        super().__init__()
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (2,))


class Sequenced(Counting):
    def __init__(self):
        super().__init__()
        self.observation_space = gym.spaces.Sequence(gym.spaces.Discrete(2))


class Endless(Counting):
    """Episodes without an end."""

    def __init__(self):
        super().__init__(length=10**9)


class Misshapen(Counting):
    """Returns observations of another shape than declared."""

    def _obs(self):
        return super()._obs()[:1]


class Lying(Counting):
    """Declares bytes, and observes other values, or fewer, from step `after` of its life on."""

    def __init__(self, value=0.0, size=2, after=0):
        super().__init__()
        self.observation_space = gym.spaces.Box(0, 255, (2,), np.uint8)
        self.value, self.size, self.after, self.life = value, size, after, 0

    def step(self, action):
        self.life += 1
        return super().step(action)

    def _obs(self):
        early = self.life < self.after
        return np.zeros(2) if early else np.full(self.size, self.value, dtype=np.float64)


class Beyond(Counting):
    """Passes its bounds, as LunarLander does."""

    def __init__(self):
        super().__init__()
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def _obs(self):
        return np.array([0.5, 1.25], np.float32)


class Planes(Counting):
    """Observes planes of bytes."""

    def __init__(self, shape):
        super().__init__()
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)

    def _obs(self):
        return np.full(self.observation_space.shape, self.steps, dtype=np.uint8)


class Growing(Counting):
    """Each instance differs from the one before, in its bounds, its shape or its actions."""

    made = 0

    def __init__(self, what):
        super().__init__()
        Growing.made += 1
        much = Growing.made
        size, bound = 2 + much * (what == "shape"), 10.0 ** (much * (what == "bounds"))
        self.observation_space = gym.spaces.Box(-bound, bound, (size,), np.float32)
        start = much if what == "start" else 0
        self.action_space = gym.spaces.Discrete(2 + much * (what == "count"), start=start)


class Unmakeable(Counting):
    def __init__(self):
        raise OSError("libGL.so.1: cannot open shared object file")


class Ring(gym.Env):
    """Five places in a ring: action 0 steps on, action 1 jumps two back; the last place ends it.

    Small enough to be solved exactly: `NEXT`, `REWARD` and `TERMINAL` [state, action] are all of
    it.
    """

    NEXT = np.array([[1, 3], [2, 4], [3, 0], [4, 1], [0, 2]])
    REWARD = np.array([[0.0, 0.1], [-0.1, 0.3], [0.2, 0.0], [0.3, -0.2], [0.1, 0.0]])
    TERMINAL = NEXT == 4

    def __init__(self):
        self.observation_space = gym.spaces.Box(0, 1, (5,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(4))
        return self._obs(), {}

    def step(self, action):
        reward = float(self.REWARD[self.state, action])
        terminated = bool(self.TERMINAL[self.state, action])
        self.state = int(self.NEXT[self.state, action])
        return self._obs(), reward, terminated, False, {}

    def _obs(self):
        return np.eye(5, dtype=np.float32)[self.state]


class MaskedRing(Ring):
    """A ring with a third action, which is legal in two places and pays most there. An illegal
    action raises. `where` the mask is: in the observation, in the info, or in a method's result.
    """

    NEXT = np.array([[1, 3, 4], [2, 4, 0], [3, 0, 1], [4, 1, 0], [0, 2, 0]])
    REWARD = np.array(
        [[0.0, 0.1, 1.5], [-0.1, 0.3, 9.0], [0.2, 0.0, 1.0], [0.3, -0.2, 9.0], [0.1, 0.0, 9.0]]
    )
    TERMINAL = NEXT == 4
    LEGAL = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0]], dtype=np.int8)

    def __init__(self, where="observation"):
        super().__init__()
        self.where = where
        self.action_space = gym.spaces.Discrete(3)
        if where == "observation":
            mask = gym.spaces.Box(0, 1, (3,), np.int8)
            parts = {"action_mask": mask, "place": gym.spaces.Discrete(5)}
            self.observation_space = gym.spaces.Dict(parts)
        elif where == "method":
            self.action_masks = lambda: self.LEGAL[self.state]

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], self._info()

    def step(self, action):
        assert self.LEGAL[self.state, action], "an illegal action"
        return *super().step(action)[:4], self._info()

    def _obs(self):
        if self.where == "observation":
            return {"action_mask": self.LEGAL[self.state], "place": self.state}
        return super()._obs()

    def _info(self):
        return {"action_mask": self.LEGAL[self.state]} if self.where == "info" else {}


class Composite(gym.Env):
    """Observes parts of every kind, of which one names the action that pays 1."""

    def __init__(self, length=20):
        self.length = length
        self.observation_space = gym.spaces.Dict(
            {
                "answer": gym.spaces.Discrete(3, start=5),
                "more": gym.spaces.Tuple(
                    (
                        gym.spaces.MultiDiscrete([2, 300]),
                        gym.spaces.MultiBinary(2),
                        gym.spaces.Box(-1, 1, (), np.float64),
                    )
                ),
                "picture": gym.spaces.Box(0, 255, (6, 6, 1), np.uint8),
                "grid": gym.spaces.MultiDiscrete(np.broadcast_to([4, 2], (5, 5, 2))),
                "words": gym.spaces.Text(50),
            }
        )
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        self.obs = self.observation_space.sample()
        return self.obs, {}

    def step(self, action):
        reward = float(action == self.obs["answer"] - 5)
        self.steps += 1
        self.obs = self.observation_space.sample()
        return self.obs, reward, False, self.steps >= self.length, {}


for _cls in (
    *(Counting, Identity, Faulty, Painted, Unbounded, Sequenced, Endless, Lying, Planes, Growing),
    *(Misshapen, Beyond, Recorded, Slow, Unmakeable, Composite),
):
    gym.register(f"Toy{_cls.__name__}-v0", entry_point=_cls)
gym.register("ToyRing-v0", entry_point=Ring, max_episode_steps=7)
gym.register("ToyMaskedRing-v0", entry_point=MaskedRing, max_episode_steps=7)
