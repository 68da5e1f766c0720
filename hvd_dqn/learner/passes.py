"""The forward and backward pass: from a batch to gradients."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hvd_dqn.common.structs import Batch, ReplayShare
from hvd_dqn.methods.method import LossTerms, Objective
from hvd_dqn.networks import QNetwork


class Passes(Protocol):
    """Computes the part of an update that needs no other rank."""

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Write the gradients of the weighted loss to the online parameters' `.grad`.

        Returns the new priorities [B] of the samples, and four numbers [4]: the unweighted means of
        loss, |TD error| and value, and 1 if the loss or a gradient is not finite, else 0. The next
        call may overwrite both.
        """
        ...

    def warm_up(self, batch: Batch) -> None:
        """Do what is slow the first time. `batch` has the shapes of real ones."""
        ...


class EagerPasses:
    """Runs the operations one by one, with torch's autograd."""

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
        require_per_sample(terms, batch)
        torch.autograd.backward((batch.weight * terms.loss).mean())
        return terms.priority, numbers_of(terms, self._gradients.sum())

    def warm_up(self, batch: Batch) -> None:
        """Do nothing."""


def memory_for(batch: Batch) -> list[Tensor]:
    """Allocate memory for the tensors of a batch like this one, for `copy_batch`."""
    return [part.new_empty(part.shape) for part in batch[:6]]


def copy_batch(batch: Batch, memory: list[Tensor]) -> None:
    """Copy everything that the passes read to `memory`."""
    for place, part in zip(memory, batch[:6], strict=True):
        place.copy_(part, non_blocking=True)


def batch_of(memory: list[Tensor]) -> Batch:
    """Return the batch in `memory`."""
    obs, action, reward, discount, next_obs, weight = memory
    slot, share = np.empty(0), ReplayShare()  # not used by the passes
    return Batch(obs, action, reward, discount, next_obs, weight, slot, share)


def require_per_sample(terms: LossTerms, batch: Batch) -> None:
    """Raise `ValueError` if an objective's terms are not [B]: [B, 1] would be multiplied by the
    weights [B] to [B, B].
    """
    for name, term in zip(LossTerms._fields, terms, strict=True):
        if term.shape != batch.weight.shape:
            raise ValueError(
                f"objective.distribution: its loss returned {name} of shape {list(term.shape)} for "
                f"a batch of {len(batch.weight)}; it must be {list(batch.weight.shape)}, one "
                "number per sample"
            )


def numbers_of(terms: LossTerms, total: Tensor) -> Tensor:
    """Return the four numbers of `Passes`; `total` [] is the sum of all gradients."""
    each = torch.stack((terms.loss.detach(), terms.abs_td_error, terms.value))
    means = each.mean(dim=1)
    total = means[0] + total
    nonfinite = (total - total).ne(0)  # x − x is 0 or NaN
    return torch.cat((means, nonfinite.unsqueeze(0)))
