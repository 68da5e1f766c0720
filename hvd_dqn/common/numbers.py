"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

_MOST_DECIMALS = 6


def decimals(values: Sequence[float]) -> int:
    """Return the decimals that show three digits of the largest of `values`: 1 from 10 on, more for
    smaller ones.
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest == 0:
        return 1
    return min(max(2 - math.floor(math.log10(largest)), 1), _MOST_DECIMALS)


def number(value: float) -> str:
    """Return the value with at least three digits."""
    return f"{value:.{decimals([value])}f}"


def mean_and_std(mean: float, std: float) -> str:
    """Return `MEAN ± STD`, both with the same decimals."""
    places = decimals([mean, std])
    return f"{mean:.{places}f} ± {std:.{places}f}"
