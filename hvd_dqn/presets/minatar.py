"""MinAtar: the agents of `atari` on 10 × 10 games, with the network of Young & Tian 2019.

Training follows Dopamine's MinAtar settings: Adam with learning rate 2.5e-4, batch size 32, an
update every four env steps, a target network update every 1,000 env steps, a replay of 100,000
transitions. The ids end in `-v0`, as in the published tables: all six actions in every game. Those
that end in `-v1` have only the actions that affect the game (three in Breakout), which is easier;
scores of the two cannot be compared. Differences, with reasons:

- One hidden layer of 128 after the convolution, as in Young & Tian; Dopamine has none.
- The categorical support is [0, 30]: no reward is negative, and few are greater than 1.
- Implicit quantiles are 8, 8 and 8, as in BTR, instead of 64, 64 and 32: an update costs 1/8.
- ε is annealed over a tenth of the budget of two million env steps (Dopamine: 250,000 of 10
  million).
- Dopamine has settings for DQN, quantile regression and Rainbow only; the other agents use the same
  ones.
- The loss of `minatar-dqn` is Huber's (Dopamine: the square of the error, without ½), as in
  Young & Tian and in `dqn`.
- `minatar-qrdqn` has one-step returns and uniform replay, as QR-DQN was published (Dopamine: n = 3
  and prioritised replay); its gradient is clipped to a norm of 10, as in `qrdqn`.
- Young & Tian train DQN otherwise: centred RMSProp with momentum, an update every env step, ε down
  to 0.1.
- `minatar-btr` keeps BTR's combination (Munchausen, implicit quantiles, n = 3, prioritised replay,
  noisy dueling streams) but uses this network instead of Impala with spectral norm, whose pooling
  reduces ten rows to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvd_dqn.config import Config
from hvd_dqn.presets import atari

_TRAINING: dict[str, Any] = {
    "env.id": "MinAtar/Breakout-v0",
    "env.num_envs": 8,
    "env.frame_stack": 1,
    "env.reward_clip": None,
    "env.atari_protocol": None,
    "total_env_steps": 2_000_000,
    "learning_starts_env_steps": 1_000,
    "updates_per_iteration": 2,
    "target_period_updates": 250,
    "network.hidden_sizes": (128,),
    "replay.capacity": 100_000,
    "replay.batch_size": 32,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 2.5e-4,
    "optimizer.adam_eps": 0.01 / 32,
    "evaluation.period_env_steps": 100_000,
    "evaluation.episodes": 20,
    "evaluation.final_episodes": 100,
    "logging.period_env_steps": 10_000,
}
_EPSILON = {
    "exploration.epsilon_final": 0.01,
    "exploration.epsilon_decay_env_steps": 200_000,
}
_EIGHT_TAUS = {
    "objective.num_taus": 8,
    "objective.num_target_taus": 8,
    "objective.num_policy_taus": 8,
}
_OWN: dict[str, dict[str, Any]] = {
    "dqn": _EPSILON,
    "double-dqn": _EPSILON,
    "c51": {**_EPSILON, "objective.v_min": 0.0, "objective.v_max": 30.0},
    "qrdqn": _EPSILON,
    "iqn": {**_EPSILON, **_EIGHT_TAUS},
    "rainbow": {"objective.v_min": 0.0, "objective.v_max": 30.0},
    "m-iqn": {**_EPSILON, **_EIGHT_TAUS},
    "btr": {
        **_EPSILON,
        "network.torso": "minatar",
        "network.spectral_norm": False,
        "network.impala_width": 1,
        "network.pool_size": None,
        "objective.gamma": 0.99,
    },
}


def _preset(agent: str) -> Callable[[], Config]:
    def make() -> Config:
        config = atari.PRESETS[agent]()
        return config.changed({**_TRAINING, **_OWN[agent], "preset": f"minatar-{agent}"})

    make.__doc__ = f"The agent `{agent}` on MinAtar."
    return make


PRESETS: dict[str, Callable[[], Config]] = {
    f"minatar-{agent}": _preset(agent) for agent in atari.PRESETS
}
