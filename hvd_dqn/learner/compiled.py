"""Both passes compiled into one program by torch's Inductor.

Imported only if `optimizer.compile` is set: torch's compiler takes a second to import.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch._inductor
from torch import Tensor, nn
from torch._inductor import config as inductor
from torch.func import functional_call, grad
from torch.fx.experimental.proxy_tensor import make_fx

from hvd_dqn.common.structs import Batch
from hvd_dqn.learner.passes import (
    batch_of,
    copy_batch,
    memory_for,
    numbers_of,
    require_per_sample,
)
from hvd_dqn.methods.method import LossTerms, Objective
from hvd_dqn.networks import QNetwork


class CompiledPasses:
    """Both passes as one compiled program, whose results differ from the eager ones by rounding
    only.

    Everything that the program reads and writes stays in place: parameters, buffers, gradients, and
    memory that batches are copied to. So it is traced and compiled once; `torch.compile` would
    check for changes at every call, which costs a tenth of a small network's passes.
    """

    def __init__(self, online: QNetwork, target: QNetwork, objective: Objective) -> None:
        self._terms = _Terms(online, target, objective)
        learned = list(online.named_parameters(prefix="_online"))
        self._parameters = {name: parameter.detach() for name, parameter in learned}
        self._gradients = [p.grad.detach() for _, p in learned if p.grad is not None]
        everything = itertools.chain(self._terms.named_parameters(), self._terms.named_buffers())
        self._constants = {
            name: tensor.detach() for name, tensor in everything if name not in self._parameters
        }
        self._inputs: list[Tensor] = []
        self._program: Callable[..., tuple[Tensor, Tensor]] | None = None

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

    def _compiled(self) -> Callable[..., tuple[Tensor, Tensor]]:
        self._memory: list[Any] = [
            *self._parameters.values(),
            *self._constants.values(),
            *self._gradients,
            *self._inputs,
        ]
        operations = make_fx(self._differentiate)(*self._memory)
        with _threads():
            program: Callable[..., tuple[Tensor, Tensor]] = torch._inductor.compile(
                operations, self._memory
            )
        return program

    def _differentiate(self, *memory: Tensor) -> tuple[Tensor, Tensor]:
        """Run both passes. All tensors that they read or write are arguments; tracing takes others
        for constants.
        """
        tensors = iter(memory)
        parameters = {name: next(tensors) for name in self._parameters}
        constants = {name: next(tensors) for name in self._constants}
        gradients = [next(tensors) for _ in self._gradients]
        batch = batch_of(list(tensors))

        def loss(parameters: dict[str, Tensor]) -> tuple[Tensor, LossTerms]:
            terms: LossTerms = functional_call(self._terms, parameters | constants, (batch,))
            require_per_sample(terms, batch)
            return (batch.weight * terms.loss).mean(), terms

        results, terms = grad(loss, has_aux=True)(parameters)
        for place, result in zip(gradients, results.values(), strict=True):
            place.copy_(result)
        total = torch.stack([result.sum() for result in results.values()]).sum()
        return terms.priority, numbers_of(terms, total)


def _threads() -> AbstractContextManager[None]:
    """Limit compiling to this rank's share of the cores, instead of a process for every core of the
    host.
    """
    if "TORCHINDUCTOR_COMPILE_THREADS" in os.environ:
        return nullcontext()
    patched: AbstractContextManager[None] = inductor.patch(compile_threads=torch.get_num_threads())
    return patched


class _Terms(nn.Module):
    """The objective as a module, so that `functional_call` can replace its parameters."""

    def __init__(self, online: QNetwork, target: QNetwork, objective: Objective) -> None:
        super().__init__()
        self._online = online
        self._target = target
        self._objective = objective

    def forward(self, batch: Batch) -> LossTerms:
        return self._objective(self._online, self._target, batch)
