"""What a method minimises: from two networks and a batch to a per-sample loss."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from hvd_dqn.common.structs import Batch
from hvd_dqn.config import ObjectiveConfig
from hvd_dqn.methods import losses
from hvd_dqn.networks import (
    CategoricalQNetwork,
    ImplicitQuantileQNetwork,
    QNetwork,
    QuantileQNetwork,
    midpoints,
)


class LossTerms(NamedTuple):
    """Per-sample loss [B] (differentiable), |TD error| [B] of the expectations, the values of the
    actions taken [B], and the priority [B] that the sample earns (all three detached).
    """

    loss: Tensor
    abs_td_error: Tensor
    value: Tensor
    priority: Tensor


class Objective(Protocol):
    """One method's loss."""

    def __call__(self, online: Any, target: Any, batch: Batch) -> LossTerms:
        """The terms of one batch; gradients flow to `online` alone."""
        ...


def make_objective(config: ObjectiveConfig, generator: Generator) -> Objective:
    """The objective of these settings; `generator`, on the networks' device, draws quantiles."""
    if config.distribution == "categorical":
        return CategoricalObjective(config)
    if config.distribution == "quantile":
        return QuantileObjective(config, generator.device)
    if config.distribution == "implicit_quantile":
        return ImplicitQuantileObjective(config, generator)
    return ExpectedObjective(config)


class Munchausen:
    """The bonus and the soft bootstrap of Munchausen RL (Vieillard et al. 2020)."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self._coefficient = config.munchausen_coefficient
        self._temperature = config.munchausen_temperature
        self._clip = config.munchausen_clip

    def reward(self, batch: Batch, q_target: Tensor) -> Tensor:
        """Rewards [B] with the bonus, for the target network's values [B, A] of `batch.obs`."""
        bonus = losses.munchausen_bonus(
            q_target,
            batch.action,
            coefficient=self._coefficient,
            temperature=self._temperature,
            clip=self._clip,
        )
        return batch.reward + bonus

    def value(self, next_q_target: Tensor) -> Tensor:
        """Soft values [B] of [B, A]."""
        return losses.soft_value(next_q_target, self._temperature)

    def quantiles(self, next_quantiles: Tensor, next_q_target: Tensor) -> Tensor:
        """Σ π·(z − τ·log π), [B, M], for quantiles z [B, A, M] and their expectations [B, A]."""
        log_policy = losses.log_policy(next_q_target, self._temperature)
        entropy_bonus = -self._temperature * log_policy
        mixed = log_policy.exp().unsqueeze(2) * (next_quantiles + entropy_bonus.unsqueeze(2))
        return mixed.sum(dim=1)


class ExpectedObjective:
    """DQN's expected value: one number per action (Mnih et al. 2015)."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self._double = config.double
        self._munchausen = Munchausen(config) if config.munchausen else None
        self._loss = {"huber": losses.huber, "squared": losses.squared}[config.loss]

    def __call__(self, online: QNetwork, target: QNetwork, batch: Batch) -> LossTerms:
        """See `Objective`."""
        with torch.no_grad():
            reward, next_value = self._goal(online, target, batch)
            goal = losses.td_target(reward, batch.discount, next_value)
        chosen = losses.taken(online(batch.obs), batch.action)
        value = chosen.detach()
        error = (goal - value).abs()
        return LossTerms(self._loss(chosen, goal), error, value, priority=error)

    def _goal(self, online: QNetwork, target: QNetwork, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rewards [B] and next values [B]."""
        next_q = target(batch.next_obs)
        if self._munchausen is not None:
            reward = self._munchausen.reward(batch, target(batch.obs))
            return reward, self._munchausen.value(next_q)
        if self._double:
            return batch.reward, losses.double_value(next_q, online(batch.next_obs))
        return batch.reward, losses.max_value(next_q)


