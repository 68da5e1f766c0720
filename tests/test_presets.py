"""Every preset is pinned: to change a setting is to change this table, and to measure anew."""

import pytest

from hvd_dqn.presets import PRESETS

PINNED = {
    "cartpole": ("CartPole-v1", 50_000, 2, 8, 64, 5, 1e-3, 100, 0.1, None, "sqrt", True),
    "acrobot": ("Acrobot-v1", 100_000, 1, 8, 128, 1, 6.3e-4, 250, 0.05, 2.0, "sqrt", False),
    "mountaincar": ("MountainCar-v0", 120_000, 2, 8, 128, 5, 1e-3, 100, 0.07, 2.0, "sqrt", True),
    "lunarlander": ("LunarLander-v3", 100_000, 1, 8, 128, 3, 6.3e-4, 250, 0.1, None, "sqrt", False),
}


def test_every_preset_is_pinned():
    assert set(PINNED) == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_settings(name):
    config = PRESETS[name]()
    assert config.preset == name
    assert PINNED[name] == (
        config.env.id,
        config.total_env_steps,
        config.vector_steps_per_iteration,
        config.updates_per_iteration,
        config.replay.batch_size,
        config.replay.n_step,
        config.optimizer.learning_rate,
        config.target_period_updates,
        config.exploration.epsilon_final,
        config.exploration.zeta_exponent,
        config.optimizer.world_size_scaling,
        config.network.scale_observations,
    )
    assert config.objective.double
    assert config.objective.gamma == 0.99


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("world_size", [1, 2, 64])
def test_presets_update_on_any_number_of_ranks(name, world_size):
    assert PRESETS[name]().planned_updates(world_size) > 0
