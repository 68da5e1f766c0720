"""Both passes through the networks: from a batch to gradients."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hvd_dqn.common.structs import Batch, ReplayShare
from hvd_dqn.methods.method import LossTerms, Objective
from hvd_dqn.networks import QNetwork


class Passes(Protocol):
    """What an update computes before ranks talk of it."""

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Put the gradients of the weighted loss into the online parameters' `.grad`; the
        priorities [B] that the samples earn, and four numbers [4]: the plain means of loss, |TD
        error| and value, and 1 where the loss or a gradient is not finite. The next call may
        overwrite both.
        """
        ...

    def warm_up(self, batch: Batch) -> None:
        """Do what takes long the first time; `batch` is of the shapes of those to come."""
        ...


class EagerPasses:
    """One operation after the other, as torch's autograd records them."""

    def __init__(
        self, online: QNetwork, target: QNetwork, objective: Objective, gradients: Tensor
    ) -> None:
        """`gradients` [P] holds every parameter's `.grad`."""
        self._online = online
        self._target = target
        self._objective = objective
        self._gradients = gradients

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Passes`."""
        self._gradients.zero_()
        terms = self._objective(self._online, self._target, batch)
        torch.autograd.backward((batch.weight * terms.loss).mean())
        return terms.priority, numbers_of(terms, self._gradients.sum())

    def warm_up(self, batch: Batch) -> None:
        """Nothing takes long."""


def memory_for(batch: Batch) -> list[Tensor]:
    """Room for the tensors of batches like this one, to which `copy_batch` copies them."""
    return [part.new_empty(part.shape) for part in batch[:6]]


def copy_batch(batch: Batch, memory: list[Tensor]) -> None:
    """All that the passes read of it."""
    for place, part in zip(memory, batch[:6], strict=True):
        place.copy_(part, non_blocking=True)


def batch_of(memory: list[Tensor]) -> Batch:
    """The batch that lies there."""
    obs, action, reward, discount, next_obs, weight = memory
    slot, share = np.empty(0), ReplayShare()  # of no use to the passes
    return Batch(obs, action, reward, discount, next_obs, weight, slot, share)


def numbers_of(terms: LossTerms, total: Tensor) -> Tensor:
    """The four numbers of `Passes`; `total` [] is the sum of all gradients."""
    each = torch.stack((terms.loss.detach(), terms.abs_td_error, terms.value))
    means = each.mean(dim=1)
    total = means[0] + total
    nonfinite = (total - total).ne(0)  # x − x is 0, or no number
    return torch.cat((means, nonfinite.unsqueeze(0)))
