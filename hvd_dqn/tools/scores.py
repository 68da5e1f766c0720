"""Statistics of the returns of episodes, or of the scores of seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hvd_dqn.common.numbers import decimals

_RESAMPLES = 5_000
_MOST_AT_ONCE = 2_000_000
"""Numbers drawn at once for the bootstrap, which bounds its memory."""


class Score(NamedTuple):
    """Mean, standard deviation (of the population), median; the interquartile mean and its 95 %
    interval by percentile bootstrap (Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge
    of the Statistical Precipice").
    """

    mean: float
    std: float
    median: float
    iqm: float
    iqm_low: float
    iqm_high: float

    def __str__(self) -> str:
        places = decimals(self)
        mean, std, median, iqm, low, high = (f"{value:.{places}f}" for value in self)
        return (
            f"{mean} ± {std} · median {median} · interquartile mean {iqm} (95 % interval: {low} … "
            f"{high})"
        )


def score(values: Sequence[float]) -> Score:
    """Return the statistics of `values` (at least one); the same values give the same interval."""
    sample = np.asarray(values, dtype=np.float64)
    rng, rows = np.random.default_rng(0), max(1, _MOST_AT_ONCE // len(sample))
    means = [
        interquartile_mean(rng.choice(sample, size=(min(rows, _RESAMPLES - done), len(sample))))
        for done in range(0, _RESAMPLES, rows)
    ]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return Score(
        float(sample.mean()),
        float(sample.std()),
        float(np.median(sample)),
        float(interquartile_mean(sample)),
        float(low),
        float(high),
    )


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean [...] of `values` [..., K] without the lowest and highest ⌊K/4⌋ of them."""
    cut = values.shape[-1] // 4
    middle: np.ndarray = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut]
    means: np.ndarray = middle.mean(axis=-1)
    return means
