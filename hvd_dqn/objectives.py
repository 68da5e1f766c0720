"""What a method minimises: from two networks and a batch to a per-sample loss."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from hvd_dqn import losses
from hvd_dqn.config import ObjectiveConfig
from hvd_dqn.networks import QNetwork
from hvd_dqn.structs import Batch


class LossTerms(NamedTuple):
    """Per-sample loss [B] (differentiable), |TD error| [B] and the values of the actions taken [B]
    (both detached).
    """

    loss: Tensor
    abs_td_error: Tensor
    value: Tensor


class Objective(Protocol):
    """One method's loss."""

    def __call__(self, online: QNetwork, target: QNetwork, batch: Batch) -> LossTerms:
        """The terms of one batch; gradients flow to `online` alone."""
        ...


class ExpectedObjective:
    """DQN's expected value: one number per action."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self._double = config.double
        self._loss = {"huber": losses.huber, "squared": losses.squared}[config.loss]

    def __call__(self, online: QNetwork, target: QNetwork, batch: Batch) -> LossTerms:
        """See `Objective`."""
        with torch.no_grad():
            next_q = target(batch.next_obs)
            next_value = (
                losses.double_value(next_q, online(batch.next_obs))
                if self._double
                else losses.max_value(next_q)
            )
        q = online(batch.obs)
        error = losses.td_error(q, batch.action, batch.reward, batch.discount, next_value)
        value = q.detach().gather(1, batch.action.unsqueeze(1)).squeeze(1)
        return LossTerms(loss=self._loss(error), abs_td_error=error.detach().abs(), value=value)
