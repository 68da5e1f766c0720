"""What all learners share: networks, optimizer, step, target network."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from hvd_dqn.common.errors import RunError
from hvd_dqn.common.seeding import restore_generator
from hvd_dqn.common.stages import StageClock
from hvd_dqn.common.state import DistributedState, State
from hvd_dqn.common.structs import Batch
from hvd_dqn.config import OptimizerConfig
from hvd_dqn.distributed import Communicator
from hvd_dqn.learner.flat_buffer import Agreement, Digest, FlatParameters, SumBuffer
from hvd_dqn.learner.optimizers import make_optimizer
from hvd_dqn.learner.passes import EagerPasses, Passes
from hvd_dqn.learner.recorded import Decision, RecordedPasses, RecordedStep, record_on_gpu
from hvd_dqn.methods.method import Objective
from hvd_dqn.networks import QNetwork


class NonFiniteError(RunError):
    """A loss, a gradient or a parameter is not finite. All ranks raise it at the same update."""


@dataclass
class LearnerStatistics:
    """Sums since the last record.

    updates: updates of this rank; agreed: updates that the sums over ranks covered so far, over
    which loss, abs_td_error and value sum the means over all ranks; grad_norm: gradient norms;
    on_its_way_seconds: time from the start of each sum until this rank began to wait for it; drift:
    the largest difference of a parameter or a running statistic from the root's; resyncs: how often
    ranks were resynchronised. A recorded step counts once the host has read its results.
    """

    updates: int = 0
    agreed: int = 0
    loss: float = 0.0
    abs_td_error: float = 0.0
    value: float = 0.0
    grad_norm: float = 0.0
    on_its_way_seconds: float = 0.0
    drift: float = 0.0
    resyncs: int = 0


class TargetUpdate(NamedTuple):
    """Every `period_updates`, target ← target + step · (online − target); a step of 1 copies."""

    period_updates: int
    step: float = 1.0

    @property
    def is_copy(self) -> bool:
        """Whether an update copies the online network."""
        return self.step == 1.0

    @property
    def broadcast_period_updates(self) -> int:
        """Updates between broadcasts of the root's parameters: with copies every copy; with soft
        updates the time in which their steps sum to 1.
        """
        return self.period_updates * round(1 / self.step)


class Learner(ABC):
    """Owns the parameters of both networks and the optimizer. Each update is a `start` and a
    `finish`.

    Between the two, the sum over ranks is in progress and the caller can do other work.
    `stop_requested` says whether this rank was asked to stop; the sums tell all ranks, and
    `stop_agreed` becomes true on all at the same update. If steps are recorded
    (`optimizer.cuda_graph`), the host reads the results of an update only at the next one, or when
    `synchronize` is called.
    """

    def __init__(
        self,
        *,
        online: QNetwork,
        target: QNetwork,
        objective: Objective,
        config: OptimizerConfig,
        rate: Callable[[int], float],
        target_update: TargetUpdate,
        communicator: Communicator,
        generator: Generator,
        stop_requested: Callable[[], bool] = lambda: False,
        clock: StageClock | None = None,
    ) -> None:
        self.online = online
        self.target = target
        self.objective = objective
        self._config = config
        self._rate = rate
        self._target_update = target_update
        self._comm = communicator
        self._generator = generator
        self._stop_requested = stop_requested
        self._clock = clock or StageClock()
        self._sent = 0.0
        on_gpu = next(online.parameters()).device.type == "cuda"
        self._passes_done = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        self.stop_agreed = False
        self._statistics: list[Tensor] = []  # running ones, equal on all ranks
        self.online_parameters = FlatParameters(online)
        self.target_parameters = FlatParameters(target)
        self._no_digest = self.online_parameters.values.new_zeros(Digest.size)
        self._digest = self._make_digest()
        self.learning_rate = rate(0)  # that of the last update
        self.updates = 0
        self.statistics = LearnerStatistics()
        self._take_roots_parameters()
        self._copy_to_target()
        self.statistics.drift = 0.0  # different initial weights are not drift

    def _make_digest(self) -> Callable[[], Tensor]:
        """Return what computes the parameters' digest [8]; a single rank needs none."""
        if self._comm.world_size > 1:
            return Digest(self.online_parameters.values)
        return lambda: self._no_digest

    @abstractmethod
    def start(self, batch: Batch) -> Tensor:
        """Compute the gradients of this rank's batch. Returns the new priorities [B] of its
        samples.
        """

    @abstractmethod
    def finish(self) -> None:
        """Take the step.

        Raises `NonFiniteError` on all ranks at the same update: this one or, if steps are recorded,
        the one before.
        """

    @contextmanager
    def shared_parameters(self) -> Iterator[None]:
        """Within this context, the online network is the same on all ranks. Collective."""
        yield

    @contextmanager
    def _roots_buffers(self) -> Iterator[None]:
        """Within this context, the online network has the root's spectral norms. Collective."""
        buffers = list(self.online.buffers())
        before = [buffer.clone() for buffer in buffers]
        for number, buffer in enumerate(buffers):
            self._comm.broadcast(buffer, f"buffer.{number}")
        try:
            yield
        finally:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)

    def parameters_are_finite(self) -> bool:
        """Whether every parameter of this rank's online network is finite."""
        self._hold_parameters()
        return bool(torch.isfinite(self.online_parameters.values).all())

    def _send(self, buffer: SumBuffer, *, overlap: bool = False) -> None:
        if self._passes_done is not None:
            self._passes_done.record()
        self._comm.start_sum(buffer.tensor, buffer.name, overlap=overlap)
        self._sent = time.perf_counter()

    def _wait(self) -> None:
        """Wait for the sum over ranks."""
        self.statistics.on_its_way_seconds += time.perf_counter() - self._sent
        self._clock.lap("step")
        # Time that the GPU still computes is not waiting for the sum. A single rank waits for
        # neither.
        if self._passes_done is not None and self._comm.world_size > 1:
            self._passes_done.synchronize()
            self._clock.lap("gradients")
        self._comm.finish_sum()
        self._clock.lap("averaging")

    @abstractmethod
    def state_dict(self) -> DistributedState:
        """Both networks, the optimizer, counters and the random stream. Collective, since it calls
        `synchronize`.
        """

    @abstractmethod
    def load_state_dict(self, state: DistributedState, *, mine: bool = True) -> None:
        """Restore the `state_dict` of a learner with the same settings. If it is another rank's
        (not `mine`), this rank keeps its random stream.
        """

    def _steps_state(self) -> State:
        """The state that steps change; call `synchronize` first."""
        self._hold_parameters()
        return {
            "updates": self.updates,
            "online": self.online_parameters.values,
            "target": self.target_parameters.values,
            "optimizer": dict(self._optimizer.state),
        }

    def _load_steps_state(self, state: State) -> None:
        self._hold_parameters()
        self.updates = state["updates"]
        self.online_parameters.values.copy_(state["online"])
        self.target_parameters.values.copy_(state["target"])
        for name, value in self._optimizer.state.items():
            value.copy_(state["optimizer"][name])

    def _per_rank_state(self) -> State:
        """The state that differs between ranks: noise, random stream, statistics."""
        return {
            "online_buffers": dict(self.online.named_buffers()),
            "target_buffers": dict(self.target.named_buffers()),
            "generator": self._generator.get_state(),
            "statistics": dataclasses.asdict(self.statistics),
        }

    def _load_per_rank_state(self, state: State, *, mine: bool) -> None:
        for network, name in ((self.online, "online_buffers"), (self.target, "target_buffers")):
            for buffer, value in network.named_buffers():
                value.copy_(state[name][buffer])
        if mine:
            restore_generator(self._generator, state["generator"])
        self.statistics = LearnerStatistics(**state["statistics"])

    def _use_gradients(self, gradients: Tensor, averaged: Tensor | None = None) -> None:
        """Let the passes write to `gradients` [P], and the optimizer read `averaged` [P], by
        default the same tensor.
        """
        self.online_parameters.put_gradients_into(gradients)
        networks = self.online, self.target, self.objective
        self._passes: Passes
        if self._config.compile:
            from hvd_dqn.learner.compiled import CompiledPasses

            self._passes = CompiledPasses(*networks)
        else:
            self._passes = EagerPasses(*networks, gradients)
        averaged = gradients if averaged is None else averaged
        parameters = self.online_parameters.values
        self._optimizer = optimizer = make_optimizer(self._config, parameters, averaged)
        self._recorded_step: RecordedStep | None = None
        if self._config.cuda_graph:
            self._passes = RecordedPasses(self._passes, record_on_gpu)
            self._recorded_step = RecordedStep(
                self._decide,
                lambda: optimizer.step(1.0),
                parameters=parameters,
                gradients=averaged,
                state=self._tensors_changed_by_step(),
                max_grad_norm=self._config.max_grad_norm,
                record=record_on_gpu,
            )

    def _tensors_changed_by_step(self) -> list[Tensor]:
        """Tensors that a step changes, besides parameters and gradients."""
        return list(self._optimizer.state.values())

    def warm_up(self, batch: Batch) -> None:
        """Compile and record what is slow the first time. `batch` has the shapes of real ones.
        Leaves the learner's state as it is.
        """
        self._passes.warm_up(batch)
        if self._recorded_step is not None:
            self._recorded_step.warm_up()

    def _run_passes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Update the layers that change between updates, such as noise, and run the passes; see
        `Passes`.
        """
        self._hold_parameters()
        self.online.prepare(self._generator, learning=True)
        self.target.prepare(self._generator, learning=True)
        return self._passes(batch)

    def _hold_parameters(self) -> None:
        """Account for parameters that the caller may have moved or replaced since the last update;
        see `FlatParameters.hold`.
        """
        self.online_parameters.hold()
        self.target_parameters.hold()

    def _decide(self) -> Decision:
        """Compute on the device what a recorded step depends on. Learners whose steps cannot be
        recorded have neither this nor `_process_results`.
        """
        raise NotImplementedError

    def _process_results(self, numbers: list[float]) -> None:
        """Process the numbers of a recorded step on the host."""
        raise NotImplementedError

    def _step(self, gradients: Tensor, norm: float) -> None:
        """Clip the gradients and step the optimizer."""
        limit = self._config.max_grad_norm
        if limit is not None and norm > limit:
            gradients.mul_(limit / norm)
        self.learning_rate = self._rate(self.updates)
        self._optimizer.step(self.learning_rate)
        self._count_update()
        self.statistics.grad_norm += norm

    def _launch(self, step: RecordedStep) -> None:
        """Launch a recorded step; the device decides whether to change the parameters."""
        self.synchronize()
        self.learning_rate = self._rate(self.updates)
        step.launch(self.learning_rate)
        self.updates += 1

    def synchronize(self) -> None:
        """Read the results of the last recorded step. Raises as `finish` does. A sum may be in
        progress. Collective, since it resynchronises ranks that differ.
        """
        numbers = None if self._recorded_step is None else self._recorded_step.read()
        if numbers is not None:
            self._process_results(numbers)

    def _count_update(self) -> None:
        """Count an update, whether or not it changed the parameters."""
        self.updates += 1
        self.statistics.updates += 1

    def _update_target(self) -> None:
        """Update the target network if its period has ended. A copy takes the root's network on
        every rank, and records this rank's distance from it as drift.
        """
        change = self._target_update
        if self.updates % change.broadcast_period_updates == 0:
            self._take_roots_parameters()
            if not change.is_copy:
                self._comm.broadcast(self.target_parameters.values, "target")
        if self.updates % change.period_updates == 0:
            if change.is_copy:
                self._copy_to_target()
            else:
                online = self.online_parameters.values
                self.target_parameters.values.lerp_(online, change.step)

    def _copy_to_target(self) -> None:
        """Copy parameters and buffers (spectral norms)."""
        self.target_parameters.values.copy_(self.online_parameters.values)
        for target, online in zip(self.target.buffers(), self.online.buffers(), strict=True):
            target.copy_(online)

    def _resynchronise(self) -> None:
        """Take the root's parameters and optimizer state, since a rank computed something else from
        the same sums.
        """
        self.statistics.resyncs += 1
        for name, value in sorted(self._optimizer.state.items()):
            self._comm.broadcast(value, f"optimizer.{name}")
        self._comm.broadcast(self.target_parameters.values, "target")
        self._take_roots_parameters()

    def _take_roots_parameters(self) -> None:
        self._take_roots(self.online_parameters.values, "online")
        for number, values in enumerate(self._statistics):
            self._take_roots(values, f"statistic.{number}")

    def _take_roots(self, values: Tensor, name: str) -> None:
        """Take the root's values, and record the distance of this rank's as drift."""
        before = values.clone()
        self._comm.broadcast(values, name)
        distance = (values - before).abs().nan_to_num(nan=float("inf"))
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
            "observations, or lower --optimizer.learning-rate"
        )

    def _record(self, agreement: Agreement, updates: int = 1) -> None:
        """Add the means over `updates` updates to the statistics, and note a request to stop."""
        self.stop_agreed = self.stop_agreed or agreement.stops > 0
        self.statistics.agreed += updates
        self.statistics.loss += updates * agreement.loss
        self.statistics.abs_td_error += updates * agreement.abs_td_error
        self.statistics.value += updates * agreement.value
