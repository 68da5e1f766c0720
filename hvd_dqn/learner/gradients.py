"""The distributed update with averaged gradients: every rank takes the same step."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hvd_dqn.common.state import DistributedState, State
from hvd_dqn.common.structs import Batch
from hvd_dqn.learner.base import Learner
from hvd_dqn.learner.flat_buffer import Agreement, SumBuffer
from hvd_dqn.learner.recorded import Decision
from hvd_dqn.learner.rewards import RewardScaling

COMPARED_EVERY_UPDATES = 8
"""Updates between comparisons of the ranks' parameters. Reading all of them takes 2 % of a small
network's update.
"""


class GradientAveragingLearner(Learner):
    """Averages gradients over ranks at every update: N ranks with batches of B do what one rank
    does with N·B.

    With prioritised replays, ranks are weighted so that the sum is, in expectation, the gradient of
    one prioritised replay with all their transitions: each rank by its share of the sum of
    priorities, and all weights divided by the largest of a batch from that replay (`one_replay`).
    """

    def __init__(
        self, *, prioritized: bool = False, scaling: RewardScaling | None = None, **common: Any
    ) -> None:
        """`scaling` normalises rewards."""
        super().__init__(**common)
        self._prioritized = prioritized
        self._rewards = scaling
        for network in (self.online, self.target):
            self._statistics += network.running_statistics()
        if scaling is not None:
            self._statistics += [scaling.mean_square, scaling.samples]
        self._buffer = self._sums = self._new_buffer()
        self._use_gradients(self._buffer.payload)
        self._sums_moments = len(self._buffer.moments) > 0

    def _new_buffer(self) -> SumBuffer:
        return SumBuffer(
            self.online_parameters.values,
            len(self.online_parameters.values),
            rank=self._comm.rank,
            world_size=self._comm.world_size,
            shares=self._prioritized,
            num_moments=self.online.num_moments + (self._rewards is not None),
        )

    def state_dict(self) -> DistributedState:
        """See `Learner.state_dict`."""
        self.synchronize()
        shared = self._steps_state()
        if self._rewards is not None:
            shared["rewards"] = {
                "mean_square": self._rewards.mean_square,
                "samples": self._rewards.samples,
            }
        return DistributedState(shared, per_rank=self._per_rank_state())

    def load_state_dict(self, state: DistributedState, *, mine: bool = True) -> None:
        """See `Learner.load_state_dict`."""
        self._load_steps_state(state.shared)
        self._load_per_rank_state(state.per_rank, mine=mine)
        if self._rewards is not None:
            self._rewards.mean_square.copy_(state.shared["rewards"]["mean_square"])
            self._rewards.samples.copy_(state.shared["rewards"]["samples"])

    def start(self, batch: Batch) -> Tensor:
        """Compute the gradients of this rank's batch and start their sum over ranks."""
        priority = self._differentiate(batch)
        self._send(self._buffer)
        return priority

    def finish(self) -> None:
        """Wait for the sum and take the step. If it raises, the parameters are those from before
        the update.
        """
        self._wait()
        self._take_step()
        self._update_target()

    def _differentiate(self, batch: Batch) -> Tensor:
        """Write the gradients of this rank's batch and its control values to the buffer; return the
        priorities [B].
        """
        scale = batch.share.mass / batch.share.weight_floor
        if scale != 1.0:
            batch = batch._replace(weight=scale * batch.weight)
        if self._sums_moments:
            batch = self._write_moments(batch)
        priority, numbers = self._run_passes(batch)
        if self._sums_moments:
            numbers[3:].masked_fill_(~self._buffer.moments.sum().isfinite(), 1.0)
        compared = self.updates % COMPARED_EVERY_UPDATES == 0
        digest = self._digest() if compared else self._no_digest
        self._buffer.write_control(numbers, digest, batch.share, stop=self._stop_requested())
        return priority

    def _write_moments(self, batch: Batch) -> Batch:
        """Write the moments of this rank's batch to the buffer; return it with scaled rewards."""
        self._samples = len(batch.weight) * self._comm.world_size
        moments = self._buffer.moments
        if self.online.num_moments:
            moments[: self.online.num_moments] = self.online.moments(batch.obs)
        if self._rewards is None:
            return batch
        moments[-1] = batch.reward.square().mean()
        return batch._replace(reward=self._rewards(batch.reward))

    def _add_moments(self) -> None:
        """Update the running statistics by the moments of all ranks' batches."""
        means = self._sums.moments / self._comm.world_size
        count = self.online.num_moments
        if count:
            for network in (self.online, self.target):
                network.add_moments(means[:count], self._samples)
        if self._rewards is not None:
            self._rewards.add(means[count:], self._samples)

    def _take_step(self) -> None:
        if self._recorded_step is not None:
            self._launch(self._recorded_step)
            return
        agreement, norm = self._agreement(self._sums.numbers())
        if self._sums_moments:
            self._add_moments()
        if _divisor(agreement) != 1.0:
            self._sums.payload.div_(_divisor(agreement))
        self._step(self._sums.payload, norm)
        self._record(agreement)
        self._resynchronise_if_different(agreement)

    def _agreement(self, numbers: list[float]) -> tuple[Agreement, float]:
        """Return what the ranks agreed on in a sum and the norm of the averaged gradients. Raises
        `NonFiniteError` if anything is not finite.
        """
        agreement = self._sums.agreement(numbers)
        norm = agreement.norm / _divisor(agreement)
        self._require_finite(agreement, norm)
        return agreement, norm

    def _decide(self) -> Decision:
        """See `Learner._decide`."""
        numbers, divisor, nonfinite = self._sums.unread_numbers()
        norm = numbers[0] / divisor
        return Decision(numbers, divisor, norm, norm.isfinite() & (nonfinite == 0))

    def _process_results(self, numbers: list[float]) -> None:
        """See `Learner._process_results`."""
        self.updates -= 1  # errors must name that update
        agreement, norm = self._agreement(numbers)
        self._count_update()
        self.statistics.grad_norm += norm
        self._record(agreement)
        self._resynchronise_if_different(agreement)

    def _resynchronise_if_different(self, agreement: Agreement) -> None:
        if not agreement.parameters_equal:
            self._resynchronise()


