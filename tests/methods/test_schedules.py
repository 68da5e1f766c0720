import math

import pytest

from hvd_dqn.config import OptimizerConfig, ReplayConfig
from hvd_dqn.methods import schedules


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


def test_a_cosine_falls_slowly_at_both_ends():
    config = OptimizerConfig(learning_rate=1.0, schedule="cosine", final_learning_rate_fraction=0.2)
    rates = [schedules.learning_rate(config, 1, update, 100) for update in range(101)]
    assert rates[0] == pytest.approx(1.0)
    assert rates[25] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[50] == pytest.approx(0.6)
    assert rates[100] == pytest.approx(0.2)


def test_the_importance_exponent_rises_over_the_run():
    config = ReplayConfig(importance_exponent_initial=0.4, importance_exponent_final=1.0)
    values = [schedules.importance_exponent(config, share) for share in (0.0, 0.5, 1.0, 1.1)]
    assert values == pytest.approx([0.4, 0.7, 1.0, 1.0])