class CategoricalObjective:
    """C51: the return's probabilities over fixed values (Bellemare et al. 2017).

    The priority is the Kullback-Leibler loss, as in Rainbow (Hessel et al. 2018).
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        self._double = config.double

    def __call__(
        self, online: CategoricalQNetwork, target: CategoricalQNetwork, batch: Batch
    ) -> LossTerms:
        """See `Objective`."""
        support = target.support
        with torch.no_grad():
            next_logits = target.outputs(batch.next_obs)
            chooser = online(batch.next_obs) if self._double else target.values(next_logits)
            best = losses.taken(next_logits, chooser.argmax(dim=1)).softmax(dim=1)
            goal = losses.categorical_projection(best, support, batch.reward, batch.discount)
        logits = losses.taken(online.outputs(batch.obs), batch.action)
        loss = losses.cross_entropy(logits, goal)
        value = logits.detach().softmax(dim=1) @ support
        divergence = (loss.detach() - losses.entropy(goal)).clamp(min=0)
        return LossTerms(loss, (goal @ support - value).abs(), value, priority=divergence)


class QuantileGoals:
    """What the quantiles of a transition are drawn to: reward + discount · z of the best next
    action, or of all of them as Munchausen weighs them.
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
        """[B, M] for the target network's quantiles [B, A, M] and expectations [B, A]."""
        reward = batch.reward
        if self._munchausen is not None:
            reward = self._munchausen.reward(batch, target(batch.obs))
            best = self._munchausen.quantiles(next_quantiles, next_q)
        else:
            chooser = online(batch.next_obs) if self._double else next_q
            best = losses.taken(next_quantiles, chooser.argmax(dim=1))
        return reward.unsqueeze(1) + batch.discount.unsqueeze(1) * best


class QuantileObjective:
    """QR-DQN: the return's values at fixed quantiles (Dabney et al. 2018a)."""

    def __init__(self, config: ObjectiveConfig, device: torch.device) -> None:
        self._goals = QuantileGoals(config)
        self._taus = midpoints(config.num_quantiles).to(device)

    def __call__(
        self, online: QuantileQNetwork, target: QuantileQNetwork, batch: Batch
    ) -> LossTerms:
        """See `Objective`."""
        with torch.no_grad():
            next_quantiles = target.outputs(batch.next_obs)
            next_q = next_quantiles.mean(dim=2)
            goal = self._goals(online, target, batch, next_quantiles, next_q)
        quantiles = losses.taken(online.outputs(batch.obs), batch.action)
        return _quantile_terms(quantiles, self._taus, goal)


class ImplicitQuantileObjective:
    """IQN: the return's values at quantiles drawn anew for every update (Dabney et al. 2018b)."""

    def __init__(self, config: ObjectiveConfig, generator: Generator) -> None:
        self._goals = QuantileGoals(config)
        self._num_taus = config.num_taus
        self._num_target_taus = config.num_target_taus
        self._generator = generator

    def __call__(
        self, online: ImplicitQuantileQNetwork, target: ImplicitQuantileQNetwork, batch: Batch
    ) -> LossTerms:
        """See `Objective`."""
        with torch.no_grad():
            features = target.features(batch.next_obs)
            next_quantiles = target.quantiles(features, self._draw(batch, self._num_target_taus))
            next_q = target.values(features)
            goal = self._goals(online, target, batch, next_quantiles, next_q)
        taus = self._draw(batch, self._num_taus)
        values = online.quantiles(online.features(batch.obs), taus)
        return _quantile_terms(losses.taken(values, batch.action), taus, goal)

    def _draw(self, batch: Batch, count: int) -> Tensor:
        return torch.rand(
            len(batch.action), count, generator=self._generator, device=batch.reward.device
        )


def _quantile_terms(quantiles: Tensor, taus: Tensor, goal: Tensor) -> LossTerms:
    """Terms of quantiles [B, M] at `taus` [B, M] or [M], against goals [B, M′]."""
    loss, priority = losses.quantile_huber(quantiles, taus, goal)
    value = quantiles.detach().mean(dim=1)
    return LossTerms(loss, (goal.mean(dim=1) - value).abs(), value, priority)
