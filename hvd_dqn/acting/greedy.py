"""Greedy policies: the action with the highest value."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import cuda

from hvd_dqn.common.seeding import restore_generator
from hvd_dqn.networks import QNetwork, TensorPlaces, numpy_network
from hvd_dqn.spaces.actions import best_actions, best_values


class GreedyPolicy:
    """Chooses the action with the highest value.

    A noisy network draws new noise from `generator` at each call; without a generator it acts
    without noise.
    """

    def __init__(
        self, network: QNetwork, device: torch.device, generator: torch.Generator | None = None
    ) -> None:
        self._network = network
        self._device = device
        self._generator = generator
        self._on_host = numpy_network(network) if device.type == "cpu" else None
        self._branches = () if network.branches is None else network.branches.counts

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Return actions [N] int64 for observations [N, *shape]. On a GPU, wait for the result."""
        return best_actions(self.values(obs), self._branches)

    def values(self, obs: np.ndarray) -> np.ndarray:
        """Return action values [N, A] for observations [N, *shape]; see `Values`."""
        if self._on_host is not None and self._on_host.is_faster(len(obs)):
            return self._on_host(obs)
        with torch.no_grad():
            self._network.prepare(self._generator, learning=False)
            values: np.ndarray = self._network(torch.from_numpy(obs).to(self._device)).cpu().numpy()
        return values

    def best_values(self, obs: np.ndarray) -> np.ndarray:
        """Return the values [N] of the best actions for observations [N, *shape]."""
        return best_values(self.values(obs), self._branches)

    def follow(self) -> None:
        """Called when the actions of an iteration are chosen and its updates come next. This policy
        acts with the network that the updates change, so there is nothing to do.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator, if there is one."""
        return {} if self._generator is None else {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        if self._generator is not None:
            restore_generator(self._generator, state["generator"])


class LatePolicy(GreedyPolicy):
    """Acts with a copy of the network from before the last iteration's updates, whether these are
    complete or not. So acting never waits for updates; on a GPU it uses its own stream.
    """

    def __init__(
        self, network: QNetwork, device: torch.device, generator: torch.Generator | None = None
    ) -> None:
        late = copy.deepcopy(network).requires_grad_(False)
        self._followed, self._late = TensorPlaces(network), TensorPlaces(late)
        super().__init__(late, device, generator)
        on_gpu = device.type == "cuda"
        # High priority: the kernels of an update fill the GPU.
        self._stream: Any = cuda.Stream(device, priority=-1) if on_gpu else None  # type: ignore[no-untyped-call]
        self._is_copied: Any = cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]

    def values(self, obs: np.ndarray) -> np.ndarray:
        """See `GreedyPolicy`. On a GPU this waits for the copy and for its own kernels."""
        if self._stream is not None:
            self._stream.wait_event(self._is_copied)
        with nullcontext() if self._stream is None else cuda.stream(self._stream):
            return super().values(obs)

    @torch.no_grad()
    def follow(self) -> None:
        """Copy the network, after the last update and before the next one. Raises
        `LayersReplacedError` if it has other layers than before.
        """
        torch._foreach_copy_(self._late.tensors(), self._followed.tensors())
        self._mark()

    def _mark(self) -> None:
        if self._is_copied is not None:
            self._is_copied.record()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator and the copy, which may be older than the network."""
        late = dict(zip(self._late.names, self._late.tensors(), strict=True))
        return super().state_dict() | {"late": late}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned, after that of the network. The state may be
        a `GreedyPolicy`'s: then the copy is of the current network.
        """
        super().load_state_dict(state)
        self.follow()
        for name, tensor in zip(self._late.names, self._late.tensors(), strict=True):
            if name in state.get("late", {}):
                tensor.copy_(state["late"][name])
        self._mark()
