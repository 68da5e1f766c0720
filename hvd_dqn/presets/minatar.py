"""MinAtar: the agents of `atari` on 10 by 10 games, with the network of Young & Tian 2019.

Training follows Dopamine's MinAtar settings: Adam 2.5e-4, batch 32, an update every four env steps,
a target copy every 1,000 env steps, a replay of 100,000. What differs, and why:

- One hidden layer of 128 behind the convolution, as Young & Tian have it; Dopamine has none.
- The categorical support is [0, 30]: no reward is negative, and few are above 1.
- Implicit quantiles are 8 by 8 by 8, as in BTR, in the place of 64 by 64 by 32: an update costs an
  eighth.
- ε falls over a tenth of the budget (Dopamine: 250,000 of 10 million env steps), and the budget is
  two million env steps.
- `minatar-btr` keeps BTR's combination (Munchausen, implicit quantiles, n = 3, priorities, noisy
  dueling streams) with this network in the place of Impala and its spectral norm, whose pooling
  leaves nothing of ten rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvd_dqn.config import Config
from hvd_dqn.presets import atari

_TRAINING: dict[str, Any] = {
    "env.id": "MinAtar/Breakout-v1",
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
_GREEDY_LATE = {
    "exploration.epsilon_final": 0.01,
    "exploration.epsilon_decay_env_steps": 200_000,
}
_EIGHT_TAUS = {
    "objective.num_taus": 8,
    "objective.num_target_taus": 8,
    "objective.num_policy_taus": 8,
}
_OWN: dict[str, dict[str, Any]] = {
    "dqn": _GREEDY_LATE,
    "double-dqn": _GREEDY_LATE,
    "c51": {**_GREEDY_LATE, "objective.v_min": 0.0, "objective.v_max": 30.0},
    "qrdqn": _GREEDY_LATE,
    "iqn": {**_GREEDY_LATE, **_EIGHT_TAUS},
    "rainbow": {"objective.v_min": 0.0, "objective.v_max": 30.0},
    "m-iqn": {**_GREEDY_LATE, **_EIGHT_TAUS},
    "btr": {
        **_GREEDY_LATE,
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

    make.__doc__ = f"The agent of `{agent}` on MinAtar's small games."
    return make


PRESETS: dict[str, Callable[[], Config]] = {
    f"minatar-{agent}": _preset(agent) for agent in atari.PRESETS
}
