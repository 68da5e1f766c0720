"""Random streams: every source of randomness of a run derives from one seed, and no two ranks or
uses share a stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """The use of a stream. The numbers determine the results of a run and are never reused."""

    ENV = 0
    EXPLORATION = 1
    REPLAY = 2
    NETWORK = 3
    EVALUATION = 4
    UPDATE = 5
    ACTING = 6


def generator(seed: int, rank: int, stream: Stream) -> np.random.Generator:
    """Return NumPy's generator for one rank and use."""
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(rank, stream)))
    )


def torch_generator(seed: int, rank: int, stream: Stream, device: torch.device) -> torch.Generator:
    """Return torch's generator for one rank and use, to draw on `device`."""
    return torch.Generator(device).manual_seed(derived_seed(seed, rank, stream))


def restore_generator(stream: torch.Generator, state: torch.Tensor) -> None:
    """Restore a generator's saved state. If it was saved on another kind of device, whose states
    have another form, leave the generator as it is.
    """
    if state.numel() == stream.get_state().numel():
        stream.set_state(state)


def derived_seed(seed: int, *key: int) -> int:
    """Return a 31-bit seed for code that takes an integer, derived from the run's seed and a key of
    numbers.
    """
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0] >> 1)


@contextmanager
def network_initialisation(seed: int) -> Iterator[None]:
    """Within this context, torch draws from the stream for initial weights, equal on all ranks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, Stream.NETWORK))
        yield
