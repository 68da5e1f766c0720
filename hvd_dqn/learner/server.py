"""The distributed update with a parameter server: every rank steps shared parameters by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hvd_dqn.common.state import DistributedState, State
from hvd_dqn.common.structs import Batch
from hvd_dqn.distributed.one_sided import Counter
from hvd_dqn.learner.base import Learner, NonFiniteError
from hvd_dqn.learner.optimizers import Optimizer, make_optimizer

SHARD_BYTES = 2**18
"""Parameters smaller than this are not divided further: each shard costs an update a lock."""


class _Shard(NamedTuple):
    """A rank's part of the parameters: its place among all of them, and what steps it.

    memory [n · (1 + averages) + scalars], on the host: parameters, then the optimizer's state.
    gradients [n] on the host.
    """

    place: slice
    memory: Tensor
    gradients: Tensor
    optimizer: Optimizer


class ParameterServerLearner(Learner):
    """Each rank computes gradients with its own copy of the parameters and steps the shared ones
    with them (Dean et al. 2012, "Downpour SGD"; for DQN, Nair et al. 2015, "Gorila"). No rank waits
    for another.

    Rank r owns shard r of the parameters and of the optimizer's state, in one-sided memory. The
    rank that has a gradient locks one shard after the other, takes the optimizer's step on it and
    keeps a copy of the result; the owner takes no part. `updates` counts the steps of all ranks.
    Until `rest`, `statistics` does not contain the steps since the last one. Prioritised weights
    are those of each rank's own replay.
    """

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        values = self.online_parameters.values
        self._gradients = torch.zeros_like(values)
        self._use_gradients(self._gradients)  # its optimizer's state is where `state_dict` reads it
        on_host = values.device.type == "cpu"
        self._sent_gradients = (
            self._gradients if on_host else torch.zeros_like(values, device="cpu", pin_memory=True)
        )
        self._averages = [name for name, v in self._optimizer.state.items() if v.dim() == 1]
        self._scalars = [name for name, v in self._optimizer.state.items() if v.dim() == 0]
        places = _places(len(values), self._comm.world_size)
        sizes = [self._shard_size(place) for place in places]
        sizes += [0] * (self._comm.world_size - len(places))
        self.memory = self._comm.one_sided_memory(sizes)
        self._shards = [self._make_shard(rank, place) for rank, place in enumerate(places)]
        self._own = [0.0] * 5  # updates, and the sums of `LearnerStatistics`, since the last rest
        self.failure: list[float] | None = None
        self._target_periods = 0
        self._comm.gather(None)  # making optimizers changes the memory
        self._write_own_shard()
        self._comm.gather(None)

    def _shard_size(self, place: slice) -> int:
        size: int = place.stop - place.start
        return size * (1 + len(self._averages)) + len(self._scalars)

    def _make_shard(self, rank: int, place: slice) -> _Shard:
        """Make what steps a shard: an optimizer whose parameters and state are the memory."""
        memory = torch.from_numpy(self.memory.parts[rank])
        gradients = self._sent_gradients[place]
        size = len(gradients)
        optimizer = make_optimizer(self._config, memory[:size], gradients)
        for number, name in enumerate(self._averages, start=1):
            optimizer.state[name] = memory[number * size : (number + 1) * size]
        for number, name in enumerate(reversed(self._scalars), start=1):
            optimizer.state[name] = memory[len(memory) - number]
        return _Shard(place, memory, gradients, optimizer)

    def start(self, batch: Batch) -> Tensor:
        """Compute the gradients of this rank's batch."""
        priority, self._numbers = self._run_passes(batch)
        return priority

    def finish(self) -> None:
        """Step the shared parameters. If this rank's numbers are not finite, it takes no more
        steps, and all ranks raise at the next `rest`.
        """
        if self.failure is not None:
            return
        norms = torch.linalg.vector_norm(self._gradients, dim=0, keepdim=True)
        loss, abs_td_error, value, nonfinite, norm = torch.cat((self._numbers, norms)).tolist()
        if nonfinite or not norm < math.inf:
            self.failure = [loss, norm]
            return
        self._clock.lap("step")
        self.updates = self.memory.add(Counter.UPDATES, 1)
        self.learning_rate = self._rate(self.updates)
        limit = self._config.max_grad_norm
        if limit is not None and norm > limit:
            self._gradients.mul_(limit / norm)
        self._step_shards()
        self.updates += 1
        new = (1.0, loss, abs_td_error, value, norm)
        self._own = [total + number for total, number in zip(self._own, new, strict=True)]
        self._update_target()

    def _step_shards(self) -> None:
        """Step each shard, the own one first, so that ranks rarely meet."""
        if self._sent_gradients is not self._gradients:
            self._sent_gradients.copy_(self._gradients)
        count = len(self._shards)
        values = self.online_parameters.values
        for owner in ((self._comm.rank + number) % count for number in range(count)):
            shard = self._shards[owner]
            with self.memory.locked(owner):
                self._clock.lap("averaging")
                shard.optimizer.step(self.learning_rate)
                values[shard.place].copy_(shard.memory[: len(shard.gradients)])
                self._clock.lap("step")
            self._clock.lap("averaging")

    def _update_target(self) -> None:
        """Update this rank's target network by the periods that have ended since its last step."""
        change = self._target_update
        before, self._target_periods = (
            self._target_periods,
            self.updates // change.period_updates,
        )
        periods = self._target_periods - before
        if periods == 0:
            return
        if change.is_copy:
            self._copy_to_target()
            return
        step = change.step if periods == 1 else 1 - (1 - change.step) ** periods
        self.target_parameters.values.lerp_(self.online_parameters.values, step)

    def rest(self) -> None:
        """Wait until all ranks have finished their steps; take the newest parameters, and add the
        steps of all ranks to `statistics`. Collective.

        Raises `NonFiniteError` on all ranks if a rank's numbers were not finite.
        """
        everyone = self._comm.gather([self.failure, self._own])
        self._clock.lap("averaging")
        self._own = [0.0] * len(self._own)
        self.updates = self.memory.add(Counter.UPDATES, 0)
        totals = [sum(numbers) for numbers in zip(*(own for _, own in everyone), strict=True)]
        mine = self.statistics
        mine.updates += int(totals[0])
        mine.agreed += int(totals[0])
        mine.loss += totals[1]
        mine.abs_td_error += totals[2]
        mine.value += totals[3]
        mine.grad_norm += totals[4]
        for owner, shard in enumerate(self._shards):
            self.memory.fetch(owner)
            parameters = shard.memory[: len(shard.gradients)]
            self.online_parameters.values[shard.place].copy_(parameters)
        failed = [(rank, failure) for rank, (failure, _) in enumerate(everyone) if failure]
        if failed:
            rank, (loss, norm) = failed[0]
            raise NonFiniteError(
                f"loss or gradient is not finite on rank {rank} after update {self.updates} (loss "
                f"{loss:.4g}, gradient norm {norm:.4g}): check the environment's rewards and "
                "observations, or lower --optimizer.learning-rate"
            )

    @contextmanager
    def shared_parameters(self) -> Iterator[None]:
        """Within this context, the online network has the root's spectral norms; since the last
        `rest`, its parameters are those of all ranks. Collective.
        """
        with self._roots_buffers():
            yield

    def state_dict(self) -> DistributedState:
        """See `Learner.state_dict`. Call `rest` before. Target networks differ between ranks."""
        for owner, shard in enumerate(self._shards):
            self.memory.fetch(owner)
            for name, value in self._optimizer.state.items():
                place = value[shard.place] if value.dim() else value
                place.copy_(shard.optimizer.state[name])
        shared: State = self._steps_state()
        per_rank = self._per_rank_state() | {"target": shared.pop("target")}
        return DistributedState(shared, per_rank)

    def load_state_dict(self, state: DistributedState, *, mine: bool = True) -> None:
        """See `Learner.load_state_dict`. Not collective: each rank writes its own shard."""
        self._load_per_rank_state(state.per_rank, mine=mine)
        self._load_steps_state(state.shared | {"target": state.per_rank["target"]})
        self._target_periods = self.updates // self._target_update.period_updates
        self._write_own_shard()
        if self._comm.is_root:
            self.memory.store(Counter.UPDATES, self.updates)

    def _write_own_shard(self) -> None:
        """Write this rank's shard of the parameters and of the optimizer's state to its memory."""
        rank = self._comm.rank
        if rank >= len(self._shards):
            return
        shard = self._shards[rank]
        with self.memory.locked(rank):
            shard.memory[: len(shard.gradients)] = self.online_parameters.values[shard.place]
            for name, value in self._optimizer.state.items():
                shard.optimizer.state[name].copy_(value[shard.place] if value.dim() else value)


def _places(parameters: int, ranks: int) -> list[slice]:
    """Return the shards, one for each of the first ranks."""
    count = min(ranks, math.ceil(4 * parameters / SHARD_BYTES))
    edges = [parameters * number // count for number in range(count + 1)]
    return [slice(*edges[number : number + 2]) for number in range(count)]
