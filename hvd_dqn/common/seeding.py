"""Random streams: every source of chance of a run is a child of one seed, and no two ranks or uses
share one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a stream is used for; the numbers are part of a run's identity and never reused."""

    ENV = 0
    EXPLORATION = 1
    REPLAY = 2
    NETWORK = 3
    EVALUATION = 4
    UPDATE = 5
    ACTING = 6


def generator(seed: int, rank: int, stream: Stream) -> np.random.Generator:
    """The stream of one rank and one use."""
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(rank, stream)))
    )


def torch_generator(seed: int, rank: int, stream: Stream, device: torch.device) -> torch.Generator:
    """The stream of one rank and one use, for drawing on `device`."""
    return torch.Generator(device).manual_seed(derived_seed(seed, rank, stream))


def restore(stream: torch.Generator, state: torch.Tensor) -> None:
    """Let it go on from `state`, a saved one. One that was saved on another kind of device has
    another form: then the stream stays as it is.
    """
    if state.numel() == stream.get_state().numel():
        stream.set_state(state)


def derived_seed(seed: int, *key: int) -> int:
    """A 31-bit seed for code that takes an integer, from the run's seed and a path of numbers."""
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0] >> 1)


@contextmanager
def network_initialisation(seed: int) -> Iterator[None]:
    """Within it, torch draws from the stream for initial weights, alike on every rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, Stream.NETWORK))
        yield
