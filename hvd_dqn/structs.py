"""The values that pass between rooms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch


class Batch(NamedTuple):
    """B transitions, each of m ≤ n steps, on the learner's device.

    obs, next_obs [B, *shape]; action [B] int64; reward [B] = Σ γᵏ·r over the m steps; discount [B]
    = γᵐ·(1 − terminated); weight [B], each sample's share in the loss; slot [B] int64, its place
    in the replay.
    """

    obs: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    discount: torch.Tensor
    next_obs: torch.Tensor
    weight: torch.Tensor
    slot: torch.Tensor


class Episode(NamedTuple):
    """A finished episode of one environment: its undiscounted, unclipped return and its number of
    steps.
    """

    episode_return: float
    length: int


@dataclass
class Progress:
    """Counters that are equal on every rank; every collective is gated by these alone."""

    env_steps: int = 0
    updates: int = 0
