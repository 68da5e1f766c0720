"""A small MDP whose values are known: every method and every switch finds them, by the real
`train`.
"""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

from hvd_dqn.config import Config
from hvd_dqn.distributed import connect
from hvd_dqn.methods.registry import make_network
from hvd_dqn.networks.saved import NetworkDirectory, load_network
from hvd_dqn.policy import load_policy
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.training import train
from tests.envs.toy import MaskedRing, Ring

GAMMA = 0.8
TEMPERATURE, COEFFICIENT = 0.03, 0.9

DISTRIBUTIONS = {
    "categorical": {
        "objective.distribution": "categorical",
        "objective.v_min": -2.0,
        "objective.v_max": 2.0,
    },
    "quantile": {"objective.distribution": "quantile", "objective.num_quantiles": 20},
    "implicit quantile": {
        "objective.distribution": "implicit_quantile",
        "objective.num_taus": 8,
        "objective.num_target_taus": 8,
    },
}
MUNCHAUSEN = {"objective.munchausen": True, "objective.double": False}
PRIORITIZED = {"replay.sampling": "prioritized", "replay.importance_exponent_initial": 1.0}

CASES = {
    "double": {},
    "no double": {"objective.double": False},
    "squared loss": {"objective.loss": "squared"},
    "n-step": {"replay.n_step": 3},
    "dueling": {"network.dueling": True},
    "noisy": {"network.noisy": True},
    "layer norm": {"network.layer_norm": True},
    "dropout": {"network.dropout": 0.05, "network.hidden_sizes": (128, 128)},
    "prioritized": PRIORITIZED,
    "soft target": {"target_period_updates": 1, "target_step": 0.04},
    "frame stack": {"env.frame_stack": 2},
    "munchausen": MUNCHAUSEN,
    "adamw": {"optimizer.name": "adamw", "optimizer.weight_decay": 1e-4},
    "radam": {"optimizer.name": "radam"},
    "rmsprop": {"optimizer.name": "rmsprop", "optimizer.learning_rate": 1e-3},
    "ladder": {"exploration.kind": "ladder"},
    "parameter averaging": {"distributed.average": "parameters"},
    **DISTRIBUTIONS,
    "quantile, munchausen": DISTRIBUTIONS["quantile"] | MUNCHAUSEN,
    "implicit quantile, munchausen": DISTRIBUTIONS["implicit quantile"] | MUNCHAUSEN,
    "rainbow": DISTRIBUTIONS["categorical"]
    | PRIORITIZED
    | {"network.dueling": True, "network.noisy": True, "replay.n_step": 3},
    "all but the Impala": DISTRIBUTIONS["implicit quantile"]
    | MUNCHAUSEN
    | PRIORITIZED
    | {"network.dueling": True, "network.noisy": True, "replay.n_step": 3},
}


def true_values(config: Config, ring: type[Ring], legal: np.ndarray) -> np.ndarray:
    """The fixed point [state, action] of what the method computes, under uniformly random `legal`
    actions [state, action] bool.

    n-step returns are those of the random policy for n − 1 steps, and of the method's bootstrap
    then.
    """
    q = np.zeros_like(ring.REWARD)
    live = 1.0 - ring.TERMINAL
    for _ in range(300):
        allowed = np.where(legal, q, -np.inf)
        if config.objective.munchausen:
            # τ·log Σ exp(q/τ) = Σ π·(q − τ·log π)
            state_value = TEMPERATURE * np.logaddexp.reduce(allowed / TEMPERATURE, axis=1)
            log_policy = (q - state_value[:, None]) / TEMPERATURE
            bonus = COEFFICIENT * np.maximum(TEMPERATURE * log_policy, -1.0)
        else:
            bonus = np.zeros_like(q)
            state_value = allowed.max(axis=1)
        state_value = np.where(legal.any(axis=1), state_value, 0.0)
        returns = ring.REWARD + GAMMA * live * state_value[ring.NEXT]
        for _ in range(config.replay.n_step - 1):
            mean = (returns * legal).sum(axis=1) / np.maximum(legal.sum(axis=1), 1)
            returns = ring.REWARD + GAMMA * live * mean[ring.NEXT]
        q = returns + bonus
    return q


BUDGET = {
    "total_env_steps": 9_600,
    "learning_starts_env_steps": 400,
    "updates_per_iteration": 1,
    "target_period_updates": 20,
    "distributed.average_period_updates": 5,
    "network.hidden_sizes": (64,),
    "replay.capacity": 4_000,
    "replay.batch_size": 64,
    "optimizer.learning_rate": 3e-3,
    "optimizer.final_learning_rate_fraction": 0.05,
    "objective.gamma": GAMMA,
    "exploration.epsilon_initial": 1.0,
    "exploration.epsilon_final": 1.0,
    "evaluation.period_env_steps": 100_000,
    "evaluation.episodes": 1,
    "evaluation.final_episodes": 1,
    "logging.period_env_steps": 4_000,
    "logging.loggers": (),
    "distributed.threads_per_rank": 1,
}


