"""An environment that is an MPI program, made for tests: `tests.envs.spmd:Ring`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np


class RingAlone(gym.Env):
    """Numbers in a ring: a step adds to each its left neighbour's and the action, modulo 97. The
    observation has all numbers, and their sum is the reward.
    """

    action_space = gym.spaces.Discrete(3)

    def __init__(self, size=2, length=9):
        self.size, self.length = size, length
        self.observation_space = gym.spaces.Box(0, 97, (size,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, first = 0, int(self.np_random.integers(90))
        self.numbers = [first + rank for rank in range(self.size)]
        return np.array(self.numbers, np.float32), {}

    def step(self, action):
        old, self.steps = self.numbers, self.steps + 1
        self.numbers = [(old[n] + old[n - 1] + int(action)) % 97 for n in range(self.size)]
        reward = sum(self.numbers) / 97
        return np.array(self.numbers, np.float32), reward, False, self.steps >= self.length, {}


class Ring(gym.Env):
    """The same with one number on each rank. If the file `strike` exists, `rank` removes it after
    `after` steps of its life, and has the `fault`.
    """

    action_space = gym.spaces.Discrete(3)

    def __init__(self, comm, length=9, *, fault="", rank=1, after=100, strike=""):
        print("a solver that talks", flush=True)
        self.comm, self.length = comm, length
        self.fault, self.left = fault, after if comm.rank == rank else -1
        self.strike = Path(strike)
        self.observation_space = gym.spaces.Box(0, 97, (comm.size,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.number = int(self.np_random.integers(90)) + self.comm.rank
        return self._gathered(), {}

    def step(self, action):
        self.left -= 1
        strikes = self.fault and self.left == 0 and self.strike.exists()
        if strikes and self.fault != "late":
            self._strike()
        size, own = self.comm.size, np.array([self.number])
        left = np.empty(1, own.dtype)
        self.comm.Sendrecv(own, (self.comm.rank + 1) % size, 0, left, (self.comm.rank - 1) % size)
        self.number = int(own[0] + left[0] + int(action)) % 97
        self.steps += 1
        numbers = self._gathered()
        if strikes and self.fault == "late":
            self._strike()
        reward = 0.0 if numbers is None else float(numbers.sum()) / 97
        return numbers, reward, False, self.steps >= self.length, {}

    def _strike(self):
        self.strike.unlink()
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "hang":
            time.sleep(1000)
        elif self.fault == "exit":
            sys.exit(0)
        raise ValueError("the mesh is tangled")

    def _gathered(self):
        everyone = np.empty(self.comm.size, int) if self.comm.rank == 0 else None
        self.comm.Gather(np.array([self.number]), everyone)
        return None if everyone is None else everyone.astype(np.float32)


gym.register("SpmdRing-v0", entry_point=Ring)
