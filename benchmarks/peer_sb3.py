"""Stable-Baselines3: speed on CartPole, or the score of DQN or QR-DQN (sb3-contrib) on MinAtar.

    python benchmarks/peer_sb3.py speed '{"env_id": "CartPole-v1", …}'
    python benchmarks/peer_sb3.py score DQN Breakout 0 100000 100

`speed` takes `compare.WORK`; `score` takes algorithm, game, seed, env steps, and episodes of the
final evaluation. `compare.py` and `minatar_games.py` run this in the peers' Python. It prints one
line of JSON.

MinAtar uses rl-baselines3-zoo's settings for Atari (learning rate, batch size, train_freq, target
update, ε), because neither library has any for MinAtar. Changed, because the budget is a hundredth
of Atari's: learning starts after 1,000 env steps instead of 100,000, ε falls over a tenth of the
budget, and QR-DQN has its default learning rate and optimizer. The network is that of Young & Tian
2019, like ours, because the zoo's does not accept images of ten rows.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

MAX_EPISODE_STEPS = 27_000  # of an evaluation, as in this project


class Clock(BaseCallback):
    """Notes the time at the end of every record."""

    def __init__(self, record_env_steps: int) -> None:
        super().__init__()
        self.record_env_steps = record_env_steps
        self.times: list[tuple[int, float]] = []

    def _on_rollout_start(self) -> None:
        """A rollout starts when the updates of the previous round are complete."""
        if not self.times or self.num_timesteps >= self.times[-1][0] + self.record_env_steps:
            self.times.append((self.num_timesteps, time.perf_counter()))

    def _on_step(self) -> bool:
        return True


def speed(work: dict[str, Any]) -> dict[str, Any]:
    """Train on CartPole; returns the env steps per second of each record."""
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
    return {"env_steps_per_second": rates, "updates": model._n_updates}


class ChannelsFirst(gym.ObservationWrapper[Any, Any, Any]):
    """Booleans [10, 10, C] as floats [C, 10, 10]."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        rows, columns, channels = env.observation_space.shape or ()
        self.observation_space = gym.spaces.Box(0, 1, (channels, rows, columns), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """See the class."""
        return np.moveaxis(observation, 2, 0).astype(np.float32)


class Convolution(BaseFeaturesExtractor):
    """One convolution of 16 channels and a hidden layer of 128 units (Young & Tian 2019)."""

    def __init__(self, observation_space: gym.spaces.Box) -> None:
        super().__init__(observation_space, 128)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(observation_space.shape[0], 16, 3),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(1024, 128),
            torch.nn.ReLU(),
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, C, 10, 10] to [B, 128]."""
        features: torch.Tensor = self.layers(observations)
        return features


def score(algorithm: str, game: str, seed: int, env_steps: int, episodes: int) -> dict[str, float]:
    """Train on a MinAtar game; returns the return of the final evaluation."""
    import minatar.gym

    minatar.gym.register_envs()

    def make() -> gym.Env[Any, Any]:
        return ChannelsFirst(gym.make(f"MinAtar/{game}-v1"))

    def make_limited() -> gym.Env[Any, Any]:
        """A policy that hides may never die. The limit lies within the monitor, which would not
        count the episode otherwise.
        """
        return gym.wrappers.TimeLimit(make(), MAX_EPISODE_STEPS)

    options: dict[str, Any] = {
        "buffer_size": 100_000,
        "learning_starts": 1_000,
        "batch_size": 32,
        "train_freq": 4,
        "gradient_steps": 1,
        "target_update_interval": 1_000,
        "exploration_fraction": 0.1,
        "exploration_final_eps": 0.01,
        "seed": seed,
        "policy_kwargs": {"features_extractor_class": Convolution, "net_arch": []},
    }
    envs = make_vec_env(make, n_envs=1, seed=seed)
    model: OffPolicyAlgorithm
    if algorithm == "DQN":
        model = DQN("MlpPolicy", envs, learning_rate=1e-4, **options)
    else:
        from sb3_contrib import QRDQN

        options["policy_kwargs"]["n_quantiles"] = 200
        model = QRDQN("MlpPolicy", envs, **options)
    model.learn(env_steps)
    games = make_vec_env(make_limited, n_envs=8, seed=10_000 + seed)
    returns, _ = evaluate_policy(
        model, games, n_eval_episodes=episodes, return_episode_rewards=True
    )
    return {"closing_mean": float(np.mean(returns)), "closing_std": float(np.std(returns))}


def main() -> None:
    """Run what the first argument names."""
    torch.set_num_threads(1)
    what, *words = sys.argv[1:]
    if what == "speed":
        result = speed(json.loads(words[0]))
    else:
        algorithm, game, *numbers = words
        result = score(algorithm, game, *map(int, numbers))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
