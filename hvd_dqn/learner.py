"""The distributed update: gradients of this rank's batch, averaged over ranks, and the same step on
each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hvd_dqn.config import OptimizerConfig
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.flat import Agreement, FlatParameters, UpdateBuffer
from hvd_dqn.errors import RunError
from hvd_dqn.networks import QNetwork
from hvd_dqn.objectives import Objective
from hvd_dqn.structs import Batch


class NonFiniteError(RunError):
    """A loss, a gradient or a parameter is not finite; raised by all ranks at the same update."""


@dataclass
class LearnerStatistics:
    """Sums since the last report. Losses and values are means over all ranks; seconds and drift are
    this rank's.
    """

    updates: int = 0
    loss: float = 0.0
    abs_td_error: float = 0.0
    value: float = 0.0
    grad_norm: float = 0.0
    waited_seconds: float = 0.0
    drift: float = 0.0
    resyncs: int = 0


class Learner:
    """Owns both networks' parameters and the optimizer. `start` and `finish` bracket one update.

    Between them the ranks' gradients are on their way, and the caller does something useful.
    """

    def __init__(
        self,
        *,
        online: QNetwork,
        target: QNetwork,
        objective: Objective,
        config: OptimizerConfig,
        rate: Callable[[int], float],
        target_period_updates: int,
        communicator: Communicator,
    ) -> None:
        self.online = online
        self._target = target
        self._objective = objective
        self._max_grad_norm = config.max_grad_norm
        self._rate = rate
        self._target_period_updates = target_period_updates
        self._comm = communicator
        self.online_parameters = FlatParameters(online)
        self.target_parameters = FlatParameters(target)
        self._buffer = UpdateBuffer(
            self.online_parameters, rank=communicator.rank, world_size=communicator.world_size
        )
        whole = torch.nn.Parameter(self.online_parameters.values)
        whole.grad = self._buffer.gradients
        self._optimizer = make_optimizer(config, whole, learning_rate=rate(0))
        self.updates = 0
        self.statistics = LearnerStatistics()
        self._synchronise()
        self.statistics.drift = 0.0  # what ranks drew before they met is no drift

    def start(self, batch: Batch) -> None:
        """Gradients of this rank's batch, on their way to the others."""
        self._buffer.gradients.zero_()
        terms = self._objective(self.online, self._target, batch)
        loss = (batch.weight * terms.loss).mean()
        torch.autograd.backward(loss)
        self._buffer.write_control(
            loss=loss.detach(), abs_td_error=terms.abs_td_error.mean(), value=terms.value.mean()
        )
        self._comm.start_sum(self._buffer.tensor, self._buffer.name)

    def finish(self) -> None:
        """Wait for the average and take the step that every rank takes.

        Raises `NonFiniteError` on all ranks alike; parameters are then as before the update.
        """
        waiting = time.perf_counter()
        self._comm.finish_sum()
        agreement = self._buffer.read_control()
        self.statistics.waited_seconds += time.perf_counter() - waiting
        gradients = self._buffer.gradients
        if self._comm.world_size > 1:
            gradients.div_(self._comm.world_size)
        norm = float(torch.linalg.vector_norm(gradients))
        self._require_finite(agreement, norm)
        if self._max_grad_norm is not None and norm > self._max_grad_norm:
            gradients.mul_(self._max_grad_norm / norm)
        self._optimizer.param_groups[0]["lr"] = self._rate(self.updates)
        self._optimizer.step()
        self.updates += 1
        self._record(agreement, norm)
        if not agreement.parameters_equal:
            self._resynchronise()
        if self.updates % self._target_period_updates == 0:
            self._synchronise()

    @property
    def learning_rate(self) -> float:
        """Step size of the last update."""
        return float(self._optimizer.param_groups[0]["lr"])

    def parameters_are_finite(self) -> bool:
        """Whether every parameter of the online network is a number."""
        return bool(torch.isfinite(self.online_parameters.values).all())

    def _synchronise(self) -> None:
        """target ← online, the root's on every rank; what this rank's differed by before is kept as
        drift.
        """
        online = self.online_parameters.values
        self._take_roots_parameters()
        self.target_parameters.values.copy_(online)

    def _resynchronise(self) -> None:
        """Take the root's optimizer state and parameters: a rank computed something else from the
        same numbers.
        """
        self.statistics.resyncs += 1
        for name, value in sorted(next(iter(self._optimizer.state.values())).items()):
            self._comm.broadcast(value, f"optimizer.{name}")
        self._comm.broadcast(self.target_parameters.values, "target")
        self._take_roots_parameters()

    def _take_roots_parameters(self) -> None:
        online = self.online_parameters.values
        before = online.clone()
        self._comm.broadcast(online, "online")
        distance = (online - before).abs().nan_to_num(nan=float("inf"))
        self.statistics.drift = max(self.statistics.drift, float(distance.max()))

    def _require_finite(self, agreement: Agreement, norm: float) -> None:
        if agreement.nonfinite_ranks == 0 and norm < float("inf"):
            return
        if agreement.nonfinite_ranks == 1:
            where = f"on rank {agreement.nonfinite_rank_sum}"
        else:
            where = f"on {agreement.nonfinite_ranks} of {self._comm.world_size} ranks"
        raise NonFiniteError(
            f"loss or gradient is not finite {where} at update {self.updates} (loss "
            f"{agreement.loss:.4g}, gradient norm {norm:.4g}): check the environment's rewards and "
            "observations, or lower optimizer.learning_rate"
        )

    def _record(self, agreement: Agreement, norm: float) -> None:
        statistics = self.statistics
        statistics.updates += 1
        statistics.loss += agreement.loss
        statistics.abs_td_error += agreement.abs_td_error
        statistics.value += agreement.value
        statistics.grad_norm += norm


def make_optimizer(
    config: OptimizerConfig, whole: torch.nn.Parameter, *, learning_rate: float
) -> torch.optim.Optimizer:
    """The optimizer of one flat parameter: element by element, it is that of the layers apart."""
    if config.name == "radam":
        return torch.optim.RAdam([whole], lr=learning_rate, eps=config.adam_eps)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(
        [whole],
        lr=learning_rate,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
