"""Stable-Baselines3 and sb3-contrib: speed on CartPole, or the score of an agent.

    python benchmarks/peer_sb3.py speed '{"env_id": "CartPole-v1", …}'
    python benchmarks/peer_sb3.py score '{"env_id": "Pendulum-v1", "algorithm": "TD3", …}'

`speed` takes `compare.WORK`, `score` the work of a row in `score_rows.py`. `compare.py` and
`scores.py` run this in the peers' Python. It prints one line of JSON.

On MinAtar, the network is that of Young & Tian 2019, like ours, because the zoo's does not accept
images of ten rows. MiniGrid's image is flattened to 147 codes for a multi-layer perceptron.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

MAX_EPISODE_STEPS = 27_000  # of an evaluation, as in this project
EVALUATION_EPISODES = 20  # those of this project's presets


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


def make_env(work: dict[str, Any]) -> gym.Env[Any, Any]:
    """Make one environment, with the observations that the networks here take."""
    env_id: str = work["env_id"]
    if env_id.startswith("MinAtar/"):
        import minatar.gym

        if env_id not in gym.registry:
            minatar.gym.register_envs()
        return ChannelsFirst(gym.make(env_id))
    if env_id.startswith("MiniGrid-"):
        from minigrid.wrappers import ImgObsWrapper

        return gym.wrappers.FlattenObservation(ImgObsWrapper(gym.make(env_id)))
    if env_id.startswith("highway-"):
        import highway_env

        gym.register_envs(highway_env)
    return gym.make(env_id, **work.get("env_kwargs", {}))


def make_model(work: dict[str, Any]) -> OffPolicyAlgorithm:
    """Make the agent that `work` describes."""
    env_id, options = work["env_id"], dict(work["options"])
    envs = make_vec_env(lambda: make_env(work), n_envs=1, seed=work["seed"])
    if env_id.startswith("MinAtar/"):
        network = {"features_extractor_class": Convolution, "net_arch": []}
        options["policy_kwargs"] = options.get("policy_kwargs", {}) | network
    if "action_noise" in options:
        size = envs.action_space.shape
        deviation = np.full(size, options["action_noise"])
        options["action_noise"] = NormalActionNoise(np.zeros(size), deviation)
    module = "sb3_contrib" if work["algorithm"] == "QRDQN" else "stable_baselines3"
    make = getattr(importlib.import_module(module), work["algorithm"])
    model: OffPolicyAlgorithm = make("MlpPolicy", envs, seed=work["seed"], device="cpu", **options)
    return model


def score(work: dict[str, Any]) -> dict[str, Any]:
    """Train; returns the return of the final evaluation, and the curve of the others."""
    env_steps, evaluations, seed = work["env_steps"], work["evaluations"], work["seed"]

    def make_limited() -> gym.Env[Any, Any]:
        """A policy that hides may never die. The limit lies within the monitor, which would not
        count the episode otherwise.
        """
        return gym.wrappers.TimeLimit(make_env(work), MAX_EPISODE_STEPS)

    model = make_model(work)
    with tempfile.TemporaryDirectory() as best:
        callback = EvalCallback(
            make_vec_env(make_limited, n_envs=1, seed=20_000 + seed),
            n_eval_episodes=EVALUATION_EPISODES,
            eval_freq=env_steps // evaluations,
            best_model_save_path=best,
            log_path=best,  # otherwise it keeps no results
            verbose=0,
        )
        model.learn(env_steps, callback=callback)
        if work["protocol"] == "best":
            model = type(model).load(f"{best}/best_model", device="cpu")
    games = make_vec_env(make_limited, n_envs=8, seed=10_000 + seed)
    infos = []

    def note(names: dict[str, Any], _: dict[str, Any]) -> None:
        """Note the info of an episode that ends; `names` are `evaluate_policy`'s variables."""
        if names["done"] and work["info"]:
            infos.append(float(names["info"][work["info"]]))

    returns, _ = evaluate_policy(
        model, games, work["episodes"], callback=note, return_episode_rewards=True
    )
    curve = [
        [int(steps), round(float(np.mean(scores)), 3)]
        for steps, scores in zip(
            callback.evaluations_timesteps, callback.evaluations_results, strict=True
        )
    ]
    return {
        "closing_mean": float(np.mean(returns)),
        "closing_std": float(np.std(returns)),
        "curve": curve,
        **({"closing_info": float(np.mean(infos))} if work["info"] else {}),
    }


def main() -> None:
    """Run what the first argument names."""
    torch.set_num_threads(1)
    what, work = sys.argv[1:]
    run = {"speed": speed, "score": score}[what]
    print(json.dumps(run(json.loads(work))))


if __name__ == "__main__":
    main()
