"""Regression of action values on returns that need no bootstrap (Gallici et al. 2025, PQN)."""

from __future__ import annotations

from hvd_dqn.common.structs import Batch
from hvd_dqn.config import ObjectiveConfig
from hvd_dqn.methods.expected import LOSSES, taken_values
from hvd_dqn.methods.method import LossTerms
from hvd_dqn.networks import QNetwork


class ReturnsObjective:
    """The loss between the values of the actions taken and `Batch.reward`. The target network is
    not used.
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        self._loss = LOSSES[config.loss]

    def __call__(self, online: QNetwork, target: QNetwork, batch: Batch) -> LossTerms:
        """See `Objective`."""
        chosen = taken_values(online, online(batch.obs), batch.action)
        value = chosen.detach()
        error = (batch.reward - value).abs()
        return LossTerms(self._loss(chosen, batch.reward), error, value, priority=error)
