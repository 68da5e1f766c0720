"""Reusable memory in which batches are assembled for the learner's device."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import cuda


class BatchTensors(NamedTuple):
    """The tensors of a batch on the learner's device; see `Batch`."""

    obs: torch.Tensor
    next_obs: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    discount: torch.Tensor
    weight: torch.Tensor


class BatchMemory:
    """Memory for B samples.

    Frames, where the ring stores them: `obs` and `next_obs` [B, K, *frame], or, if windows have n <
    K steps and the two stacks overlap, `both` [B, K + n, *frame]. On the host, as arrays: `action`
    [B] int64, and `reward`, `discount` and `weight` [B] float32.

    All batches use the same memory: allocating a large batch costs more, page by page, than copying
    it. `copied` is the CUDA event of the last copy to a GPU.
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
        copied: Any = None,
    ) -> None:
        self.obs, self.next_obs, self.both = obs, next_obs, both
        self._action, self._scalars = action, scalars
        self._device = device
        self._copied = copied
        if copied is None and device.type == "cuda":
            self._copied = cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        self.action = action.numpy()
        self.reward, self.discount, self.weight = scalars.numpy()
        self._parts: dict[int, BatchMemory] = {}
        # On the host the tensors never change, so they are kept: making torch's views takes long
        # once a batch has driven their code and data out of the caches.
        self._is_on_host = device.type == "cpu"
        self._kept: dict[bool, BatchTensors] = {}

    def first(self, count: int) -> BatchMemory:
        """Return the part for the first `count` samples."""
        if count not in self._parts:
            # contiguous, so that one copy to a GPU is enough
            scalars = self._scalars.view(-1)[: 3 * count].view(3, count)
            self._parts[count] = BatchMemory(
                self.obs[:count],
                self.next_obs[:count],
                None if self.both is None else self.both[:count],
                self._action[:count],
                scalars,
                device=self._device,
                copied=self._copied,
            )
        return self._parts[count]

    def wait(self) -> None:
        """Wait until the GPU has copied the previous batch."""
        if self._copied is not None:
            self._copied.synchronize()

    def tensors(self, overlap: bool) -> BatchTensors:
        """Return the batch's tensors on the learner's device: the observations from `both` if they
        `overlap`, otherwise each from its own memory. Copies to a GPU are asynchronous.
        """
        if overlap in self._kept:
            return self._kept[overlap]
        if overlap:
            assert self.both is not None
            both = self._moved(self.both)
            stack = self.obs.shape[1]
            obs, next_obs = both[:, :stack], both[:, both.shape[1] - stack :]
        else:
            obs, next_obs = self._moved(self.obs), self._moved(self.next_obs)
        tensors = BatchTensors(
            obs.flatten(1, 2),
            next_obs.flatten(1, 2),
            self._moved(self._action),
            *self._moved(self._scalars).unbind(),
        )
        if self._copied is not None:
            self._copied.record()
        if self._is_on_host:
            self._kept[overlap] = tensors
        return tensors

    def _moved(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self._device, non_blocking=True)
