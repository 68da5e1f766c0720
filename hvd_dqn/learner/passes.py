"""Both passes through the networks: from a batch to gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
import torch._inductor
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.fx.experimental.proxy_tensor import make_fx

from hvd_dqn.networks import QNetwork
from hvd_dqn.objectives import LossTerms, Objective
from hvd_dqn.structs import Batch, ReplayShare

_Results = tuple[Tensor, Tensor]


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
        return terms.priority, _numbers(terms, self._gradients.sum())

    def warm_up(self, batch: Batch) -> None:
        """Nothing takes long."""


class CompiledPasses:
    """Both passes as one program: the same numbers but for rounding.

    All that the program reads and writes stays where it is: parameters, layers' buffers, gradients,
    and memory that batches are copied to. So its operations are listed once, and the list is
    compiled. `torch.compile` would look for changes at every call, which takes as long as a tenth
    of a small network's passes.
    """

    def __init__(self, online: QNetwork, target: QNetwork, objective: Objective) -> None:
        self._terms = _Terms(online, target, objective)
        learned = list(online.named_parameters(prefix="_online"))
        self._parameters = {name: parameter.detach() for name, parameter in learned}
        self._gradients = [p.grad for _, p in learned if p.grad is not None]
        everything = itertools.chain(self._terms.named_parameters(), self._terms.named_buffers())
        self._constants = {
            name: tensor.detach() for name, tensor in everything if name not in self._parameters
        }
        self._inputs: list[Tensor] = []
        self._program: Callable[..., _Results] | None = None

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Passes`."""
        if self._program is None:
            self._inputs = memory_for(batch)
            copy_batch(batch, self._inputs)
            self._program = self._compiled()
        copy_batch(batch, self._inputs)
        priority, numbers = self._program(*self._memory)
        return priority, numbers

    def warm_up(self, batch: Batch) -> None:
        """Compile."""
        self(batch)

    def _compiled(self) -> Callable[..., _Results]:
        self._memory: list[Any] = [
            *self._parameters.values(),
            *self._constants.values(),
            *self._gradients,
            *self._inputs,
        ]
        operations = make_fx(self._differentiate)(*self._memory)
        program: Callable[..., _Results] = torch._inductor.compile(operations, self._memory)
        return program

    def _differentiate(self, *memory: Tensor) -> tuple[Tensor, Tensor]:
        """All tensors that it reads and writes are arguments: others are taken for constants."""
        tensors = iter(memory)
        parameters = {name: next(tensors) for name in self._parameters}
        constants = {name: next(tensors) for name in self._constants}
        gradients = [next(tensors) for _ in self._gradients]
        batch = batch_of(list(tensors))

        def loss(parameters: dict[str, Tensor]) -> tuple[Tensor, LossTerms]:
            terms: LossTerms = functional_call(self._terms, parameters | constants, (batch,))
            return (batch.weight * terms.loss).mean(), terms

        results, terms = grad(loss, has_aux=True)(parameters)
        for place, result in zip(gradients, results.values(), strict=True):
            place.copy_(result)
        total = torch.stack([result.sum() for result in results.values()]).sum()
        return terms.priority, _numbers(terms, total)


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


class _Terms(nn.Module):
    """An objective as a module, whose parameters a functional call can replace."""

    def __init__(self, online: QNetwork, target: QNetwork, objective: Objective) -> None:
        super().__init__()
        self._online = online
        self._target = target
        self._objective = objective

    def forward(self, batch: Batch) -> LossTerms:
        return self._objective(self._online, self._target, batch)


def _numbers(terms: LossTerms, total: Tensor) -> Tensor:
    """See `Passes`; `total` [] is the sum of all gradients."""
    each = torch.stack((terms.loss.detach(), terms.abs_td_error, terms.value))
    means = each.mean(dim=1)
    total = means[0] + total
    nonfinite = (total - total).ne(0)  # x − x is 0, or no number
    return torch.cat((means, nonfinite.unsqueeze(0)))
