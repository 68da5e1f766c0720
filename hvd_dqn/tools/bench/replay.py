"""Drawing Atari batches from a full replay, beside a plain copy of as many bytes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.memory import available_bytes
from hvd_dqn.replay import PrioritizedSampler, ReplayBuffer, Ring, UniformSampler
from hvd_dqn.tools.bench.report import number, print_table, spread

NUM_ENVS, STACK, N_STEP, BATCH, GAMMA = 8, 4, 3, 256, 0.99
FRAME = (84, 84)
EPISODE = 700
_WARM_UP = 10
_SOURCES = 40
"""Of 14 MB each: together more than a processor's caches hold."""
_EXPONENT = 0.5


class Experience:
    """Steps of `NUM_ENVS` environments whose frames come from a pool of random ones."""

    def __init__(self) -> None:
        """Draw the pool."""
        self.rng = np.random.default_rng(0)
        self.pool = self.rng.integers(0, 255, (4096, *FRAME), dtype=np.uint8)
        self.number = 0

    def step(self) -> dict[str, np.ndarray]:
        """One step: newest frames, stacks, actions, rewards and ends."""
        self.number += 1
        start = self.number * 37 % (len(self.pool) - 2 * STACK - NUM_ENVS)
        stacks = [self.pool[start + i : start + i + STACK + 1] for i in range(NUM_ENVS)]
        ended = (self.number + 89 * np.arange(NUM_ENVS)) % EPISODE == 0
        return {
            "obs": np.stack([stack[:-1] for stack in stacks]),
            "next_obs": np.stack([stack[1:] for stack in stacks]),
            "action": self.rng.integers(0, 6, NUM_ENVS),
            "reward": self.rng.random(NUM_ENVS, dtype=np.float32),
            "ended": ended,
        }


def filled(capacity: int, prioritized: bool) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """What draws a batch from our replay, and what gives it priorities."""
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
        PrioritizedSampler(ring, rng, priority_exponent=0.6)
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
        replay.add(
            action=step["action"],
            reward=step["reward"],
            terminated=step["ended"],
            truncated=np.zeros_like(step["ended"]),
            ended=step["ended"],
            next_obs=step["next_obs"],
            obs=step["obs"],
        )
    priority = torch.rand(BATCH)
    return (
        lambda: replay.sample(_EXPONENT),
        lambda batch: replay.update_priorities(batch.slot, priority),
    )


def require_room(capacity: int) -> None:
    """`UserError` where so many rows do not fit in what memory is left."""
    needed = capacity * FRAME[0] * FRAME[1]
    free = available_bytes()
    if free is not None and needed > free:
        raise UserError(
            f"--capacity {capacity:,}: its frames need {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are left"
        )


def time_samples(
    sample: Callable[[], Any], update: Callable[[Any], Any] | None, rounds: int
) -> dict[str, list[float]]:
    """Seconds of samples, of updates and of plain copies, taken in turn. What is copied is in no
    cache, as with a replay's frames.
    """
    sources = np.ones((_SOURCES, BATCH * 2 * STACK * FRAME[0] * FRAME[1]), dtype=np.uint8)
    goal = np.empty_like(sources[0])
    seconds: dict[str, list[float]] = {"sample": [], "update": [], "copy": []}
    for turn in range(rounds + _WARM_UP):
        began = time.perf_counter()
        batch = sample()
        sampled = time.perf_counter()
        if update is not None:
            update(batch)
        updated = time.perf_counter()
        goal[:] = sources[turn % _SOURCES]
        copied = time.perf_counter()
        if turn >= _WARM_UP:
            seconds["sample"].append(sampled - began)
            seconds["update"].append(updated - sampled)
            seconds["copy"].append(copied - updated)
    return seconds


def measure_replay(capacities: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Of every size, drawn uniformly and by priority."""
    torch.set_num_threads(1)
    rows = []
    for capacity in capacities:
        for prioritized in (False, True):
            sample, update = filled(capacity, prioritized)
            seconds = time_samples(sample, update if prioritized else None, rounds)
            rows.append({"capacity": capacity, "prioritized": prioritized, **seconds})
    return rows


def print_replay(rows: Sequence[dict[str, Any]]) -> None:
    """One table."""
    cells = []
    for row in rows:
        whole = [a + b for a, b in zip(row["sample"], row["update"], strict=True)]
        ratio = statistics.median(whole) / statistics.median(row["copy"])
        cells.append(
            [
                f"{row['capacity']:,}",
                "prioritised" if row["prioritized"] else "uniform",
                str(spread([1e3 * s for s in row["sample"]])),
                number(1e3 * statistics.median(row["update"])) if row["prioritized"] else "–",
                number(1e3 * statistics.median(row["copy"])),
                f"{ratio:.2f}",
                number(BATCH / statistics.median(whole)),
            ]
        )
    print_table(
        f"batches of {BATCH} Atari transitions (two stacks of {STACK}, n = {N_STEP}), one thread",
        [
            "rows",
            "drawn",
            "sample, ms",
            "update, ms",
            "plain copy, ms",
            "times the copy",
            "transitions/s",
        ],
        cells,
    )
