"""What both kinds of distributed update share: networks, optimizer, step, target network."""

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
from hvd_dqn.common.seeding import restore
from hvd_dqn.common.stages import StageClock
from hvd_dqn.common.state import SplitState, State
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
    """A loss, a gradient or a parameter is not finite; raised by all ranks at the same update."""


@dataclass
class LearnerStatistics:
    """Sums since the last report. Losses and values are means over all ranks, over the updates that
    `agreed` counts; the rest is this rank's. A recorded step is counted when the host has read what
    came of it. on_its_way_seconds: how long sums had been under way when the rank began to wait for
    them, at most.
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
    """Every `period_updates`, target ← target + step · (online − target)."""

    period_updates: int
    step: float = 1.0

    @property
    def is_copy(self) -> bool:
        """Whether a change leaves nothing of the old target network."""
        return self.step == 1.0

    @property
    def broadcast_period_updates(self) -> int:
        """Updates between the root's broadcasts: every copy, or the time that soft changes take to
        go the whole way.
        """
        return self.period_updates * round(1 / self.step)


class Learner(ABC):
    """Owns both networks' parameters and the optimizer. `start` and `finish` bracket one update.

    Between them the ranks' sums are on their way, and the caller does something useful. A rank that
    `wants_stop` tells the others with its sums: `stop_agreed` changes on all at the same update.
    Where steps are recorded (`optimizer.cuda_graph`), the host learns of an update what came of it
    as late as at the next one, or when it is asked to `settle`.
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
        wants_stop: Callable[[], bool] = lambda: False,
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
        self._wants_stop = wants_stop
        self._clock = clock or StageClock()
        self._sent = 0.0
        on_gpu = next(online.parameters()).device.type == "cuda"
        self._have_passed = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        self.stop_agreed = False
        self.online_parameters = FlatParameters(online)
        self.target_parameters = FlatParameters(target)
        self._no_digest = self.online_parameters.values.new_zeros(Digest.size)
        self._digest = self._make_digest()
        self.learning_rate = rate(0)  # of the last update
        self.updates = 0
        self.statistics = LearnerStatistics()
        self._take_roots_parameters()
        self._copy_to_target()
        self.statistics.drift = 0.0  # what ranks drew before they met is no drift

    def _make_digest(self) -> Callable[[], Tensor]:
        """What makes the parameters' digest [8]; a rank alone has nobody to compare it with."""
        if self._comm.world_size > 1:
            return Digest(self.online_parameters.values)
        return lambda: self._no_digest

    @abstractmethod
    def start(self, batch: Batch) -> Tensor:
        """Gradients of this rank's batch; the priorities [B] that its samples earn."""

    @abstractmethod
    def finish(self) -> None:
        """Take the step.

        Raises `NonFiniteError` on all ranks alike, at the same update: that one, or the one before
        it where steps are recorded.
        """

    @contextmanager
    def shared_parameters(self) -> Iterator[None]:
        """Within it, the online network is one and the same on all ranks. Collective."""
        yield

    def parameters_are_finite(self) -> bool:
        """Whether every parameter of the online network is a number."""
        return bool(torch.isfinite(self.online_parameters.values).all())

    def _send(self, buffer: SumBuffer, *, overlap: bool = False) -> None:
        if self._have_passed is not None:
            self._have_passed.record()
        self._comm.start_sum(buffer.tensor, buffer.name, overlap=overlap)
        self._sent = time.perf_counter()

    def _wait(self) -> None:
        """Until the sum that was sent has come."""
        self.statistics.on_its_way_seconds += time.perf_counter() - self._sent
        self._clock.lap("step")
        # What a GPU still computes is no waiting for the sum. A rank alone waits for neither.
        if self._have_passed is not None and self._comm.world_size > 1:
            self._have_passed.synchronize()
            self._clock.lap("gradients")
        self._comm.finish_sum()
        self._clock.lap("averaging")

    @abstractmethod
    def state_dict(self) -> SplitState:
        """Both networks, the optimizer, the counters and the generator's state, in a half that is
        the same on all ranks and this rank's own. Collective: it settles.
        """

    @abstractmethod
    def load_state_dict(self, state: SplitState, *, mine: bool = True) -> None:
        """Put back what `state_dict` gave, of a learner of the same settings. A state that was
        another rank's, not `mine`, leaves this rank its random stream.
        """

    def _steps_state(self) -> State:
        """What the optimizer works on, when all updates are settled."""
        return {
            "updates": self.updates,
            "online": self.online_parameters.values,
            "target": self.target_parameters.values,
            "optimizer": dict(self._optimizer.state),
        }

    def _load_steps_state(self, state: State) -> None:
        self.updates = state["updates"]
        self.online_parameters.values.copy_(state["online"])
        self.target_parameters.values.copy_(state["target"])
        for name, value in self._optimizer.state.items():
            value.copy_(state["optimizer"][name])

    def _own_state(self) -> State:
        """What differs between ranks: noise, random streams, sums since the last report."""
        return {
            "online_buffers": dict(self.online.named_buffers()),
            "target_buffers": dict(self.target.named_buffers()),
            "generator": self._generator.get_state(),
            "statistics": dataclasses.asdict(self.statistics),
        }

    def _load_own_state(self, state: State, *, mine: bool) -> None:
        for network, name in ((self.online, "online_buffers"), (self.target, "target_buffers")):
            for buffer, value in network.named_buffers():
                value.copy_(state[name][buffer])
        if mine:
            restore(self._generator, state["generator"])
        self.statistics = LearnerStatistics(**state["statistics"])

    def _use_gradients(self, gradients: Tensor, averaged: Tensor | None = None) -> None:
        """From now on the passes put theirs into `gradients` [P], and the optimizer reads
        `averaged` [P], or these.
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
                state=self._changed_by_a_step(),
                max_grad_norm=self._config.max_grad_norm,
                record=record_on_gpu,
            )

    def _changed_by_a_step(self) -> list[Tensor]:
        """Besides parameters and gradients."""
        return list(self._optimizer.state.values())

    def warm_up(self, batch: Batch) -> None:
        """Do what takes long the first time, before there is experience; `batch` is of the shapes
        of those to come. Nothing that an update depends on changes.
        """
        self._passes.warm_up(batch)
        if self._recorded_step is not None:
            self._recorded_step.warm_up()

    def _run_passes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Passes`; the layers that change have changed before."""
        self.online.prepare(self._generator, learning=True)
        self.target.prepare(self._generator, learning=True)
        return self._passes(batch)

    @abstractmethod
    def _decide(self) -> Decision:
        """What a recorded step depends on."""

    @abstractmethod
    def _conclude(self, numbers: list[float]) -> None:
        """What the host makes of a recorded step, from the numbers of its decision."""

    def _step(self, gradients: Tensor, norm: float) -> None:
        """The host has decided to."""
        limit = self._config.max_grad_norm
        if limit is not None and norm > limit:
            gradients.mul_(limit / norm)
        self.learning_rate = self._rate(self.updates)
        self._optimizer.step(self.learning_rate)
        self._count()
        self.statistics.grad_norm += norm

    def _launch(self, step: RecordedStep) -> None:
        """The device decides."""
        self.settle()
        self.learning_rate = self._rate(self.updates)
        step.launch(self.learning_rate)
        self.updates += 1

    def settle(self) -> None:
        """Know what came of the last update; see `finish` for what it raises. Collective, since it
        may find that a rank has drifted; a sum may be on its way.
        """
        numbers = None if self._recorded_step is None else self._recorded_step.read()
        if numbers is not None:
            self._conclude(numbers)

    def _count(self) -> None:
        """An update is done, with a step or without."""
        self.updates += 1
        self.statistics.updates += 1

    def _update_target(self) -> None:
        """Change the target network where its time has come. A copy is the root's network on every
        rank; how far this rank's was from it is kept as drift.
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
        """Parameters, and what layers know of them (spectral norms)."""
        self.target_parameters.values.copy_(self.online_parameters.values)
        for target, online in zip(self.target.buffers(), self.online.buffers(), strict=True):
            target.copy_(online)

    def _resynchronise(self) -> None:
        """Take the root's optimizer state and parameters: a rank computed something else from the
        same numbers.
        """
        self.statistics.resyncs += 1
        for name, value in sorted(self._optimizer.state.items()):
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

    def _record(self, agreement: Agreement, updates: int = 1) -> None:
        """Keep the means over the last `updates` updates, and whether a rank is to stop."""
        self.stop_agreed = self.stop_agreed or agreement.stops > 0
        self.statistics.agreed += updates
        self.statistics.loss += updates * agreement.loss
        self.statistics.abs_td_error += updates * agreement.abs_td_error
        self.statistics.value += updates * agreement.value
