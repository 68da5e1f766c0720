"""A log of whole episodes, without rows: the ring's oracle."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st

from hvd_dqn.common.structs import EnvStep
from hvd_dqn.replay import PrioritizedSampler, ReplayBuffer, Ring, UniformSampler

GAMMA = 0.9
PRIORITY_EXPONENT = 0.7
WAITS = "waits"
"""In place of an end: the environment does not finish a step."""
ENDS = st.sampled_from([None] * 5 + ["terminated", "truncated", "life lost", "skipped"])


class Transition(NamedTuple):
    obs: list[float]
    action: int
    reward: float
    discount: float
    next_obs: list[float]


class Episode:
    """An episode: its frames, actions, rewards and end."""

    def __init__(self, first: float) -> None:
        self.frames = [first]
        self.actions: list[int] = []
        self.rewards: list[float] = []
        self.terminated: list[bool] = []
        self.ended = False

    def length(self, start: int, n: int) -> int:
        """Steps of the window from `start`: to a termination, to the end, or n."""
        for k in range(n):
            if start + k == len(self.actions):
                return k
            if self.terminated[start + k]:
                return k + 1
        return n

    def complete(self, start: int, n: int) -> bool:
        length = self.length(start, n)
        return length == n or self.ended or (length > 0 and self.terminated[start + length - 1])

    def stack(self, at: int, size: int) -> list[float]:
        """The newest `size` frames, zeros before the first."""
        return [self.frames[i] if i >= 0 else 0.0 for i in range(at - size + 1, at + 1)]

    def transition(self, start: int, n: int, stack: int) -> Transition:
        length = self.length(start, n)
        return Transition(
            self.stack(start, stack),
            self.actions[start],
            sum(GAMMA**k * self.rewards[start + k] for k in range(length)),
            0.0 if self.terminated[start + length - 1] else GAMMA**length,
            self.stack(start + length, stack),
        )


class World:
    """Environments with a unique number for every frame, which fill a replay and a log."""

    def __init__(
        self,
        *,
        capacity: int,
        num_envs: int,
        n_step: int = 1,
        stack: int = 1,
        seed: int = 0,
        batch_size: int = 256,
        prioritized: bool = False,
        first_frame: int = 1,
    ) -> None:
        self.n_step = n_step
        self.stack = stack
        self.num_envs = num_envs
        self.rows = capacity // num_envs
        self.rng = np.random.default_rng(seed)
        rng = np.random.default_rng(seed + 1)
        self.ring = Ring(
            capacity=capacity,
            num_envs=num_envs,
            frame_shape=(1,),
            obs_dtype=np.dtype(np.float32),
            frame_stack=stack,
            n_step=n_step,
            device=torch.device("cpu"),
        )
        self.sampler = (
            PrioritizedSampler(self.ring, rng, priority_exponent=PRIORITY_EXPONENT)
            if prioritized
            else UniformSampler(self.ring, rng)
        )
        self.replay = ReplayBuffer(
            self.ring,
            self.sampler,
            gamma=GAMMA,
            n_step=n_step,
            batch_size=batch_size,
            rng=rng,
            device=torch.device("cpu"),
        )
        self.counter = first_frame - 1
        self.episodes = [[Episode(self.fresh())] for _ in range(num_envs)]
        self.replay.start(self.stacks())

    def fresh(self) -> float:
        self.counter += 1
        return float(self.counter)

    def stacks(self) -> np.ndarray:
        newest = [log[-1].stack(len(log[-1].frames) - 1, self.stack) for log in self.episodes]
        return np.array(newest, dtype=np.float32)

    def newest_frames(self, slots: np.ndarray) -> np.ndarray:
        """The newest frame of the observation at each slot, [B]."""
        memory = self.ring.new_memory(len(slots), torch.device("cpu"))
        powers = GAMMA ** np.arange(self.n_step + 1.0)
        tensors = self.ring.read(slots, self.ring.windows(slots)[1], powers, memory)
        return tensors.obs[:, -1].numpy()

    def step(self, ends: list[str | None]) -> None:
        """Take a step, in which an environment may end, or not take part (`WAITS`)."""
        stepped = np.array([end != WAITS for end in ends])
        actions = self.rng.integers(0, 5, self.num_envs)
        rewards = self.rng.normal(size=self.num_envs).astype(np.float32)
        skipped = np.zeros(self.num_envs, dtype=bool)
        for env, (log, action, reward, end) in enumerate(
            zip(self.episodes, actions, rewards, ends, strict=True)
        ):
            episode = log[-1]
            if end == WAITS:
                continue
            if end == "skipped" and not episode.actions:  # it starts only now
                skipped[env] = episode.ended = True
                log.append(Episode(self.fresh()))
                continue
            episode.frames.append(self.fresh())
            episode.actions.append(int(action))
            episode.rewards.append(float(reward))
            episode.terminated.append(end in ("terminated", "life lost"))
            episode.ended = end in ("terminated", "truncated")
        next_obs = self.stacks()
        for log in self.episodes:
            if log[-1].ended:
                log.append(Episode(self.fresh()))
        step = EnvStep(
            reward=rewards,
            terminated=np.array([end in ("terminated", "life lost") for end in ends]),
            truncated=np.array([end == "truncated" for end in ends]),
            ended=np.array([end in ("terminated", "truncated") for end in ends]),
            next_obs=next_obs,
            obs=self.stacks(),
            skipped=skipped if skipped.any() else None,
            stepped=None if stepped.all() else stepped,
            episodes=[],
        )
        self.replay.add(actions, step)

    def cut(self, env: int) -> None:
        """The environment broke: truncate its episode and start another."""
        episode = self.episodes[env][-1]
        if episode.actions:
            episode.ended = True
            self.episodes[env].append(Episode(self.fresh()))
        else:
            self.episodes[env][-1] = Episode(self.fresh())
        self.replay.truncate(np.array([env]), self.stacks()[[env]])

    def walk(self, steps: int, *, end_probability: float, seed: int = 0) -> None:
        """Random steps; environment i ends (i + 1) times as often as the first."""
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            chances = rng.random(self.num_envs) < end_probability * (1 + np.arange(self.num_envs))
            kinds = rng.choice(["terminated", "truncated", "life lost"], self.num_envs)
            self.step([str(k) if c else None for c, k in zip(chances, kinds, strict=True)])

    def valid(self) -> dict[float, Transition]:
        """By newest frame, every transition that the replay must be able to give: its row is among
        the last `rows` of its environment (a final observation takes a row too), its window is
        complete, and every frame of its stack is among them as well.
        """
        found = {}
        for log in self.episodes:
            rows: list[tuple[Episode, int] | None] = []
            for episode in log:
                rows += [(episode, start) for start in range(len(episode.actions))]
                if episode.ended:
                    rows.append(None)
            for place in range(max(len(rows) - self.rows, 0), len(rows)):
                row = rows[place]
                if row is None or not row[0].complete(row[1], self.n_step):
                    continue
                behind = min(row[1], self.stack - 1)
                if place - behind < len(rows) - self.rows:
                    continue
                transition = row[0].transition(row[1], self.n_step, self.stack)
                found[transition.obs[-1]] = transition
        return found