@pytest.mark.learning
@pytest.mark.parametrize("name", CASES)
def test_values_are_found(name, tmp_path):
    changes = BUDGET | {"env.id": "tests.envs.toy:ToyRing-v0"} | CASES[name]
    config = Config(preset="test").changed(changes)
    run_dir = RunDirectory(tmp_path / "run")
    summary = train(config, connect("local"), run_dir)
    assert summary.progress.updates > 1000
    network = make_network(
        config.network,
        config.objective,
        obs_space=gym.spaces.Box(0, 1, (5 * config.env.frame_stack,)),
        num_actions=2,
        device=torch.device("cpu"),
    )
    load_network(network, NetworkDirectory(run_dir.networks).best())
    with torch.no_grad():
        # with a stack of frames, an episode's first observation has zeros before it
        before = torch.zeros(4, 5 * (config.env.frame_stack - 1))
        found = network(torch.cat((before, torch.eye(5)[:4]), dim=1)).numpy()
    tolerance = 0.05 if config.replay.n_step == 1 and not config.network.dropout else 0.12
    truth = true_values(config, Ring, np.ones((5, 2), dtype=np.bool_))
    assert np.abs(found - truth[:4]).max() < tolerance


MASKED = {
    "double": {},
    "no double, in the info": {"objective.double": False, "env.action_mask": "info"},
    "n-step, by a method": {"replay.n_step": 3, "network.dueling": True},
    "munchausen": MUNCHAUSEN,
    "quantile, munchausen": DISTRIBUTIONS["quantile"] | MUNCHAUSEN,
    "long explorations": {"exploration.zeta_exponent": 2.0},
    **DISTRIBUTIONS,
    "categorical": DISTRIBUTIONS["categorical"] | {"objective.v_max": 4.0},
}


@pytest.mark.learning
@pytest.mark.parametrize("name", MASKED)
def test_values_of_legal_actions_are_found(name, tmp_path):
    """The third action would win in every place, but is legal in two; taken elsewhere it raises."""
    where = next((w for w in ("info", "method") if w in name), "observation")
    changes = BUDGET | {
        "env.id": "tests.envs.toy:ToyMaskedRing-v0",
        "env.kwargs": json.dumps({"where": where}),
    }
    config = Config(preset="test").changed(changes | MASKED[name])
    train(config, connect("local"), RunDirectory(tmp_path / "run"))
    policy = load_policy(tmp_path / "run")
    legal = MaskedRing.LEGAL.astype(np.bool_)
    if where == "observation":
        places = [{"place": place, "action_mask": legal[place]} for place in range(4)]
        found = policy.q_values(places)
    else:
        found = policy.q_values(list(np.eye(5, dtype=np.float32)[:4]), action_mask=legal[:4])
    assert (np.isneginf(found) == ~legal[:4]).all()
    truth = true_values(config, MaskedRing, legal)[:4]
    # quantiles move by bounded steps, and the third action's value is far from where they start
    exact = config.replay.n_step == 1 and config.objective.distribution == "expected"
    tolerance = 0.05 if exact else 0.15
    assert np.abs(found - truth)[legal[:4]].max() < tolerance


class Additive(gym.Env):
    """Three places in turn; each of two dimensions of the action pays on its own."""

    REWARDS = np.array([[0.4, -0.2, 0.1], [0.0, 0.3, 0.2], [-0.1, 0.1, 0.5]])
    MORE = np.array([[0.0, 0.3], [0.2, -0.1], [0.1, 0.0]])

    def __init__(self):
        self.observation_space = gym.spaces.Discrete(3)
        self.action_space = gym.spaces.MultiDiscrete([3, 2], start=[0, 1])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(3))
        return self.place, {}

    def step(self, action):
        reward = self.REWARDS[self.place, action[0]] + self.MORE[self.place, action[1] - 1]
        self.place = (self.place + 1) % 3
        return self.place, float(reward), False, False, {}


gym.register("Additive-v0", entry_point=Additive, max_episode_steps=9)


@pytest.mark.learning
@pytest.mark.parametrize(
    "changes",
    [{}, {"env.joint_actions": 1}, {"env.joint_actions": 1} | PRIORITIZED],
    ids=["joint", "apart", "apart, prioritized"],
)
def test_values_of_two_dimensional_actions_are_found(changes, tmp_path):
    rewards = Additive.REWARDS[:, :, None] + Additive.MORE[:, None, :]  # [place, first, second]
    truth = np.zeros(3)
    for _ in range(200):
        truth = rewards.max(axis=(1, 2)) + GAMMA * np.roll(truth, -1)
    changes = BUDGET | {"env.id": "tests.learning.test_known_values:Additive-v0"} | changes
    train(Config(preset="test").changed(changes), connect("local"), RunDirectory(tmp_path / "run"))
    policy = load_policy(tmp_path / "run")
    for place in range(3):
        first, second = np.unravel_index(rewards[place].argmax(), (3, 2))
        assert policy.act(place).tolist() == [first, second + 1]
    values = policy.q_values([0, 1, 2])
    if "env.joint_actions" in changes:
        assert values.shape == (3, 5)
        values = (values[:, :3].max(axis=1) + values[:, 3:].max(axis=1)) / 2
    else:
        expected = rewards + GAMMA * np.roll(truth, -1)[:, None, None]
        np.testing.assert_allclose(values, expected.reshape(3, 6), atol=0.05)
        values = values.max(axis=1)
    np.testing.assert_allclose(values, truth, atol=0.05)
