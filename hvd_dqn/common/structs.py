"""The values that pass between rooms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch


class ReplayShare(NamedTuple):
    """A rank's part in one prioritised replay over all ranks; equal parts when drawn uniformly.

    mass: the sum of its priorities (to the power α); weight_floor: its batch's smallest one to the
    power β, by which it has multiplied its weights.
    """

    mass: float = 1.0
    weight_floor: float = 1.0


class Batch(NamedTuple):
    """B transitions, each of m ≤ n steps, on the learner's device.

    obs, next_obs [B, *shape]; action [B] int64; reward [B] = Σ γᵏ·r over the m steps; discount [B]
    = γᵐ·(1 − terminated); weight [B], each sample's share in the loss; slot [B] int64 on the host,
    its place in the replay; share, the rank's part in the replay of all ranks. Where discount is 0,
    next_obs is whatever came later.
    """

    obs: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    discount: torch.Tensor
    next_obs: torch.Tensor
    weight: torch.Tensor
    slot: np.ndarray
    share: ReplayShare

    def part(self, rows: slice) -> Batch:
        """Some of the transitions, in the same memory."""
        return Batch(
            obs=self.obs[rows],
            action=self.action[rows],
            reward=self.reward[rows],
            discount=self.discount[rows],
            next_obs=self.next_obs[rows],
            weight=self.weight[rows],
            slot=self.slot[rows],
            share=self.share,
        )


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
