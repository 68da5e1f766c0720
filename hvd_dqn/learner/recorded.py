"""Records an update's GPU kernels as CUDA graphs, which are launched as a whole.

A GPU finishes the kernels of a small network faster than Python can launch them one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, cuda

from hvd_dqn.common.structs import Batch
from hvd_dqn.learner.passes import Passes, batch_of, copy_batch, memory_for

_Results = TypeVar("_Results")


class Recorder(Protocol):
    """Turns a function into one that repeats its work, such as `record_on_gpu`."""

    def __call__(self, work: Callable[[], _Results]) -> Callable[[], _Results]:
        """Return the repeating function. The tensors of `work` stay in place, its results too."""
        ...


def record_on_gpu(work: Callable[[], _Results]) -> Callable[[], _Results]:
    """Record the kernels of `work` as a CUDA graph. Each replay reads and writes the same memory,
    results included. What `work` does on the host happens only now.
    """
    stream = cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(cuda.current_stream())
    with cuda.stream(stream):
        for _ in range(3):  # libraries choose kernels and allocate memory in the first calls
            work()
    cuda.current_stream().wait_stream(stream)
    graph = cuda.CUDAGraph()
    # Another thread of the process, such as Horovod's, may use CUDA meanwhile.
    with cuda.graph(graph, capture_error_mode="thread_local"):
        results = work()

    def replay() -> _Results:
        graph.replay()
        return results

    return replay


class RecordedPasses:
    """Records other passes; batches are copied to fixed memory before each replay."""

    def __init__(self, passes: Passes, record: Recorder) -> None:
        self._passes = passes
        self._record = record
        self._replay: Callable[[], tuple[Tensor, Tensor]] | None = None
        self._inputs: list[Tensor] = []

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Passes`."""
        if self._replay is None:
            self._inputs = memory_for(batch)
            copy_batch(batch, self._inputs)
            own = batch_of(self._inputs)
            self._replay = self._record(lambda: self._passes(own))
        copy_batch(batch, self._inputs)
        return self._replay()

    def warm_up(self, batch: Batch) -> None:
        """Compile and record."""
        self._passes.warm_up(batch)
        self(batch)


class Decision(NamedTuple):
    """What a step depends on, on the device: numbers [K] for the host to read later; the divisor []
    of the gradients and their norm [] after division; whether everything is finite [].
    """

    numbers: Tensor
    divisor: Tensor
    norm: Tensor
    is_finite: Tensor


class RecordedStep:
    """The recorded step, from the summed gradients on: norm, clipping, optimizer, parameters.

    If a number is not finite, the device leaves the parameters as they are; the host reads the
    results later and need not wait for the step.

    The optimizer steps with a learning rate of 1, and the parameters move the rate's fraction of
    that step, since some torch optimizers make the rate a constant of the graph. The steps of all
    supported optimizers are linear in it.
    """

    def __init__(
        self,
        decide: Callable[[], Decision],
        step: Callable[[], None],
        *,
        parameters: Tensor,
        gradients: Tensor,
        state: list[Tensor],
        max_grad_norm: float | None,
        record: Recorder,
    ) -> None:
        """`step` changes `parameters` [P] and `state` by `gradients` [P], with a learning rate of
        1. `decide` may change `state` too.
        """
        self._decide = decide
        self._step = step
        self._parameters = parameters
        self._gradients = gradients
        self._state = state
        self._max_grad_norm = max_grad_norm
        self._record = record
        self._rate = parameters.new_zeros(())
        self._before = torch.empty_like(parameters)
        self._replay: Callable[[], None] | None = None
        self._numbers = torch.empty(0)
        self._is_unread = False
        on_gpu = parameters.is_cuda
        self._done: Any = cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]

    def warm_up(self) -> None:
        """Record the step; leaves all tensors as they are."""
        changed = [self._parameters, self._gradients, *self._state]
        before = [tensor.clone() for tensor in changed]
        numbers = self._decide().numbers
        self._numbers = torch.empty_like(numbers, device="cpu", pin_memory=numbers.is_cuda)
        self._replay = self._record(self._work)
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)

    def launch(self, rate: float) -> None:
        """Take the step with this learning rate. Call `read` for the previous step first."""
        if self._replay is None:
            self.warm_up()
        assert self._replay is not None
        assert not self._is_unread, "the numbers of the previous step would be lost"
        self._rate.fill_(rate)
        self._replay()
        if self._done is not None:
            self._done.record()
        self._is_unread = True

    def read(self) -> list[float] | None:
        """Wait for the last step and return its numbers; `None` if they were read already."""
        if not self._is_unread:
            return None
        if self._done is not None:
            self._done.synchronize()
        self._is_unread = False
        numbers: list[float] = self._numbers.tolist()
        return numbers

    @torch.no_grad()
    def _work(self) -> None:
        numbers, divisor, norm, is_finite = self._decide()
        scale = divisor.reciprocal()
        if self._max_grad_norm is not None:
            scale = scale * (self._max_grad_norm / norm).clamp(max=1.0)
        self._gradients.mul_(scale)
        self._before.copy_(self._parameters)
        self._step()
        after = torch.lerp(self._before, self._parameters, self._rate)
        self._parameters.copy_(torch.where(is_finite, after, self._before))
        self._numbers.copy_(numbers, non_blocking=True)
