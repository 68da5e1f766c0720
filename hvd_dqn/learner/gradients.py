"""The distributed update with averaged gradients: the same step on every rank."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hvd_dqn.common.state import SplitState, State
from hvd_dqn.common.structs import Batch
from hvd_dqn.learner.base import Learner
from hvd_dqn.learner.flat_buffer import Agreement, SumBuffer
from hvd_dqn.learner.recorded import Decision

COMPARED_EVERY_UPDATES = 8
"""Updates from one comparison of the ranks' parameters to the next: reading them all for it takes
two hundredths of a small network's update."""


class GradientAveragingLearner(Learner):
    """Every update's gradients are averaged over ranks: N ranks on batches of B do what one rank
    does on N·B.

    Ranks whose batches come from prioritised replays are weighted so that their sum is, in
    expectation, the gradient of one prioritised replay that holds all their transitions: each by
    its share of the sum of priorities, all divided by the largest weight of all their batches.
    """

    def __init__(self, *, prioritized: bool = False, **common: Any) -> None:
        super().__init__(**common)
        self._prioritized = prioritized
        self._buffer = self._sums = self._new_buffer()
        self._use_gradients(self._buffer.payload)

    def _new_buffer(self) -> SumBuffer:
        return SumBuffer(
            self.online_parameters.values,
            len(self.online_parameters.values),
            rank=self._comm.rank,
            world_size=self._comm.world_size,
            shares=self._prioritized,
        )

    def state_dict(self) -> SplitState:
        """See `Learner`."""
        self.settle()
        return SplitState(shared=self._steps_state(), own=self._own_state())

    def load_state_dict(self, state: SplitState, *, mine: bool = True) -> None:
        """See `Learner`."""
        self._load_steps_state(state.shared)
        self._load_own_state(state.own, mine=mine)

    def start(self, batch: Batch) -> Tensor:
        """Gradients of this rank's batch, on their way to the others."""
        priority = self._differentiate(batch)
        self._send(self._buffer)
        return priority

    def finish(self) -> None:
        """Wait for the sum and take the step that every rank takes; parameters are as before the
        update where it raises.
        """
        self._wait()
        self._take_step()
        self._update_target()

    def _differentiate(self, batch: Batch) -> Tensor:
        """Put the gradients of this rank's batch into the buffer, and what the others must know
        behind them; the priorities [B] that its samples earn.
        """
        scale = batch.share.mass / batch.share.weight_floor
        if scale != 1.0:
            batch = batch._replace(weight=scale * batch.weight)
        priority, numbers = self._run_passes(batch)
        compared = self.updates % COMPARED_EVERY_UPDATES == 0
        digest = self._digest() if compared else self._no_digest
        self._buffer.write_control(numbers, digest, batch.share, stop=self._wants_stop())
        return priority

    def _take_step(self) -> None:
        if self._recorded_step is not None:
            self._launch(self._recorded_step)
            return
        agreement, norm = self._agreement(self._sums.numbers())
        if _divisor(agreement) != 1.0:
            self._sums.payload.div_(_divisor(agreement))
        self._step(self._sums.payload, norm)
        self._record(agreement)
        self._heal(agreement)

    def _agreement(self, numbers: list[float]) -> tuple[Agreement, float]:
        """What the ranks say in a sum, and the norm of the averaged gradients: all are finite."""
        agreement = self._sums.agreement(numbers)
        norm = agreement.norm / _divisor(agreement)
        self._require_finite(agreement, norm)
        return agreement, norm

    def _decide(self) -> Decision:
        """See `Learner`."""
        numbers, divisor, nonfinite = self._sums.unread_numbers()
        norm = numbers[0] / divisor
        return Decision(numbers, divisor, norm, norm.isfinite() & (nonfinite == 0))

    def _conclude(self, numbers: list[float]) -> None:
        """See `Learner`."""
        self.updates -= 1  # that update is the one to tell of
        agreement, norm = self._agreement(numbers)
        self._count()
        self.statistics.grad_norm += norm
        self._record(agreement)
        self._heal(agreement)

    def _heal(self, agreement: Agreement) -> None:
        if not agreement.parameters_equal:
            self._resynchronise()


def _divisor(agreement: Agreement) -> float:
    """From the sum of gradients to their mean."""
    return agreement.mass / agreement.weight_floor


class DelayedGradientsLearner(GradientAveragingLearner):
    """The same sums, each applied one update late (Li et al. 2018, "Pipe-SGD"): it is on its way
    while the next batch is sampled and differentiated. Deterministic, and the same on every rank;
    but the parameters that a gradient belongs to are those of the update before.
    """

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._sums = self._new_buffer()
        self._use_gradients(self._buffer.payload, averaged=self._sums.payload)
        self._is_on_its_way = False

    def state_dict(self) -> SplitState:
        """See `Learner`; with the sum that is still to be applied, but for a wish to stop, which
        the run that goes on does not have.
        """
        self._land()
        self.settle()
        shared: State = self._steps_state() | {"sums": self._sums.without_stops()}
        return SplitState(shared, own=self._own_state())

    def load_state_dict(self, state: SplitState, *, mine: bool = True) -> None:
        """See `Learner`."""
        super().load_state_dict(state, mine=mine)
        self._sums.tensor.copy_(state.shared["sums"])

    def start(self, batch: Batch) -> Tensor:
        """Gradients of this rank's batch, while the sum of those before is on its way."""
        return self._differentiate(batch)

    def finish(self) -> None:
        """Take the step of the update before, where there was one, and send this one's."""
        if self.updates > 0:
            self._land()
            self._take_step()
        else:
            self._count()
        self._update_target()
        self._sums.tensor.copy_(self._buffer.tensor)
        self._send(self._sums, overlap=True)
        self._is_on_its_way = True

    def _land(self) -> None:
        if self._is_on_its_way:
            self._wait()
            self._is_on_its_way = False
