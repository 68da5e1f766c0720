"""Returns are printed with digits enough."""

import pytest

from hvd_dqn.common.numbers import mean_and_std, number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.95, "0.950"),
        (-0.0712, "-0.0712"),
        (7.5, "7.50"),
        (13.26, "13.3"),
        (500.0, "500.0"),
        (-21.0, "-21.0"),
        (0.0, "0.0"),
        (1e-9, "0.000000"),
        (float("nan"), "nan"),
    ],
)
def test_three_digits_at_least(value, text):
    assert number(value) == text


def test_mean_and_deviation_have_the_same_decimals():
    assert mean_and_std(0.95, 0.02) == "0.950 ± 0.020"
    assert mean_and_std(500.0, 0.0) == "500.0 ± 0.0"
    assert mean_and_std(0.5, 120.25) == "0.5 ± 120.2"
