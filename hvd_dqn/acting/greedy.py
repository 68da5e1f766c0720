"""Acting by a network: the action of the highest value."""

from __future__ import annotations

import copy
import itertools
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import cuda

from hvd_dqn.common.seeding import restore_generator
from hvd_dqn.networks import QNetwork, numpy_network


class GreedyPolicy:
    """The action of the highest value.

    A noisy network draws new noise from `generator` at each call; without one it has none. The
    network's parameters may change, but not move in memory.
    """

    def __init__(
        self, network: QNetwork, device: torch.device, generator: torch.Generator | None = None
    ) -> None:
        self._network = network
        self._device = device
        self._generator = generator
        self._on_host = numpy_network(network) if device.type == "cpu" else None

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Actions [N] int64 for observations [N, *shape]. On a GPU this waits for the result."""
        action: np.ndarray = self.values(obs).argmax(axis=1)
        return action

    def values(self, obs: np.ndarray) -> np.ndarray:
        """Action values [N, A]."""
        if self._on_host is not None and self._on_host.is_faster(len(obs)):
            return self._on_host(obs)
        with torch.no_grad():
            self._network.prepare(self._generator, learning=False)
            values: np.ndarray = self._network(torch.from_numpy(obs).to(self._device)).cpu().numpy()
        return values

    def follow(self) -> None:
        """The actions of an iteration are chosen, and its updates come next. They change the
        network that acts, which need not be told.
        """

    def state_dict(self) -> dict[str, Any]:
        """The state of the generator, if there is one."""
        return {} if self._generator is None else {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        if self._generator is not None:
            restore_generator(self._generator, state["generator"])


class LatePolicy(GreedyPolicy):
    """Acts by a copy of the network from before the last iteration's updates: always the same one,
    whether those are done or not. So acting waits for none of them; on a GPU it has a stream of its
    own.
    """

    def __init__(
        self, network: QNetwork, device: torch.device, generator: torch.Generator | None = None
    ) -> None:
        late = copy.deepcopy(network).requires_grad_(False)
        self._followed, self._copied = _tensors(network), _tensors(late)
        super().__init__(late, device, generator)
        on_gpu = device.type == "cuda"
        # Before what other streams have waiting: an update's kernels fill the GPU.
        self._stream: Any = cuda.Stream(device, priority=-1) if on_gpu else None  # type: ignore[no-untyped-call]
        self._is_copied: Any = cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]

    def values(self, obs: np.ndarray) -> np.ndarray:
        """See `GreedyPolicy`; on a GPU this waits for the copy, and for what it launches itself."""
        if self._stream is not None:
            self._stream.wait_event(self._is_copied)
        with nullcontext() if self._stream is None else cuda.stream(self._stream):
            return super().values(obs)

    @torch.no_grad()
    def follow(self) -> None:
        """Copy the network, in the order of the updates: behind the last, before the next. What was
        chosen by the old copy has been waited for.
        """
        torch._foreach_copy_([*self._copied.values()], [*self._followed.values()])
        self._mark()

    def _mark(self) -> None:
        if self._is_copied is not None:
            self._is_copied.record()

    def state_dict(self) -> dict[str, Any]:
        """The copy, too: in the middle of a run it is not the newest network."""
        return super().state_dict() | {"late": self._copied}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave, of a `GreedyPolicy` too: then by the network as it is
        now, which is loaded before.
        """
        super().load_state_dict(state)
        self.follow()
        for name, value in state.get("late", {}).items():
            self._copied[name].copy_(value)
        self._mark()


def _tensors(network: QNetwork) -> dict[str, torch.Tensor]:
    both = itertools.chain(network.named_parameters(), network.named_buffers())
    return {name: tensor.detach() for name, tensor in both}
