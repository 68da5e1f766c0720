"""Where the samples of a batch are put together, and from where the learner's device takes them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import cuda


class Tensors(NamedTuple):
    """A batch's tensors on the learner's device (see `Batch`)."""

    obs: torch.Tensor
    next_obs: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    discount: torch.Tensor
    weight: torch.Tensor


class SampleMemory:
    """Memory for B samples: two stacks each, `obs` and `next_obs` [B, K, *frame], or where those of
    a window of n < K steps overlap, one stretch of `both`, [B, K + n, *frame]; where frames are
    kept. On the host `action` [B] int64, and `reward`, `discount` and `weight`, the rows of
    `scalars` [3, B] float32, as arrays.

    It is used again for every batch: large memory asked for anew costs more, page by page, than the
    copying into it.
    """

    def __init__(
        self,
        obs: torch.Tensor,
        next_obs: torch.Tensor,
        both: torch.Tensor | None,
        action: torch.Tensor,
        scalars: torch.Tensor,
        *,
        device: torch.device,
        taken: Any = None,
    ) -> None:
        self.obs, self.next_obs, self.both = obs, next_obs, both
        self._action, self._scalars = action, scalars
        self._device = device
        self._taken = taken
        if taken is None and device.type == "cuda":
            self._taken = cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        self.action = action.numpy()
        self.reward, self.discount, self.weight = scalars.numpy()
        self._parts: dict[int, SampleMemory] = {}
        # What stays on the host is always the same: torch's views take longer than they seem to
        # where a batch has driven them out of the caches.
        self._stays = device.type == "cpu"
        self._kept: dict[bool, Tensors] = {}

    def first(self, count: int) -> SampleMemory:
        """The part of it for the first `count` samples."""
        if count not in self._parts:
            # contiguous, as a GPU takes it
            scalars = self._scalars.view(-1)[: 3 * count].view(3, count)
            self._parts[count] = SampleMemory(
                self.obs[:count],
                self.next_obs[:count],
                None if self.both is None else self.both[:count],
                self._action[:count],
                scalars,
                device=self._device,
                taken=self._taken,
            )
        return self._parts[count]

    def wait(self) -> None:
        """Until a GPU has taken the samples before."""
        if self._taken is not None:
            self._taken.synchronize()

    def tensors(self, joint: bool) -> Tensors:
        """On their way to the device, from `both` or each stack from its own memory."""
        if joint in self._kept:
            return self._kept[joint]
        if joint:
            assert self.both is not None
            both = self._moved(self.both)
            stack = self.obs.shape[1]
            obs, next_obs = both[:, :stack], both[:, both.shape[1] - stack :]
        else:
            obs, next_obs = self._moved(self.obs), self._moved(self.next_obs)
        tensors = Tensors(
            obs.flatten(1, 2),
            next_obs.flatten(1, 2),
            self._moved(self._action),
            *self._moved(self._scalars).unbind(),
        )
        if self._taken is not None:
            self._taken.record()
        if self._stays:
            self._kept[joint] = tensors
        return tensors

    def _moved(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self._device, non_blocking=True)
