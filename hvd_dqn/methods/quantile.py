"""QR-DQN: the return's values at M fixed quantiles (Dabney et al. 2018a)."""

from __future__ import annotations

import torch
from torch import Tensor

from hvd_dqn.common.structs import Batch
from hvd_dqn.config import ObjectiveConfig
from hvd_dqn.methods import losses
from hvd_dqn.methods.method import LossTerms, Method, refuse_other_losses
from hvd_dqn.methods.munchausen import Munchausen
from hvd_dqn.networks import QNetwork


def quantile(config: ObjectiveConfig) -> Method:
    """Return the method `quantile`."""
    refuse_other_losses(config)
    return Method(
        num_outputs=config.num_quantiles,
        make_network=QuantileQNetwork,
        make_objective=lambda generator: QuantileObjective(config, generator.device),
        loss_name="loss/quantile_huber",
    )


class QuantileQNetwork(QNetwork):
    """`outputs` are the return's values at M evenly spaced quantiles."""

    def forward(self, obs: Tensor) -> Tensor:
        """Return action values, [B, A]: means over quantiles."""
        return self.masked(self.outputs(obs).mean(dim=2), obs)


class QuantileObjective:
    """The quantile Huber loss at fixed quantiles."""

    def __init__(self, config: ObjectiveConfig, device: torch.device) -> None:
        self._targets = QuantileTargets(config)
        self._taus = midpoints(config.num_quantiles).to(device)

    def __call__(
        self, online: QuantileQNetwork, target: QuantileQNetwork, batch: Batch
    ) -> LossTerms:
        """See `Objective`."""
        with torch.no_grad():
            next_quantiles = target.outputs(batch.next_obs)
            next_q = target.masked(next_quantiles.mean(dim=2), batch.next_obs)
            goal = self._targets(online, target, batch, next_quantiles, next_q)
        quantiles = losses.taken(online.outputs(batch.obs), batch.action)
        return quantile_terms(quantiles, self._taus, goal)


class QuantileTargets:
    """Samples of a transition's target: reward + discount · z of the best next action, or the
    mixture of all actions that Munchausen RL defines.
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        self._double = config.double
        self._munchausen = Munchausen(config) if config.munchausen else None

    def __call__(
        self,
        online: QNetwork,
        target: QNetwork,
        batch: Batch,
        next_quantiles: Tensor,
        next_q: Tensor,
    ) -> Tensor:
        """Return samples [B, M] for the target network's quantiles [B, A, M] and means [B, A]."""
        reward = batch.reward
        if self._munchausen is not None:
            reward = self._munchausen.reward(batch, target(batch.obs))
            best = self._munchausen.quantiles(next_quantiles, next_q)
        else:
            chooser = online(batch.next_obs) if self._double else next_q
            best = losses.taken(next_quantiles, chooser.argmax(dim=1))
        return reward.unsqueeze(1) + batch.discount.unsqueeze(1) * best


def quantile_terms(quantiles: Tensor, taus: Tensor, goal: Tensor) -> LossTerms:
    """Return the terms of quantiles [B, M] at `taus` [B, M] or [M], for target samples [B, M′]."""
    loss, priority = losses.quantile_huber(quantiles, taus, goal)
    value = quantiles.detach().mean(dim=1)
    return LossTerms(loss, (goal.mean(dim=1) - value).abs(), value, priority)


def midpoints(count: int) -> Tensor:
    """Return the midpoints of `count` equal parts of [0, 1]."""
    return (torch.arange(count) + 0.5) / count
