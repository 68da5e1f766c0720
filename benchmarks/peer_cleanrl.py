"""CleanRL's PQN on CartPole: the score of an agent.

    python benchmarks/peer_cleanrl.py score '{"env_id": "CartPole-v1", "options": {}, …}'

`score` takes the work of a row in `score_rows.py`; its `options` are CleanRL's. `scores.py` runs
this in a Python that has CleanRL. It prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import sys
import tempfile
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch


def score(work: dict[str, Any]) -> dict[str, Any]:
    """Train; returns the return of the last network, and the curve of the training episodes."""
    options = {
        "env-id": work["env_id"],
        "total-timesteps": work["env_steps"],
        "seed": work["seed"],
        **work["options"],
    }
    sys.argv = ["pqn", "--no-cuda"]
    for name, value in options.items():
        sys.argv += [f"--{name}", str(value)]
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(printed):
        os.chdir(place)  # it writes into ./runs
        began = time.monotonic()
        names = runpy.run_module("cleanrl.pqn", run_name="__main__")
        seconds = time.monotonic() - began
    returns = play(work["env_id"], names["q_network"], 10_000 + work["seed"], work["episodes"])
    return {
        "closing_mean": float(np.mean(returns)),
        "closing_std": float(np.std(returns)),
        "curve": curve_of(printed.getvalue(), work["env_steps"], work["evaluations"]),
        "seconds": round(seconds, 1),
    }


def curve_of(printed: str, env_steps: int, points: int) -> list[list[float]]:
    """Return the mean return of the training episodes that ended in each part of the budget."""
    ended: dict[int, list[float]] = {}
    for line in printed.splitlines():
        if line.startswith("global_step="):
            step, score = (part.partition("=")[2].strip("[]") for part in line.split(", "))
            part = -(-int(step) * points // env_steps)
            ended.setdefault(part, []).append(float(score))
    return [
        [part * env_steps // points, round(float(np.mean(scores)), 3)]
        for part, scores in sorted(ended.items())
    ]


def play(env_id: str, network: torch.nn.Module, seed: int, episodes: int) -> list[float]:
    """Play greedily; returns the return of each episode."""
    env = gym.make(env_id)
    returns = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed + episode)
        total, over = 0.0, False
        while not over:
            with torch.no_grad():
                action = int(network(torch.as_tensor(obs, dtype=torch.float32)[None]).argmax())
            obs, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, text = sys.argv[1:]
    print(json.dumps({"score": score}[what](json.loads(text))))
