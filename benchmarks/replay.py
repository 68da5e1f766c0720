"""Drawing Atari batches from a replay, beside the buffers that people use now.

    make peers                  # their packages, in a virtual environment of its own
    .venv-peers/bin/python benchmarks/replay.py --capacity 100000 1000000

A batch is 256 transitions of 4 stacked frames of 84×84 bytes and n = 3. Each buffer runs in a
process of its own; every sample is timed next to a plain copy of as many bytes (two stacks), and
the ratio of the medians is what can be compared. Writes `benchmarks/results/replay.json`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # in the peers' Python, which has only theirs

from hvd_dqn.tools.bench.replay import (
    BATCH,
    EPISODE,
    FRAME,
    GAMMA,
    N_STEP,
    NUM_ENVS,
    STACK,
    Experience,
    filled,
    time_samples,
)
from hvd_dqn.tools.bench.report import machine

RESULTS = Path(__file__).parent / "results" / "replay.json"


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


CONTESTANTS = {
    "hvd_dqn": (filled, None),
    "Stable-Baselines3": (stable_baselines3, "stable-baselines3"),
    "Tianshou": (tianshou, "tianshou"),
    "TorchRL": (torchrl, "torchrl"),
    "cpprb": (cpprb, "cpprb"),
}
BYTES_IF_STACKS_ARE_KEPT = 2 * STACK * FRAME[0] * FRAME[1]
KEEPS_STACKS = {"Stable-Baselines3", "TorchRL"}


def measure(name: str, capacity: int, prioritized: bool, rounds: int) -> dict[str, Any]:
    """In this process: fill, then time samples and plain copies in turn."""
    import torch

    torch.set_num_threads(1)
    before = resident_bytes()
    made = CONTESTANTS[name][0](capacity, prioritized)
    if made is None:
        return {"remark": "has none"}
    sample, update = made
    held = resident_bytes() - before
    seconds = time_samples(sample, update if prioritized else None, rounds)
    median = {key: statistics.median(values) for key, values in seconds.items()}
    whole = median["sample"] + median["update"]
    return {
        "sample_ms": round(1e3 * median["sample"], 3),
        "update_ms": round(1e3 * median["update"], 3) if prioritized else None,
        "copy_ms": round(1e3 * median["copy"], 3),
        "times_the_copy": round(whole / median["copy"], 2),
        "transitions_per_second": round(BATCH / whole),
        "bytes_per_transition": round(held / capacity),
    }


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def free_bytes() -> int:
    """Memory of this machine that nothing uses."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable"))


def main() -> None:
    """Every buffer in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capacity", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, capacity, prioritized = arguments.child
        print(json.dumps(measure(name, int(capacity), prioritized == "True", arguments.rounds)))
        return
    rows = []
    for capacity in arguments.capacity:
        for prioritized in (False, True):
            for name in arguments.only:
                result = run_child(name, capacity, prioritized, arguments.rounds)
                row = {"buffer": name, "capacity": capacity, "prioritized": prioritized, **result}
                rows.append(row)
                print(row, flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    facts = {
        **machine(),
        "versions": {
            name: importlib.metadata.version(package)
            for name, (_, package) in CONTESTANTS.items()
            if package and name in arguments.only
        },
        "batch": {"size": BATCH, "frame": FRAME, "stack": STACK, "n_step": N_STEP},
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(facts, indent=2) + "\n")


def run_child(name: str, capacity: int, prioritized: bool, rounds: int) -> dict[str, Any]:
    """One measurement; what does not fit in memory is said and not tried."""
    needed = capacity * BYTES_IF_STACKS_ARE_KEPT
    if name in KEEPS_STACKS and needed > 0.9 * free_bytes():
        return {
            "remark": f"needs {needed / 1e9:.0f} GB",
            "bytes_per_transition": needed // capacity,
        }
    command = [sys.executable, __file__, "--rounds", str(rounds), "--child", name, str(capacity)]
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [*command, str(prioritized)], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        return {"remark": "failed: " + done.stderr.strip().splitlines()[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
