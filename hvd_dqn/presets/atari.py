"""Atari: the published agents, with the settings of their papers.

Units: the papers count frames, four per env step; here everything counts env steps and updates.
If a paper and its reference code differ, the presets follow DeepMind's dqn_zoo and Google's
Dopamine.

Differences from all of them, with reasons:

- Each rank steps eight environments together (BTR: 64, as published), so that one forward pass
  serves all. The ratio of updates to env steps is the published one. N ranks take 1/N of the
  updates on N times the batch.
- `env.atari-protocol` names the protocol. Papers up to IQN used that of 2015, and so do their
  presets; M-IQN and BTR use sticky actions.
- Evaluation is greedy; the papers use ε between 0.001 and 0.05.
- The budget is 10 million env steps, as in common libraries; the papers used 50 million.
- IQN computes action values from evenly spaced quantiles instead of random ones: the same
  expectation without the noise.
- A frame stack is padded with zeros before an episode's first frame, as in Dopamine. dqn_zoo pads
  behind it, BTR repeats the first frame.
- With the protocol of 2015, an episode begins with 0 to 30 no-ops, as in the paper (dqn_zoo: 1 to
  30). Frames are ALE's grey, resized by ALE; dqn_zoo computes grey from RGB and resizes with
  Pillow.
- Prioritised sampling has no uniform share (dqn_zoo: one in a thousand), because priorities are
  never zero here. Priorities have no upper bound (dqn_zoo: 100, which losses hardly reach).
- The noisy layers of `rainbow` start at the paper's σ₀ = 0.5 (dqn_zoo: 0.1), and its Adam has the
  paper's ε of 1.5e-4 (dqn_zoo: 1.5625e-4).
- Noisy layers draw once per update for each network, so the online network chooses the next actions
  with the noise that it learns with: one draw less. dqn_zoo draws anew for that choice.
- The importance exponent β rises from the first env step, in dqn_zoo from the first update: a
  difference of at most 0.0012 in `rainbow`.
- `qrdqn` has the paper's 200 quantiles (dqn_zoo: 201); `iqn` acts by the paper's 32 (dqn_zoo: 64).
- The cosines of implicit quantiles are cos(0) … cos(63·π·τ), as in equation 4 of the paper and in
  BTR; in dqn_zoo and Dopamine cos(π·τ) … cos(64·π·τ). The first is a constant, a second bias.
- `m-iqn` acts ε-greedily by its action values, as the other agents do; its authors draw from the
  softmax policy, which is almost greedy at its temperature of 0.03.
- ε is annealed from the first env step; in dqn_zoo from the first update.
- The last layer of `double-dqn` has one bias per action; the tuned agent of the paper had a single
  shared bias.
- The last layers of `rainbow` have biases, unlike dqn_zoo's, and its priority is the
  Kullback-Leibler loss of the paper; dqn_zoo uses the cross-entropy.
- `btr`: β rises from 0.4 to 1 as in Rainbow (BTR: always 0.2); the Munchausen policy is that of the
  target network, as in M-IQN; ε falls linearly to 0.01 at 2 million env steps and stays there,
  whereas BTR's falls exponentially, to 0.37 at 2 million and 0.14 at 4 million, and is set to 0
  half-way; the priority is the mean of |δ| over quantiles, whereas BTR's is the sum, eight times as
  much, which changes neither samples nor weights; no no-ops besides sticky actions (BTR: 1 to 30).

`optimizer.rmsprop-eps` is the square root of dqn_zoo's constant, which is within the root.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvd_dqn.config import Config

_NATURE: dict[str, Any] = {
    "env.id": "ALE/Pong-v5",
    "env.num_envs": 8,
    "env.frame_stack": 4,
    "env.reward_clip": 1.0,
    "env.atari_protocol": "mnih2015",
    "total_env_steps": 10_000_000,
    "learning_starts_env_steps": 50_000,
    "vector_steps_per_iteration": 1,
    "updates_per_iteration": 2,
    "target_period_updates": 2_500,
    "network.hidden_sizes": (512,),
    "replay.capacity": 1_000_000,
    "replay.batch_size": 32,
    "objective.double": False,
    "optimizer.max_grad_norm": None,
    "exploration.epsilon_decay_env_steps": 1_000_000,
    "evaluation.period_env_steps": 250_000,
    "evaluation.episodes": 10,
    "evaluation.final_episodes": 30,
    "logging.period_env_steps": 10_000,
}
_ADAM = {
    "optimizer.name": "adam",
    "optimizer.learning_rate": 2.5e-4,
    "optimizer.adam_eps": 0.01 / 32,
    "exploration.epsilon_final": 0.01,
}
_IQN = {
    **_ADAM,
    "optimizer.learning_rate": 5e-5,
    "objective.distribution": "implicit_quantile",
    "objective.num_taus": 64,
    "objective.num_target_taus": 64,
    "objective.num_policy_taus": 32,
}
_MUNCHAUSEN = {
    "objective.munchausen": True,
    "objective.munchausen_coefficient": 0.9,
    "objective.munchausen_temperature": 0.03,
    "objective.munchausen_clip": -1.0,
}


def _preset(name: str, *changes: dict[str, Any]) -> Config:
    fields = dict(_NATURE)
    for change in changes:
        fields |= change
    return Config(preset=name).changed(fields)


def dqn() -> Config:
    """Mnih et al. 2015, "Human-level control through deep RL"."""
    rmsprop = {
        "optimizer.name": "rmsprop",
        "optimizer.learning_rate": 2.5e-4,
        "optimizer.rmsprop_decay": 0.95,
        "optimizer.rmsprop_eps": 0.1 / 32,
        "exploration.epsilon_final": 0.1,
    }
    return _preset("dqn", rmsprop)


def double_dqn() -> Config:
    """van Hasselt et al. 2016, "Deep RL with Double Q-learning", with its tuned settings."""
    return _preset(
        "double-dqn",
        {
            "optimizer.name": "rmsprop",
            "optimizer.learning_rate": 2.5e-4,
            "optimizer.rmsprop_decay": 0.95,
            "optimizer.rmsprop_eps": 0.1 / 32,
            "objective.double": True,
            "target_period_updates": 7_500,
            "exploration.epsilon_final": 0.01,
        },
    )


def c51() -> Config:
    """Bellemare et al. 2017, "A Distributional Perspective on RL"."""
    return _preset(
        "c51",
        _ADAM,
        {"objective.distribution": "categorical", "optimizer.max_grad_norm": 10.0},
    )


def qrdqn() -> Config:
    """Dabney et al. 2018a, "Distributional RL with Quantile Regression"."""
    return _preset(
        "qrdqn",
        _ADAM,
        {
            "optimizer.learning_rate": 5e-5,
            "optimizer.max_grad_norm": 10.0,
            "objective.distribution": "quantile",
            "objective.num_quantiles": 200,
        },
    )


def iqn() -> Config:
    """Dabney et al. 2018b, "Implicit Quantile Networks for Distributional RL"."""
    return _preset("iqn", _IQN, {"learning_starts_env_steps": 20_000})


def rainbow() -> Config:
    """Hessel et al. 2018, "Rainbow: Combining Improvements in Deep RL"."""
    return _preset(
        "rainbow",
        {
            "learning_starts_env_steps": 20_000,
            "target_period_updates": 2_000,
            "network.dueling": True,
            "network.noisy": True,
            "network.noisy_sigma": 0.5,
            "replay.n_step": 3,
            "replay.sampling": "prioritized",
            "replay.priority_exponent": 0.5,
            "replay.importance_exponent_initial": 0.4,
            "objective.double": True,
            "objective.distribution": "categorical",
            "optimizer.learning_rate": 6.25e-5,
            "optimizer.adam_eps": 1.5e-4,
            "optimizer.max_grad_norm": 10.0,
            "exploration.epsilon_initial": 0.0,
            "exploration.epsilon_final": 0.0,
        },
    )


def m_iqn() -> Config:
    """Vieillard et al. 2020, "Munchausen RL", on IQN."""
    return _preset(
        "m-iqn",
        _IQN,
        _MUNCHAUSEN,
        {
            "env.atari_protocol": "machado2018",
            "learning_starts_env_steps": 20_000,
            "target_period_updates": 2_000,
            "exploration.epsilon_decay_env_steps": 250_000,
        },
    )


def btr() -> Config:
    """Clark et al. 2024, "Beyond The Rainbow": one GPU, 64 environments, an update a step."""
    return _preset(
        "btr",
        _MUNCHAUSEN,
        {
            "env.atari_protocol": "machado2018",
            "env.num_envs": 64,
            "learning_starts_env_steps": 200_000,
            "updates_per_iteration": 1,
            "target_period_updates": 500,
            "network.torso": "impala",
            "network.impala_width": 2,
            "network.spectral_norm": True,
            "network.pool_size": 6,
            "network.dueling": True,
            "network.noisy": True,
            "replay.capacity": 2**20,
            "replay.batch_size": 256,
            "replay.n_step": 3,
            "replay.sampling": "prioritized",
            "replay.priority_exponent": 0.2,
            "objective.gamma": 0.997,
            "objective.distribution": "implicit_quantile",
            "objective.num_taus": 8,
            "objective.num_target_taus": 8,
            "objective.num_policy_taus": 8,
            "optimizer.learning_rate": 1e-4,
            "optimizer.adam_eps": 0.005 / 256,
            "optimizer.max_grad_norm": 10.0,
            "exploration.epsilon_final": 0.01,
            "exploration.epsilon_decay_env_steps": 2_000_000,
        },
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "dqn": dqn,
    "double-dqn": double_dqn,
    "c51": c51,
    "qrdqn": qrdqn,
    "iqn": iqn,
    "rainbow": rainbow,
    "m-iqn": m_iqn,
    "btr": btr,
}
