"""DQN: the expected return of each action (Mnih et al. 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from hvd_dqn.common.structs import Batch
from hvd_dqn.config import ObjectiveConfig
from hvd_dqn.methods import losses
from hvd_dqn.methods.method import LossTerms, Method
from hvd_dqn.methods.munchausen import Munchausen
from hvd_dqn.networks import QNetwork

LOSSES = {"huber": losses.huber, "squared": losses.squared}
"""What `objective.loss` names."""


def expected(config: ObjectiveConfig) -> Method:
    """Return the method `expected`."""
    return Method(
        make_objective=lambda generator: ExpectedObjective(config),
        loss_name=f"loss/td_{config.loss}",
    )


class ExpectedObjective:
    """The loss of DQN, with double or Munchausen bootstraps if these are set."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self._double = config.double
        self._munchausen = Munchausen(config) if config.munchausen else None
        self._loss = LOSSES[config.loss]

    def __call__(self, online: QNetwork, target: QNetwork, batch: Batch) -> LossTerms:
        """See `Objective`."""
        with torch.no_grad():
            reward, next_value = self._goal(online, target, batch)
            goal = losses.td_target(reward, batch.discount, next_value)
        chosen = taken_values(online, online(batch.obs), batch.action)
        value = chosen.detach()
        error = (goal - value).abs()
        return LossTerms(self._loss(chosen, goal), error, value, priority=error)

    def _goal(self, online: QNetwork, target: QNetwork, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return rewards [B] and the values of the next observations [B]."""
        next_q = target(batch.next_obs)
        if target.branches is not None:
            chooser = online(batch.next_obs) if self._double else next_q
            best = target.branches.best(chooser)
            return batch.reward, target.branches.value(next_q, best)
        if self._munchausen is not None:
            reward = self._munchausen.reward(batch, target(batch.obs))
            return reward, self._munchausen.value(next_q)
        if self._double:
            return batch.reward, losses.double_value(next_q, online(batch.next_obs))
        return batch.reward, losses.max_value(next_q)


def taken_values(network: QNetwork, values: Tensor, action: Tensor) -> Tensor:
    """Return the values [B] of the actions [B] taken."""
    if network.branches is None:
        return losses.taken(values, action)
    return network.branches.value(values, network.branches.choices(action))
