"""Data classes that packages exchange."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

FRACTIONS = tuple(4.0**-power for power in range(8))
"""The fractions of a batch for which `ReplayShare` has floors."""


class ReplayedEpisodes(NamedTuple):
    """How a rank's environments replayed their unfinished episodes when the run resumed.

    `cut` lists the copies that could not: they raised, ended early or reached another observation,
    and have started their next episode. `other_returns` lists copies whose rewards added up to
    another return, each with the return of the replay and the recorded one.
    """

    cut: list[int]
    other_returns: list[tuple[int, float, float]]


class ReplayShare(NamedTuple):
    """A rank's share in one prioritised replay over all ranks; with uniform sampling all shares are
    equal.

    mass: the sum of pᵅ over its transitions, for priorities p; floors: the smallest (pᵅ)^β of its
    batch and of each fraction of it in `FRACTIONS`. A fraction of less than a sample is a sample
    with that probability; otherwise its floor is infinite.
    """

    mass: float = 1.0
    floors: tuple[float, ...] = (1.0,) + (math.inf,) * (len(FRACTIONS) - 1)

    @property
    def weight_floor(self) -> float:
        """The factor of each weight (pᵅ)^−β of the batch."""
        return self.floors[0]


class Batch(NamedTuple):
    """B transitions, each of m ≤ n steps, on the learner's device.

    obs, next_obs [B, *shape]; action [B] int64; reward [B] = Σ γᵏ·r over the m steps; discount [B]
    = γᵐ·(1 − terminated); weight [B], the importance weight of each sample; slot [B] int64, on the
    host, its slot in the replay; share: the rank's share in the replay of all ranks. Where discount
    is 0, next_obs is arbitrary.
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
        """Return the transitions `rows`, as views of the same memory."""
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
    """A finished episode of one environment: its undiscounted, unclipped return, its length in
    steps, and the last values of the numbers in its infos that the run names; NaN if there were
    none.
    """

    episode_return: float
    length: int
    infos: Sequence[float] = ()


class EnvStep(NamedTuple):
    """The result of one step of N environments.

    next_obs [N, *shape] follows the action; it is the final observation of an episode that ended.
    obs [N, *shape] is what to act on next: the first observation of the next episode if one ended,
    otherwise next_obs. reward [N] float32, clipped if `env.reward_clip` is set. terminated [N]
    bool, the learner's signal, which a lost life may set while the game continues. truncated [N]
    bool. ended [N] bool: the environment was reset. episodes: those that ended, in the order of
    environments. skipped [N] bool: these ignored their action and started their episode, at
    next_obs; `None` if there are none. stepped [N] bool: the environments that finished a step, if
    not all; only their values are meaningful. action [N]: the actions of those steps, which began
    earlier.
    """

    next_obs: np.ndarray
    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    ended: np.ndarray
    episodes: list[Episode]
    skipped: np.ndarray | None = None
    stepped: np.ndarray | None = None
    action: np.ndarray | None = None


def mean_infos(episodes: Sequence[Episode], keys: Sequence[str]) -> dict[str, float]:
    """Return the mean of each number in `Episode.infos`, over the episodes that have it, by key.
    Keys that none has are left out.
    """
    complete = [episode.infos for episode in episodes if len(episode.infos) == len(keys)]
    table = np.array(complete, dtype=np.float64).reshape(len(complete), len(keys))
    present = {key: column[~np.isnan(column)] for key, column in zip(keys, table.T, strict=True)}
    return {key: float(values.mean()) for key, values in present.items() if len(values)}


@dataclass
class Progress:
    """Counters that are equal on every rank. Collectives depend on these alone."""

    env_steps: int = 0
    updates: int = 0
