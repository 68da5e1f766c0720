"""One MinAtar run of Stable-Baselines3's DQN or sb3-contrib's QR-DQN.

    python benchmarks/peer_sb3.py DQN Breakout 0 100000 100

Settings: rl-baselines3-zoo's for Atari (learning rate, batch, train_freq, target update, ε), since
neither library has any for MinAtar. Changed, as the budget is a hundredth of Atari's: learning
starts after 1,000 env steps in place of 100,000, ε falls over a tenth of the budget, and QR-DQN has
its default learning rate and optimizer. The network is that of Young & Tian 2019, as ours, since
the zoo's takes no image of ten rows. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import gymnasium as gym
import minatar.gym
import numpy as np
import torch
from sb3_contrib import QRDQN
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

MAX_EPISODE_STEPS = 27_000  # of an evaluation, as ours


class ChannelsFirst(gym.ObservationWrapper[Any, Any, Any]):
    """Booleans [10, 10, C] as floats [C, 10, 10]."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Declare the new shape."""
        super().__init__(env)
        rows, columns, channels = env.observation_space.shape or ()
        self.observation_space = gym.spaces.Box(0, 1, (channels, rows, columns), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """See the class."""
        return np.moveaxis(observation, 2, 0).astype(np.float32)


class Convolution(BaseFeaturesExtractor):
    """One convolution of 16 channels and a hidden layer of 128 (Young & Tian 2019)."""

    def __init__(self, observation_space: gym.spaces.Box) -> None:
        """For observations [C, 10, 10]."""
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


def main() -> None:
    """Train and evaluate."""
    torch.set_num_threads(1)
    algorithm, game = sys.argv[1:3]
    seed, env_steps, episodes = map(int, sys.argv[3:6])
    minatar.gym.register_envs()

    def make() -> gym.Env[Any, Any]:
        return ChannelsFirst(gym.make(f"MinAtar/{game}-v1"))

    def make_limited() -> gym.Env[Any, Any]:
        """A policy that hides may never die; the limit lies within the monitor, which else would
        not count the episode.
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
    model: DQN | QRDQN
    if algorithm == "DQN":
        model = DQN("MlpPolicy", envs, learning_rate=1e-4, **options)
    else:
        options["policy_kwargs"]["n_quantiles"] = 200
        model = QRDQN("MlpPolicy", envs, **options)
    model.learn(env_steps)
    games = make_vec_env(make_limited, n_envs=8, seed=10_000 + seed)
    returns, _ = evaluate_policy(
        model, games, n_eval_episodes=episodes, return_episode_rewards=True
    )
    print(
        json.dumps({"closing_mean": float(np.mean(returns)), "closing_std": float(np.std(returns))})
    )


if __name__ == "__main__":
    main()
