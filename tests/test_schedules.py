import math

import pytest

from hvd_dqn import schedules
from hvd_dqn.config import ExplorationConfig, OptimizerConfig


def test_epsilon_falls_linearly_and_stays():
    config = ExplorationConfig(epsilon_initial=1.0, epsilon_final=0.1, epsilon_decay_env_steps=1000)
    assert schedules.epsilon(config, 0) == 1.0
    assert schedules.epsilon(config, 500) == pytest.approx(0.55)
    assert schedules.epsilon(config, 1000) == pytest.approx(0.1)
    assert schedules.epsilon(config, 10**9) == pytest.approx(0.1)


def test_epsilon_without_decay_is_final_from_the_start():
    config = ExplorationConfig(epsilon_final=0.0, epsilon_decay_env_steps=0)
    assert schedules.epsilon(config, 0) == 0.0


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_world_size_scaling_is_what_it_says(scaling, factor):
    config = OptimizerConfig(learning_rate=0.01, world_size_scaling=scaling)
    assert schedules.learning_rate(config, 4, 0, 100) == pytest.approx(0.01 * factor)


def test_warm_up_and_fall():
    config = OptimizerConfig(learning_rate=1.0, warmup_updates=10, final_learning_rate_fraction=0.5)
    rates = [schedules.learning_rate(config, 1, update, 100) for update in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1 - 0.5 * 0.09)
    assert rates[50] == pytest.approx(0.75)
    assert rates[100] == pytest.approx(0.5)
    assert all(math.isfinite(rate) and rate > 0 for rate in rates)
