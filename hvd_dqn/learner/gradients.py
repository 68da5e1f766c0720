"""The distributed update with averaged gradients: the same step on every rank."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from hvd_dqn.distributed.flat import SumBuffer
from hvd_dqn.learner.base import Learner
from hvd_dqn.state_files import HalvedState
from hvd_dqn.structs import Batch


class GradientAveragingLearner(Learner):
    """Every update's gradients are averaged over ranks: N ranks on batches of B do what one rank
    does on N·B.

    Ranks whose batches come from prioritised replays are weighted so that their sum is, in
    expectation, the gradient of one prioritised replay that holds all their transitions: each by
    its share of the sum of priorities, all divided by the largest weight of all their batches.
    """

    def __init__(self, *, prioritized: bool = False, **common: Any) -> None:
        super().__init__(**common)
        self._buffer = SumBuffer(
            self.online_parameters.values,
            len(self.online_parameters.values),
            rank=self._comm.rank,
            world_size=self._comm.world_size,
            shares=prioritized,
        )
        self._use_gradients(self._buffer.payload)

    def state_dict(self) -> HalvedState:
        """See `Learner`."""
        return HalvedState(shared=self._steps_state(), own=self._own_state())

    def load_state_dict(self, state: HalvedState, *, mine: bool = True) -> None:
        """See `Learner`."""
        self._load_steps_state(state.shared)
        self._load_own_state(state.own, mine=mine)

    def start(self, batch: Batch) -> Tensor:
        """Gradients of this rank's batch, on their way to the others."""
        gradients = self._buffer.payload
        gradients.zero_()
        terms, means = self._backward(batch, scale=batch.share.mass / batch.share.weight_floor)
        nonfinite = (~torch.isfinite(means[0] + gradients.sum())).float()
        self._buffer.write_control(
            means, nonfinite, self._digest(), batch.share, stop=self._wants_stop()
        )
        self._comm.start_sum(self._buffer.tensor, self._buffer.name)
        return terms.priority

    def finish(self) -> None:
        """Wait for the sum and take the step that every rank takes; parameters are as before the
        update where it raises.
        """
        waiting = time.perf_counter()
        self._comm.finish_sum()
        agreement = self._buffer.read_control()
        self.statistics.waited_seconds += time.perf_counter() - waiting
        gradients = self._buffer.payload
        divisor = agreement.mass / agreement.weight_floor
        if divisor != 1.0:
            gradients.div_(divisor)
        norm = float(torch.linalg.vector_norm(gradients))
        self._require_finite(agreement, norm)
        self._step(gradients, norm)
        self._record(agreement)
        if not agreement.parameters_equal:
            self._resynchronise()
        self._update_target()
