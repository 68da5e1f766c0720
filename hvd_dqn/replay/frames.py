"""Frames of many environments, each kept once, read back as stacks."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_DTYPES = {np.dtype(np.uint8): torch.uint8, np.dtype(np.float32): torch.float32}


class FrameStore:
    """Frames [N, T, *frame] as one tensor, in the host's memory or on the GPU.

    Behind the last row of each environment its first K − 1 rows stand once more, so that the K
    frames of a stack are always neighbours in memory and one read brings them.
    """

    def __init__(
        self,
        *,
        num_envs: int,
        rows: int,
        frame_shape: tuple[int, ...],
        dtype: np.dtype,
        frame_stack: int,
        device: torch.device,
    ) -> None:
        self._rows = rows
        self._stack = frame_stack
        self._pitch = rows + frame_stack - 1
        self._size = math.prod(frame_shape)
        self._obs_shape = (frame_stack * frame_shape[0], *frame_shape[1:])
        places = num_envs * self._pitch
        if device.type == "cpu":
            # NumPy's zeros take no memory before they are written to; torch's do.
            self._frames = torch.from_numpy(np.zeros((places, self._size), dtype=dtype))
        else:
            self._frames = torch.zeros((places, self._size), dtype=_DTYPES[dtype], device=device)
        self._stacks = self._frames.as_strided(
            (places - frame_stack + 1, frame_stack * self._size), (self._size, 1)
        )
        self._positions = np.arange(frame_stack)

    @staticmethod
    def bytes_needed(
        *, num_envs: int, rows: int, frame_shape: tuple[int, ...], dtype: np.dtype, frame_stack: int
    ) -> int:
        """What a store of these settings takes, in bytes."""
        return num_envs * (rows + frame_stack - 1) * math.prod(frame_shape) * dtype.itemsize

    def write(self, column: np.ndarray, row: np.ndarray, frames: np.ndarray) -> None:
        """Put frames [W, *frame] at these environments' rows [W]."""
        place = column * self._pitch + row
        again = np.flatnonzero(row < self._stack - 1)
        if again.size:
            place = np.concatenate((place, place[again] + self._rows))
            frames = np.concatenate((frames, frames[again]))
        values = torch.from_numpy(frames.reshape(len(place), self._size))
        index = torch.from_numpy(place)
        device = self._frames.device
        self._frames.index_copy_(0, index.to(device), values.to(device))

    def new_stacks(self, count: int, *, pinned: bool) -> Tensor:
        """Memory for `count` stacks, [count, K·C, …]. `pinned` host memory is where a GPU copies
        from without waiting.
        """
        pin = pinned and self._frames.device.type == "cpu"
        return self._frames.new_empty((count, *self._obs_shape), pin_memory=pin)

    def read(
        self, column: np.ndarray, row: np.ndarray, missing: np.ndarray, *, out: Tensor
    ) -> None:
        """Put the stacks whose newest frame stands at `row` [B] into `out` [B, K·C, …]; the first
        `missing` [B] frames of each are zeros.
        """
        count = len(row)
        start = column * self._pitch + (row - self._stack + 1) % self._rows
        index = torch.from_numpy(start).to(self._frames.device)
        torch.index_select(self._stacks, 0, index, out=out.view(count, -1))
        blank = np.flatnonzero(self._positions < missing[:, None])
        if blank.size:
            places = torch.from_numpy(blank).to(self._frames.device)
            out.view(count * self._stack, self._size).index_fill_(0, places, 0)

    def stretch(self, column: int, row: int, count: int) -> np.ndarray:
        """Frames [count, size] of neighbouring rows of one environment; on the host, the store's
        own memory.
        """
        first = column * self._pitch + row
        frames: np.ndarray = self._frames[first : first + count].cpu().numpy()
        return frames
