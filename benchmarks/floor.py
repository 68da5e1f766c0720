"""The minimum time of an update of CartPole's network with its two env steps, beside whole runs.

    taskset -c 0 python benchmarks/floor.py --json benchmarks/results/floor.json

The settings are rl-baselines3-zoo's, with one environment and one thread, as in `compare.py`. The
unavoidable parts are timed by themselves, in turn, in memory that stays in the caches. An eager and
a compiled run follow each turn, with the time of their stages.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from command import at_least, execute
from compare import OURS, WORK, our_words

from hvd_dqn.tools.bench.launched import run_bench
from hvd_dqn.tools.bench.report import finish, print_table, spread

SIZES = (4, *WORK["hidden_sizes"], 2)
LAYERS = list(pairwise(SIZES))
PARAMETERS = sum((before + 1) * after for before, after in LAYERS)
BATCH = WORK["batch_size"]
ENV_STEPS = WORK["round_env_steps"] // WORK["round_updates"]
LARGE = 1024


def products() -> tuple[Callable[[], None], int]:
    """The matrix products of an update, and the number of their floating-point operations.

    Both networks run forward; the online network also needs the gradients of all weights and of all
    inputs except the first.
    """
    weights = [torch.rand(before, after) for before, after in LAYERS]
    values = [torch.rand(BATCH, size) for size in SIZES]
    of_weights = [torch.empty_like(weight) for weight in weights]
    of_values = [torch.empty_like(value) for value in values]

    def work() -> None:
        for _ in range(2):
            for layer, weight in enumerate(weights):
                torch.mm(values[layer], weight, out=of_values[layer + 1])
        for layer, weight in enumerate(weights):
            torch.mm(values[layer].t(), values[layer + 1], out=of_weights[layer])
            if layer:
                torch.mm(values[layer + 1], weight.t(), out=of_values[layer])

    counted = 4 * sum(a * b for a, b in LAYERS) - LAYERS[0][0] * LAYERS[0][1]
    return work, 2 * BATCH * counted


def adam() -> Callable[[], None]:
    """torch's fused Adam step on all parameters as one tensor."""
    parameters = torch.nn.Parameter(torch.rand(PARAMETERS))
    parameters.grad = torch.rand_like(parameters)
    return torch.optim.Adam([parameters], lr=1e-9, fused=True).step


def env_steps() -> Callable[[], None]:
    """Steps of Gymnasium's CartPole without wrappers, with resets."""
    env = gym.make(WORK["env_id"]).unwrapped
    env.reset(seed=0)
    state = {"action": 0}

    def work() -> None:
        for _ in range(ENV_STEPS):
            state["action"] ^= 1
            if env.step(state["action"])[2]:
                env.reset()

    return work


def acting() -> Callable[[], None]:
    """Action selection before every env step, with NumPy's products."""
    rng = np.random.default_rng(0)
    weights = [rng.random(layer, dtype=np.float32) for layer in LAYERS]

    def work() -> None:
        for _ in range(ENV_STEPS):
            values = np.ones((1, SIZES[0]), np.float32)
            for weight in weights:
                values = values @ weight
            values.argmax()

    return work


def milliseconds(work: Callable[[], Any], seconds: float) -> float:
    """Mean time of one call, measured for `seconds`."""
    work()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        work()
        count += 1
    return 1e3 * (time.perf_counter() - began) / count


def main() -> None:
    """Measure every part and every run, in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument("--records", type=at_least(1), default=8, help="records per run")
    parser.add_argument("--seconds", type=float, default=0.5, help="time to measure each part")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    left, right, goal = (torch.rand(LARGE, LARGE) for _ in range(3))
    multiply_large = partial(torch.mm, left, right, out=goal)
    large = 2 * LARGE**3
    multiplied, operations = products()
    parts = {
        "matrix products": multiplied,
        "Adam": adam(),
        f"{ENV_STEPS} env steps": env_steps(),
        f"{ENV_STEPS} forward passes for one environment": acting(),
    }
    words = our_words(WORK | {"num_envs": 1})
    found: dict[str, list[float]] = {name: [] for name in ("fastest products", *parts, *OURS)}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in OURS}
    for _ in range(arguments.rounds):
        took = milliseconds(multiply_large, arguments.seconds)
        found["fastest products"].append(took * operations / large)
        for name, work in parts.items():
            found[name].append(milliseconds(work, arguments.seconds))
        for name, options in OURS.items():
            train = ["train", "--records", str(arguments.records), "--", *words, *options]
            result = run_bench(train, 1, "")
            found[name].append(1e3 / statistics.median(result["updates_per_second"]))
            stages[name].append(result["shares"])
    rows = [[name, str(spread(found[name]))] for name in parts]
    whole = [sum(values) for values in zip(*(found[name] for name in parts), strict=True)]
    rows.append(["together", str(spread(whole))])
    for name in OURS:
        rows.append([f"{name}, a whole run", str(spread(found[name]))])
        for stage in stages[name][0]:
            took_each = [
                shares[stage] * took for shares, took in zip(stages[name], found[name], strict=True)
            ]
            if statistics.median(took_each) >= 0.005:
                rows.append([f"– {stage}", str(spread(took_each))])
    fastest = str(spread(found["fastest products"]))
    print_table(
        f"an update of {PARAMETERS:,} parameters, batches of {BATCH}: {operations / 1e6:.1f} "
        f"million operations, {fastest} ms at the rate of {LARGE}×{LARGE} matrices",
        ["", "ms"],
        rows,
    )
    finish("floor", {"milliseconds": found, "shares": stages}, arguments.json)


if __name__ == "__main__":
    execute(main)
