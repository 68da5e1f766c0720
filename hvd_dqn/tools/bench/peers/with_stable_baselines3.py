"""Stable-Baselines3's DQN."""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from typing import Any

import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env


class Clock(BaseCallback):
    """Notes the time after every record of env steps."""

    def __init__(self, record: int) -> None:
        """A record is of so many env steps."""
        super().__init__()
        self.record = record
        self.times: list[tuple[int, float]] = []

    def _on_rollout_start(self) -> None:
        """Rounds begin where the updates of the one before have ended."""
        if not self.times or self.num_timesteps >= self.times[-1][0] + self.record:
            self.times.append((self.num_timesteps, time.perf_counter()))

    def _on_step(self) -> bool:
        return True


def main(work: dict[str, Any]) -> None:
    """Train, and print env steps a second."""
    torch.set_num_threads(1)
    envs = make_vec_env(work["env_id"], n_envs=work["num_envs"], seed=0)
    model = DQN(
        "MlpPolicy",
        envs,
        learning_rate=work["learning_rate"],
        buffer_size=work["capacity"],
        learning_starts=work["learning_starts"],
        batch_size=work["batch_size"],
        gamma=work["gamma"],
        train_freq=work["round_env_steps"] // work["num_envs"],
        gradient_steps=work["round_updates"],
        target_update_interval=work["target_period_env_steps"],
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": work["hidden_sizes"]},
        seed=0,
        device="cpu",
    )
    clock = Clock(work["record_env_steps"])
    model.learn(work["total_env_steps"], callback=clock)
    late = [mark for mark in clock.times if mark[0] >= 2 * work["learning_starts"]]
    rates = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(late)]
    print(json.dumps({"env_steps_per_second": rates, "updates": model._n_updates}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
