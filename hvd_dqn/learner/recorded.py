"""What a GPU computes in an update, as CUDA graphs: kernels that are recorded once and launched
together.

A GPU is through with a small network's kernels sooner than Python has launched them.
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
    """Gives what does the same as a function again, such as `record_on_gpu`."""

    def __call__(self, work: Callable[[], _Results]) -> Callable[[], _Results]:
        """The function's tensors stay where they are, its results too."""
        ...


def record_on_gpu(work: Callable[[], _Results]) -> Callable[[], _Results]:
    """`work`'s kernels as a CUDA graph, which reads and writes the same memory at each launch;
    results too. What the host does in it is done now, and once.
    """
    stream = cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(cuda.current_stream())
    with cuda.stream(stream):
        for _ in range(3):  # libraries choose their kernels and take their memory at the first
            work()
    cuda.current_stream().wait_stream(stream)
    graph = cuda.CUDAGraph()
    # Another thread of the process, such as Horovod's, may call CUDA meanwhile.
    with cuda.graph(graph, capture_error_mode="thread_local"):
        results = work()

    def replay() -> _Results:
        graph.replay()
        return results

    return replay


class RecordedPasses:
    """Other passes, recorded, a batch's copy into memory of its own before them."""

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
        """Compile, and record."""
        self._passes.warm_up(batch)
        self(batch)


class Decision(NamedTuple):
    """What a step depends on, all on the device: numbers [K] for the host to read later; divisor []
    and norm [] of the gradients, before and after they are divided; whether all is finite [].
    """

    numbers: Tensor
    divisor: Tensor
    norm: Tensor
    is_finite: Tensor


class RecordedStep:
    """The optimizer's step, recorded, from the sum of the gradients on: norm, clipping, moments,
    parameters. Where a number is not finite the parameters stay as they were, by the device's
    decision; the host reads what came of it when it likes, and need not wait for the step.

    The optimizer steps at a rate of 1, and the parameters go the rate's part of that way, since the
    rate of some of torch's is a constant in a graph. The steps of all that are offered are linear
    in it.
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
        """`step` changes `parameters` [P] and `state` by `gradients` [P], at a rate of 1; `decide`
        may change the `state`, too.
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
        """Record it, which changes nothing."""
        changed = [self._parameters, self._gradients, *self._state]
        before = [tensor.clone() for tensor in changed]
        numbers = self._decide().numbers
        self._numbers = torch.empty_like(numbers, device="cpu", pin_memory=numbers.is_cuda)
        self._replay = self._record(self._work)
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)

    def launch(self, rate: float) -> None:
        """Take the step, at this rate, once `read` has had what came of the last one."""
        if self._replay is None:
            self.warm_up()
        assert self._replay is not None
        assert not self._is_unread, "the numbers of the step before would be lost"
        self._rate.fill_(rate)
        self._replay()
        if self._done is not None:
            self._done.record()
        self._is_unread = True

    def read(self) -> list[float] | None:
        """The numbers of the last step, once, waiting for it; `None` where they have been read."""
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