def _divisor(agreement: Agreement) -> float:
    """Return the number by which to divide the sum of gradients to get their mean."""
    return agreement.mass / agreement.weight_floor


class DelayedGradientsLearner(GradientAveragingLearner):
    """Applies each sum one update late (Li et al. 2018, "Pipe-SGD"): it is in progress while the
    next batch is sampled and differentiated. Deterministic and the same on every rank, but a
    gradient is that of the parameters one update earlier.
    """

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._sums = self._new_buffer()
        self._use_gradients(self._buffer.payload, averaged=self._sums.payload)
        self._sum_is_pending = False

    def state_dict(self) -> DistributedState:
        """See `Learner.state_dict`. Includes the sum that is still to be applied, without requests
        to stop, which do not concern the resumed run.
        """
        self._wait_for_delayed_sum()
        self.synchronize()
        shared: State = self._steps_state() | {
            "sums": self._sums.without_stop_requests(),
            "sums_ranks": self._comm.world_size,
        }
        return DistributedState(shared, per_rank=self._per_rank_state())

    def load_state_dict(self, state: DistributedState, *, mine: bool = True) -> None:
        """See `Learner.load_state_dict`."""
        super().load_state_dict(state, mine=mine)
        ranks = state.shared.get("sums_ranks", self._comm.world_size)
        self._sums.restore(state.shared["sums"], ranks)

    def start(self, batch: Batch) -> Tensor:
        """Compute the gradients of this rank's batch while the previous sum is in progress."""
        return self._differentiate(batch)

    def finish(self) -> None:
        """Take the step of the previous update, if there was one, and start this update's sum."""
        if self.updates > 0:
            self._wait_for_delayed_sum()
            self._take_step()
        else:
            self._count_update()
        self._update_target()
        self._sums.tensor.copy_(self._buffer.tensor)
        self._send(self._sums, overlap=True)
        self._sum_is_pending = True

    def _wait_for_delayed_sum(self) -> None:
        if self._sum_is_pending:
            self._wait()
            self._sum_is_pending = False
