"""Munchausen RL (Vieillard et al. 2020): an option of several methods."""

from __future__ import annotations

from torch import Tensor

from hvd_dqn.common.structs import Batch
from hvd_dqn.config import ObjectiveConfig
from hvd_dqn.methods import losses


class Munchausen:
    """The bonus and the soft bootstrap of Munchausen RL."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self._coefficient = config.munchausen_coefficient
        self._temperature = config.munchausen_temperature
        self._clip = config.munchausen_clip

    def reward(self, batch: Batch, q_target: Tensor) -> Tensor:
        """Return rewards [B] with the bonus, for the target network's values [B, A] of
        `batch.obs`.
        """
        bonus = losses.munchausen_bonus(
            q_target,
            batch.action,
            coefficient=self._coefficient,
            temperature=self._temperature,
            clip=self._clip,
        )
        return batch.reward + bonus

    def value(self, next_q_target: Tensor) -> Tensor:
        """Return soft values [B] of action values [B, A]."""
        return losses.soft_value(next_q_target, self._temperature)

    def quantiles(self, next_quantiles: Tensor, next_q_target: Tensor) -> Tensor:
        """Return Σ π·(z − τ·log π), [B, M], for quantiles z [B, A, M] and their means [B, A]."""
        log_policy = losses.log_policy(next_q_target, self._temperature)
        # An illegal action has probability 0 and log-probability −∞, of which nothing must be left.
        entropy_bonus = -self._temperature * log_policy.masked_fill(log_policy.isneginf(), 0.0)
        mixed = log_policy.exp().unsqueeze(2) * (next_quantiles + entropy_bonus.unsqueeze(2))
        return mixed.sum(dim=1)
