"""Times samples from one replay buffer; `replay.py` runs this in the Python that has the library.

    python benchmarks/replay_buffers.py hvd_dqn 100000 uniform 200

Arguments are the buffer, its capacity in transitions, `uniform` or `prioritised`, and the number of
samples. Prints the seconds of every sample, update and plain copy as JSON, or a remark instead.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NUM_ENVS, STACK, N_STEP, BATCH, GAMMA = 8, 4, 3, 256, 0.99
FRAME = (84, 84)
EPISODE = 700
ALPHA, BETA = 0.6, 0.5
WARM_UP = 10
SOURCES = 40
"""Arrays of 14 MB to copy from: together larger than a processor's caches."""

Buffer = tuple[Callable[[], Any], Callable[[Any], Any]]
"""Draws a batch; updates the priorities of a batch."""


class Experience:
    """Steps of `NUM_ENVS` environments with frames from a pool of random ones."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.pool = self.rng.integers(0, 255, (4096, *FRAME), dtype=np.uint8)
        self.number = 0

    def step(self) -> dict[str, np.ndarray]:
        """Stacks before and after one step, actions, rewards and ends."""
        self.number += 1
        start = self.number * 37 % (len(self.pool) - 2 * STACK - NUM_ENVS)
        stacks = [self.pool[start + i : start + i + STACK + 1] for i in range(NUM_ENVS)]
        return {
            "obs": np.stack([stack[:-1] for stack in stacks]),
            "next_obs": np.stack([stack[1:] for stack in stacks]),
            "action": self.rng.integers(0, 6, NUM_ENVS),
            "reward": self.rng.random(NUM_ENVS, dtype=np.float32),
            "ended": (self.number + 89 * np.arange(NUM_ENVS)) % EPISODE == 0,
        }


def hvd_dqn(capacity: int, prioritized: bool) -> Buffer:
    """This project's replay, which stores single frames."""
    import torch

    from hvd_dqn.common.structs import EnvStep
    from hvd_dqn.replay import PrioritizedSampler, ReplayBuffer, Ring, UniformSampler

    rng, device = np.random.default_rng(0), torch.device("cpu")
    ring = Ring(
        capacity=capacity,
        num_envs=NUM_ENVS,
        frame_shape=(1, *FRAME),
        obs_dtype=np.dtype(np.uint8),
        frame_stack=STACK,
        n_step=N_STEP,
        device=device,
    )
    sampler = (
        PrioritizedSampler(ring, rng, priority_exponent=ALPHA)
        if prioritized
        else UniformSampler(ring, rng)
    )
    replay = ReplayBuffer(
        ring, sampler, gamma=GAMMA, n_step=N_STEP, batch_size=BATCH, rng=rng, device=device
    )
    experience = Experience()
    replay.start(experience.step()["obs"])
    for _ in range(capacity // NUM_ENVS):
        step = experience.step()
        taken = EnvStep(
            next_obs=step["next_obs"],
            obs=step["obs"],
            reward=step["reward"],
            terminated=step["ended"],
            truncated=np.zeros_like(step["ended"]),
            ended=step["ended"],
            episodes=[],
        )
        replay.add(step["action"], taken)
    priority = torch.rand(BATCH)
    return (
        lambda: replay.sample(BETA),
        lambda batch: replay.update_priorities(batch.slot, priority),
    )


def stable_baselines3(capacity: int, prioritized: bool) -> Any:
    """Stable-Baselines3's n-step buffer, which keeps both stacks of every transition."""
    import gymnasium as gym
    from stable_baselines3.common.buffers import NStepReplayBuffer

    if prioritized:
        return None
    buffer = NStepReplayBuffer(
        capacity,
        gym.spaces.Box(0, 255, (STACK, *FRAME), np.uint8),
        gym.spaces.Discrete(6),
        n_envs=NUM_ENVS,
        n_steps=N_STEP,
        gamma=GAMMA,
        device="cpu",
    )
    experience = Experience()
    for _ in range(capacity // NUM_ENVS):
        s = experience.step()
        buffer.add(s["obs"], s["next_obs"], s["action"], s["reward"], s["ended"], [{}] * NUM_ENVS)
    return lambda: buffer.sample(BATCH), lambda batch: None


def tianshou(capacity: int, prioritized: bool) -> Any:
    """Tianshou's buffer of single frames, and its n-step returns."""
    import torch
    from tianshou.algorithm.algorithm_base import Algorithm
    from tianshou.data import Batch, PrioritizedVectorReplayBuffer, VectorReplayBuffer

    options = {"stack_num": STACK, "ignore_obs_next": True, "save_only_last_obs": True}
    if prioritized:
        buffer = PrioritizedVectorReplayBuffer(capacity, NUM_ENVS, alpha=0.6, beta=0.5, **options)
    else:
        buffer = VectorReplayBuffer(capacity, NUM_ENVS, **options)
    experience = Experience()
    nothing = np.zeros(NUM_ENVS, dtype=bool)
    for _ in range(capacity // NUM_ENVS):
        s = experience.step()
        buffer.add(
            Batch(
                obs=s["obs"],
                act=s["action"],
                rew=s["reward"],
                terminated=s["ended"],
                truncated=nothing,
                obs_next=s["next_obs"],
                info={},
            )
        )

    def bootstrap(buffer: Any, index: np.ndarray) -> torch.Tensor:
        torch.from_numpy(buffer.get(buffer.next(index), "obs"))
        return torch.zeros(len(index), 1)

    def sample() -> Any:
        index = buffer.sample_indices(BATCH)
        batch = Batch(
            obs=buffer.get(index, "obs"), act=buffer.act[index], rew=buffer.rew[index],
            terminated=buffer.terminated[index], truncated=buffer.truncated[index],
        )  # fmt: skip
        if prioritized:
            batch.weight = buffer.get_weight(index)
        return Algorithm.compute_nstep_return(batch, buffer, index, bootstrap, GAMMA, N_STEP), index

    priority = np.random.default_rng(0).random(BATCH)
    return sample, lambda drawn: buffer.update_weight(drawn[1], priority)


def torchrl(capacity: int, prioritized: bool) -> Any:
    """TorchRL's tensor storage of whole transitions, n-step sums made when they are stored."""
    import torch
    from tensordict import TensorDict
    from torchrl.data import (
        LazyTensorStorage,
        TensorDictPrioritizedReplayBuffer,
        TensorDictReplayBuffer,
    )

    storage = LazyTensorStorage(capacity)
    buffer: Any
    if prioritized:
        buffer = TensorDictPrioritizedReplayBuffer(
            alpha=0.6, beta=0.5, storage=storage, batch_size=BATCH
        )
    else:
        buffer = TensorDictReplayBuffer(storage=storage, batch_size=BATCH)
    experience = Experience()
    for _ in range(capacity // NUM_ENVS):
        s = {name: torch.from_numpy(value) for name, value in experience.step().items()}
        buffer.extend(TensorDict(s, batch_size=[NUM_ENVS]))
    priority = torch.rand(BATCH)

    def update(batch: Any) -> None:
        batch["td_error"] = priority
        buffer.update_tensordict_priority(batch)

    return buffer.sample, update


def cpprb(capacity: int, prioritized: bool) -> Any:
    """cpprb's C++ buffer with compressed stacks, fed by one environment."""
    from cpprb import PrioritizedReplayBuffer, ReplayBuffer

    kind = PrioritizedReplayBuffer if prioritized else ReplayBuffer
    buffer = kind(
        capacity,
        {
            "obs": {"shape": (*FRAME, STACK), "dtype": np.uint8},
            "act": {"dtype": np.int64},
            "rew": {},
            "done": {},
            "next_obs": {"shape": (*FRAME, STACK), "dtype": np.uint8},
        },
        stack_compress=["obs", "next_obs"],
        Nstep={"size": N_STEP, "gamma": GAMMA, "rew": "rew", "next": "next_obs"},
        **({"alpha": 0.6} if prioritized else {}),
    )
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 255, (*FRAME, 4096 + STACK), dtype=np.uint8)
    for number in range(capacity):
        start = number % 4090
        ended = number % EPISODE == EPISODE - 1
        buffer.add(
            obs=pool[:, :, start : start + STACK],
            act=1,
            rew=0.5,
            next_obs=pool[:, :, start + 1 : start + 1 + STACK],
            done=ended,
        )
        if ended:
            buffer.on_episode_end()
    priority = rng.random(BATCH)
    if prioritized:
        return (
            lambda: buffer.sample(BATCH, beta=0.5),
            lambda batch: buffer.update_priorities(batch["indexes"], priority),
        )
    return lambda: buffer.sample(BATCH), lambda batch: None


BUFFERS: dict[str, Callable[[int, bool], Buffer | None]] = {
    "hvd_dqn": hvd_dqn,
    "Stable-Baselines3": stable_baselines3,
    "Tianshou": tianshou,
    "TorchRL": torchrl,
    "cpprb": cpprb,
}


def time_samples(
    sample: Callable[[], Any], update: Callable[[Any], Any] | None, rounds: int
) -> dict[str, list[float]]:
    """Seconds of samples, of priority updates and of plain copies of two stacks, taken in turn.

    The copies read memory that is in no cache, as a replay's frames are.
    """
    sources = np.ones((SOURCES, BATCH * 2 * STACK * FRAME[0] * FRAME[1]), dtype=np.uint8)
    copy = np.empty_like(sources[0])
    seconds: dict[str, list[float]] = {"sample": [], "update": [], "copy": []}
    for turn in range(rounds + WARM_UP):
        began = time.perf_counter()
        batch = sample()
        sampled = time.perf_counter()
        if update is not None:
            update(batch)
        updated = time.perf_counter()
        copy[:] = sources[turn % SOURCES]
        copied = time.perf_counter()
        if turn >= WARM_UP:
            seconds["sample"].append(sampled - began)
            seconds["update"].append(updated - sampled)
            seconds["copy"].append(copied - updated)
    return seconds


def measure(name: str, capacity: int, prioritized: bool, rounds: int) -> dict[str, Any]:
    """Fill the buffer, then time it."""
    import torch

    torch.set_num_threads(1)
    before = resident_bytes()
    buffer = BUFFERS[name](capacity, prioritized)
    if buffer is None:
        return {"remark": "not available"}
    sample, update = buffer
    held = resident_bytes() - before
    seconds = time_samples(sample, update if prioritized else None, rounds)
    return {"seconds": seconds, "bytes_per_transition": round(held / capacity)}


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    buffer_name, rows, drawn, samples = sys.argv[1:]
    print(json.dumps(measure(buffer_name, int(rows), drawn == "prioritised", int(samples))))
