"""The distributed update with averaged parameters: between averages, each rank steps alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hvd_dqn.common.state import DistributedState
from hvd_dqn.common.structs import Batch, ReplayShare
from hvd_dqn.learner.base import Learner
from hvd_dqn.learner.flat_buffer import SumBuffer
from hvd_dqn.learner.recorded import Decision


class ParameterAveragingLearner(Learner):
    """Ranks update alone and average their parameters every `period_updates` updates (local SGD,
    Stich 2019). Prioritised weights are those of each rank's own replay.
    """

    def __init__(self, *, period_updates: int, optimizer_state: str, **common: Any) -> None:
        super().__init__(**common)
        self._period_updates = period_updates
        self._optimizer_state = optimizer_state
        values = self.online_parameters.values
        self._nonfinite = values.new_zeros(())
        self._gradients = torch.zeros_like(values)
        self._use_gradients(self._gradients)
        self._shared_digest = self._digest()
        self._means = values.new_zeros(3)
        self._averaged = [values, *(self._moments() if optimizer_state == "average" else [])]
        self._buffer = SumBuffer(
            values,
            sum(len(part) for part in self._averaged),
            rank=self._comm.rank,
            world_size=self._comm.world_size,
            shares=False,
        )

    def start(self, batch: Batch) -> Tensor:
        """Compute the gradients of this rank's batch, for its own step."""
        priority, numbers = self._run_passes(batch)
        self._means += numbers[:3] / self._period_updates
        torch.maximum(self._nonfinite, numbers[3], out=self._nonfinite)
        return priority

    def finish(self) -> None:
        """Take this rank's step, and average if the period has ended. If this rank's numbers are
        not finite, its parameters stay as they are until then.
        """
        if self._recorded_step is not None:
            self._launch(self._recorded_step)
        else:
            self._step_or_not()
        if self.updates % self._period_updates == 0:
            self._average()
        self._update_target()

    def _step_or_not(self) -> None:
        norms = torch.linalg.vector_norm(self._gradients)
        norm, nonfinite = torch.stack((norms, self._nonfinite)).tolist()
        if nonfinite or not norm < float("inf"):
            self._nonfinite.fill_(1.0)
            self._count_update()
        else:
            self._step(self._gradients, norm)

    def _tensors_changed_by_step(self) -> list[Tensor]:
        """See `Learner._tensors_changed_by_step`."""
        return [*super()._tensors_changed_by_step(), self._nonfinite]

    def _decide(self) -> Decision:
        """See `Learner._decide`."""
        norm = torch.linalg.vector_norm(self._gradients)
        is_finite = norm.isfinite() & (self._nonfinite == 0)
        self._nonfinite.copy_(~is_finite)
        step_norm = torch.where(is_finite, norm, 0.0)
        return Decision(step_norm.unsqueeze(0), torch.ones_like(norm), norm, is_finite)

    def _process_results(self, numbers: list[float]) -> None:
        """See `Learner._process_results`."""
        self.statistics.updates += 1
        self.statistics.grad_norm += numbers[0]

    def state_dict(self) -> DistributedState:
        """See `Learner.state_dict`. Everything is per rank, including the means since the last
        average.
        """
        self.synchronize()
        per_rank = self._per_rank_state() | {
            "steps": self._steps_state(),
            "means": self._means,
            "nonfinite": self._nonfinite,
            "shared_digest": self._shared_digest,
        }
        return DistributedState(shared={}, per_rank=per_rank)

    def load_state_dict(self, state: DistributedState, *, mine: bool = True) -> None:
        """See `Learner.load_state_dict`."""
        per_rank = state.per_rank
        self._load_per_rank_state(per_rank, mine=mine)
        self._load_steps_state(per_rank["steps"])
        self._means.copy_(per_rank["means"])
        self._nonfinite.copy_(per_rank["nonfinite"])
        self._shared_digest = per_rank["shared_digest"].to(self._means.device)

    @contextmanager
    def shared_parameters(self) -> Iterator[None]:
        """Within this context, the online network is the average over all ranks, with the root's
        spectral norms. Collective.
        """
        self._hold_parameters()
        values = self.online_parameters.values
        before = values.clone()
        self._comm.start_sum(values, "online")
        self._comm.finish_sum()
        values.div_(self._comm.world_size)
        try:
            with self._roots_buffers():
                yield
        finally:
            values.copy_(before)

    def _average(self) -> None:
        torch.cat(self._averaged, out=self._buffer.payload)
        self._buffer.write_control(
            torch.cat((self._means, self._nonfinite.unsqueeze(0))),
            self._shared_digest,
            ReplayShare(),
            stop=self._stop_requested(),
        )
        self._send(self._buffer)
        self._wait()
        agreement = self._buffer.agreement(self._buffer.numbers())
        self._require_finite(agreement, 0.0)
        self._record(agreement, self._period_updates)
        sums_of_parts = torch.split(self._buffer.payload, [len(part) for part in self._averaged])
        for part, sums in zip(self._averaged, sums_of_parts, strict=True):
            torch.div(sums, self._comm.world_size, out=part)
        if self._optimizer_state == "reset":
            for value in self._optimizer.state.values():
                value.zero_()
        if not agreement.parameters_equal:
            self._resynchronise()
        self._shared_digest = self._digest()
        self._means.zero_()

    def _moments(self) -> list[Tensor]:
        """Return the optimizer's averages [P]."""
        state = sorted(self._optimizer.state.items())
        return [value for _, value in state if value.dim() == 1]
