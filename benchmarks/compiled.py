"""Time of an update with eager and with compiled passes, by network and method.

    taskset -c 0 python benchmarks/compiled.py

One process and one thread. The batch stays the same, so no environment or replay takes part. The
difference is the largest of any parameter after 12 updates, each on a batch of its own.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from hvd_dqn.common.structs import Batch, ReplayShare
from hvd_dqn.config import DistributedConfig, NetworkConfig, ObjectiveConfig, OptimizerConfig
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.learner import Learner, TargetUpdate, make_learner
from hvd_dqn.methods.registry import make_network, make_objective
from hvd_dqn.tools.bench.report import print_table, say

VECTORS = gym.spaces.Box(-1, 1, (4,))
MINATAR = gym.spaces.Box(0, 1, (4, 10, 10), np.uint8)
ATARI = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
ROUNDS, SECONDS, ACTIONS, COMPARED_UPDATES = 9, 1.0, 6, 12


class Case(NamedTuple):
    """A network and a method."""

    name: str
    space: gym.spaces.Box
    network: dict[str, Any]
    objective: dict[str, Any]
    batch_size: int = 32


CASES = [
    Case("MLP 256×256", VECTORS, {"hidden_sizes": (256, 256)}, {"double": False}, 64),
    Case(
        "the same, dueling, LayerNorm, double DQN",
        VECTORS,
        {"hidden_sizes": (256, 256), "layer_norm": True, "dueling": True},
        {},
        64,
    ),
    Case("MinAtar's convolution, double DQN", MINATAR, {"hidden_sizes": (128,)}, {}),
    Case(
        "the same, C51, noisy, dueling",
        MINATAR,
        {"hidden_sizes": (128,), "noisy": True, "dueling": True},
        {"distribution": "categorical"},
    ),
    Case(
        "the same, QR-DQN with 200 quantiles, Munchausen",
        MINATAR,
        {"hidden_sizes": (128,)},
        {"distribution": "quantile", "munchausen": True, "double": False},
    ),
    Case("Nature's convolutions, double DQN", ATARI, {"hidden_sizes": (512,)}, {}),
    Case(
        "the same in bfloat16",
        ATARI,
        {"hidden_sizes": (512,), "precision": "bfloat16"},
        {},
    ),
]


def learner_of(case: Case, *, compiled: bool) -> Learner:
    """A learner; the initial weights are always the same."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    objective = ObjectiveConfig(**case.objective)
    online, target = (
        make_network(
            NetworkConfig(**case.network),
            objective,
            obs_space=case.space,
            num_actions=ACTIONS,
            device=torch.device("cpu"),
        )
        for _ in range(2)
    )
    return make_learner(
        DistributedConfig(),
        prioritized=False,
        online=online,
        target=target,
        objective=make_objective(objective, generator),
        config=OptimizerConfig(compile=compiled),
        rate=lambda updates: 1e-3,
        target_update=TargetUpdate(100),
        communicator=LocalCommunicator(),
        generator=generator,
    )


def batch_of(case: Case, rng: np.random.Generator) -> Batch:
    """Random transitions."""
    size = case.batch_size
    low, high = (0, int(case.space.high.max()) + 1) if case.space.dtype == np.uint8 else (-3, 4)
    obs, next_obs = rng.integers(low, high, (2, size, *case.space.shape)).astype(case.space.dtype)
    scalars = rng.random((3, size), dtype=np.float32)
    reward, discount, weight = map(torch.from_numpy, scalars)
    return Batch(
        obs=torch.from_numpy(obs),
        action=torch.from_numpy(rng.integers(0, ACTIONS, size)),
        reward=reward,
        discount=discount,
        next_obs=torch.from_numpy(next_obs),
        weight=weight,
        slot=np.arange(size),
        share=ReplayShare(),
    )


def update(learner: Learner, batch: Batch) -> None:
    """Run one update."""
    learner.start(batch)
    learner.finish()


def measure(case: Case) -> list[str]:
    """Measure one row of the table."""
    rng = np.random.default_rng(0)
    batch = batch_of(case, rng)
    eager, compiled = (learner_of(case, compiled=choice) for choice in (False, True))
    began = time.perf_counter()
    compiled.warm_up(batch)
    compile_seconds = time.perf_counter() - began
    for _ in range(COMPARED_UPDATES):
        other = batch_of(case, rng)
        update(eager, other)
        update(compiled, other)
    values = [learner.online_parameters.values for learner in (eager, compiled)]
    difference = float((values[0] - values[1]).abs().max())
    times: dict[str, list[float]] = {"eager": [], "compiled": []}
    for _ in range(ROUNDS):
        for name, learner in (("eager", eager), ("compiled", compiled)):
            count, began = 0, time.perf_counter()
            while time.perf_counter() - began < SECONDS / ROUNDS:
                update(learner, batch)
                count += 1
            times[name].append(1e3 * (time.perf_counter() - began) / count)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return [
        case.name,
        f"{medians['eager']:.2f}",
        f"{medians['compiled']:.2f}",
        f"{medians['eager'] / medians['compiled']:.2f}",
        f"{difference:.0e}",
        f"{compile_seconds:.0f} s",
    ]


def main() -> None:
    """Measure every case."""
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        say(case.name)
        rows.append(measure(case))
    columns = ["network and method", "eager, ms", "compiled, ms", "speedup"]
    print_table("", [*columns, "difference", "compiling"], rows)


if __name__ == "__main__":
    main()
