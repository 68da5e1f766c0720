"""Environments as users write them by mistake, named `tests.envs.awkward:Name`."""

import multiprocessing
import threading
import time
from typing import ClassVar

import gymnasium as gym
import numpy as np
import torch

from hvd_dqn.common.errors import UserError

SPACE = gym.spaces.Box(-1, 1, (2,), np.float32)


class SimulatorError(Exception):
    """Pickle cannot restore it: it takes two arguments and keeps one."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")


class Odd(gym.Env):
    """Whose `what` is returned, raised or done; the default behaves well. Episodes have 5 steps."""

    observation_space, action_space = SPACE, gym.spaces.Discrete(2)

    def __init__(self, what="", only_copy=None, copy=0, **placed):
        self.what = what if only_copy in (None, copy) else ""
        self.placed = placed
        if what == "torch":
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
        if what == "fails in a process" and multiprocessing.parent_process() is not None:
            raise OSError("the licence server does not answer")
        if what == "space":
            self.observation_space = gym.spaces.Box(-1, 1, (2 + copy,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.options = 0, options
        if self.what == "no info":
            return np.zeros(2, np.float32)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        obs = np.full(2, self.steps / 10, np.float32)
        over = self.steps == 5
        made = RESULTS.get(self.what)
        return made(obs, over) if made else (obs, 1.0, over, False, {})

    def close(self):
        if self.what == "close hangs":
            time.sleep(60)
        if "close" in self.what:
            raise ConnectionError("the server is gone")


def fail(error):
    raise error


def with_lock(error):
    error.lock = threading.Lock()
    return error


def start_process():
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0,))
    process.start()
    process.join()
    return process.exitcode


RESULTS = {
    "old step": lambda obs, over: (obs, 1.0, over, {}),
    "only obs": lambda obs, over: obs,
    "reward None": lambda obs, over: (obs, None, over, False, {}),
    "reward text": lambda obs, over: (obs, "1.5", over, False, {}),
    "reward two": lambda obs, over: (obs, np.ones(2), over, False, {}),
    "reward array": lambda obs, over: (obs, np.array([1.0]), over, False, {}),
    "reward tensor": lambda obs, over: (obs, torch.tensor([1.0]), over, False, {}),
    "reward int": lambda obs, over: (obs, np.int64(1), over, False, {}),
    "reward nan": lambda obs, over: (obs, float("nan"), over, False, {}),
    "flag None": lambda obs, over: (obs, 1.0, over, None, {}),
    "flag dict": lambda obs, over: (obs, 1.0, over, {}, {}),
    "flags NumPy": lambda obs, over: (obs, 1.0, np.array([over]), np.bool_(False), {}),
    "small obs": lambda obs, over: (obs[:1], 1.0, over, False, {}),
    "no obs": lambda obs, over: (None, 1.0, over, False, {}),
    "exit": lambda obs, over: fail(SystemExit(3)),
    "raise": lambda obs, over: fail(SimulatorError(7, "the valve is stuck")),
    "raise, close": lambda obs, over: fail(SimulatorError(7, "the valve is stuck")),
    "user error": lambda obs, over: fail(UserError("the simulator has no map", "make one")),
    "raise lock": lambda obs, over: fail(with_lock(ValueError("the valve is stuck"))),
    "infos": lambda obs, over: (obs, 1.0, over, False, {"lock": threading.Lock(), "n": None}),
    "processes": lambda obs, over: (obs, 1.0 + start_process(), over, False, {}),
}


class OldReset(Odd):
    def reset(self):
        return np.zeros(2, np.float32)


class OneAtATime(Odd):
    """Like a simulator with a licence for one."""

    alive = 0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if OneAtATime.alive:
            raise RuntimeError("the licence is for one simulator")
        OneAtATime.alive = 1

    def close(self):
        OneAtATime.alive = 0


class Gallery(Odd):
    """Renders `pictures` in turn."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}
    pictures: ClassVar = []

    def __init__(self, render_mode=None, **kwargs):
        super().__init__(**kwargs)
        self.render_mode = render_mode

    def render(self):
        return self.pictures[self.steps % len(self.pictures)]


class OldSpaces(gym.Env):
    observation_space = SPACE
    action_space = type("Discrete", (), {"n": 2, "__module__": "gym.spaces.discrete"})()


class OldEnvironment:
    """Of the old package, as far as its module tells."""

    __module__ = "gym.core"


class Empty(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (0, 3), np.float32)
    action_space = gym.spaces.Discrete(2)


class Asserts(Odd):
    """Asserts without a word, as the wrapper of jumanji does."""

    sensors = 0

    def __init__(self):
        assert self.sensors


class Pythonic(Odd):
    """Takes Python integers only, as nasim does."""

    def step(self, action):
        assert type(action) is int, type(action)
        return super().step(action)


class Texts(gym.Env):
    observation_space = gym.spaces.Dict({"image": SPACE, "mission": gym.spaces.Text(20)})
    action_space = gym.spaces.Discrete(2)


class Lazy(Odd):
    """Imports what is missing when it is made, or says so without a name."""

    def __init__(self, named=True):
        super().__init__()
        if named:
            import no_such_package  # noqa: F401
        raise ModuleNotFoundError("please install the simulator")
