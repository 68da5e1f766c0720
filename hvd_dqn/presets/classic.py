"""Classic control and Box2D.

The starting point was rl-baselines3-zoo's DQN settings, and the benchmarks compare with the zoo at
its number of env steps, on one rank and on two (README). Measured reasons for the differences:

- n-step returns learn faster.
- The learning rate falls to 1/20, so that the last network is good.
- The learning rate is scaled by √N, because N ranks take 1/N of the updates on N times the batch.
  On Acrobot with two ranks, a rate scaled by N was better on one seed (−71 instead of −82) and
  much worse on another (−83 instead of −68).
- Without εz-greedy exploration, MountainCar never reached the goal on two seeds of two.
- LayerNorm. CartPole on two ranks: one seed in ten missed 475 without it. LunarLander: one seed in
  five scored 65 at two ranks' batch sizes without it and εz-greedy. Acrobot with a soft target: it
  gains ten steps (−75 to −65 on a seed at one rank).
"""

from __future__ import annotations

from collections.abc import Callable

from hvd_dqn.config import (
    Config,
    EnvConfig,
    EvaluationConfig,
    ExplorationConfig,
    NetworkConfig,
    OptimizerConfig,
    ReplayConfig,
)


def cartpole() -> Config:
    """CartPole-v1: balance a pole; solved at a mean return of 475 (maximum 500)."""
    return Config(
        preset="cartpole",
        total_env_steps=50_000,
        learning_starts_env_steps=1_000,
        vector_steps_per_iteration=2,
        updates_per_iteration=8,
        target_period_updates=100,
        env=EnvConfig(id="CartPole-v1", num_envs=8),
        network=NetworkConfig(scale_observations=True, layer_norm=True),
        replay=ReplayConfig(capacity=50_000, batch_size=64, n_step=5),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, final_learning_rate_fraction=0.05, world_size_scaling="sqrt"
        ),
        exploration=ExplorationConfig(epsilon_final=0.1, epsilon_decay_env_steps=8_000),
        evaluation=EvaluationConfig(period_env_steps=5_000),
    )


def acrobot() -> Config:
    """Acrobot-v1: swing up a two-link arm; the return is minus the number of steps."""
    return Config(
        preset="acrobot",
        total_env_steps=100_000,
        learning_starts_env_steps=1_000,
        vector_steps_per_iteration=1,
        updates_per_iteration=8,
        target_period_updates=1,
        target_step=0.005,
        env=EnvConfig(id="Acrobot-v1", num_envs=8),
        network=NetworkConfig(layer_norm=True),
        replay=ReplayConfig(capacity=50_000, batch_size=128),
        optimizer=OptimizerConfig(
            learning_rate=6.3e-4, final_learning_rate_fraction=0.05, world_size_scaling="sqrt"
        ),
        exploration=ExplorationConfig(
            epsilon_final=0.05, epsilon_decay_env_steps=12_000, zeta_exponent=2.0
        ),
        evaluation=EvaluationConfig(period_env_steps=5_000, episodes=100),
    )


def mountaincar() -> Config:
    """MountainCar-v0: drive a car up a hill; the return is minus the number of steps.

    Independent random actions never reach the goal; random actions of random duration do.
    """
    return Config(
        preset="mountaincar",
        total_env_steps=120_000,
        learning_starts_env_steps=1_000,
        vector_steps_per_iteration=2,
        updates_per_iteration=8,
        target_period_updates=100,
        env=EnvConfig(id="MountainCar-v0", num_envs=8),
        network=NetworkConfig(scale_observations=True),
        replay=ReplayConfig(capacity=50_000, batch_size=128, n_step=5),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, final_learning_rate_fraction=0.05, world_size_scaling="sqrt"
        ),
        exploration=ExplorationConfig(
            epsilon_final=0.07, epsilon_decay_env_steps=24_000, zeta_exponent=2.0
        ),
        evaluation=EvaluationConfig(period_env_steps=10_000, episodes=100),
    )


def lunarlander() -> Config:
    """LunarLander-v3 (Box2D): land between the flags; solved at a return of 200."""
    return Config(
        preset="lunarlander",
        total_env_steps=100_000,
        learning_starts_env_steps=1_000,
        vector_steps_per_iteration=2,
        updates_per_iteration=8,
        target_period_updates=250,
        env=EnvConfig(id="LunarLander-v3", num_envs=8),
        network=NetworkConfig(layer_norm=True),
        replay=ReplayConfig(capacity=100_000, batch_size=128, n_step=3),
        optimizer=OptimizerConfig(
            learning_rate=8.5e-4, final_learning_rate_fraction=0.05, world_size_scaling="sqrt"
        ),
        exploration=ExplorationConfig(
            epsilon_final=0.1, epsilon_decay_env_steps=12_000, zeta_exponent=2.0
        ),
        evaluation=EvaluationConfig(period_env_steps=10_000, episodes=50),
    )


PRESETS: dict[str, Callable[[], Config]] = {
    preset.__name__: preset for preset in (cartpole, acrobot, mountaincar, lunarlander)
}
