"""Stores the frames of many environments once each, and reads runs of consecutive frames."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hvd_dqn.replay import kernels

_DTYPES = {np.dtype(np.uint8): torch.uint8, np.dtype(np.float32): torch.float32}
_COPIED = 8 << 20
"""Bytes copied from a GPU at a time."""
_WORDS = (torch.int64, torch.int32, torch.int16, torch.uint8)


class FrameStore:
    """Frames [N, T, *frame] as one tensor, in the host's memory or on the GPU.

    The first `span` − 1 rows of each environment are stored again after its last row, so that any
    `span` consecutive frames are contiguous in memory, also across the ring's end. Frames are
    stored as words of the largest integer type whose size divides a frame's.
    """

    def __init__(
        self,
        *,
        num_envs: int,
        rows: int,
        frame_shape: tuple[int, ...],
        dtype: np.dtype,
        span: int,
        device: torch.device,
    ) -> None:
        self._rows = rows
        self._span = span
        self._pitch = rows + span - 1
        self._size = math.prod(frame_shape)
        self._frame_shape = frame_shape
        self._host_dtype, self._dtype = dtype, _DTYPES[dtype]
        places = num_envs * self._pitch
        if device.type == "cpu":
            # NumPy's zeros take no memory until they are written; torch's do.
            frames = torch.from_numpy(np.zeros((places, self._size), dtype=dtype))
        else:
            frames = torch.zeros((places, self._size), dtype=self._dtype, device=device)
        length = self._size * dtype.itemsize
        self._word = next(word for word in _WORDS if length % word.itemsize == 0)
        self._frames = frames.view(self._word)
        self._frame_bytes = length
        # On a GPU, updates wait while frames are copied to the host.
        self.max_contiguous_rows = places if device.type == "cpu" else max(1, _COPIED // length)
        # The same memory for the compiled kernels, if it is the host's.
        self._on_host = self._frames.numpy() if device.type == "cpu" else None

    @staticmethod
    def bytes_needed(
        *, num_envs: int, rows: int, frame_shape: tuple[int, ...], dtype: np.dtype, span: int
    ) -> int:
        """Return the bytes that a store with these settings takes."""
        return num_envs * (rows + span - 1) * math.prod(frame_shape) * dtype.itemsize

    def write(self, column: np.ndarray, row: np.ndarray, obs: np.ndarray) -> None:
        """Write the newest frame of each observation [W, K·C, …], or frames [W, *frame], to these
        environments and rows [W].
        """
        again = self._span - 1
        if self._on_host is not None:
            obs = np.ascontiguousarray(obs)
            kernels.write_frames(
                self._on_host, self._rows, again, column, row, obs, self._frame_bytes
            )
            return
        place = column * self._pitch + row
        frames = obs.reshape(len(obs), math.prod(obs.shape[1:]))[:, -self._size :]
        twice = np.flatnonzero(row < again)
        place = np.concatenate((place, place[twice] + self._rows))
        frames = np.concatenate((frames, frames[twice]))
        values = self._sent(frames).view(self._word)
        self._frames.index_copy_(0, self._sent(place), values)

    def new_memory(self, count: int, frames: int, *, pinned: bool) -> Tensor:
        """Allocate memory [count, frames, *frame] for `read`. A GPU copies from `pinned` host
        memory asynchronously.
        """
        shape = (count, frames, *self._frame_shape)
        if self._on_host is not None and not pinned:
            # NumPy requests huge pages, torch does not.
            return torch.from_numpy(np.empty(shape, self._host_dtype))
        pin = pinned and self._on_host is not None
        return torch.empty(shape, dtype=self._dtype, device=self._frames.device, pin_memory=pin)

    def read(
        self,
        slot: np.ndarray,
        steps: np.ndarray | None,
        depth: np.ndarray,
        before: int,
        *,
        out: Tensor,
    ) -> None:
        """For each of B slots, read F ≤ span consecutive frames into `out` [B, F, *frame].

        The first is `before` rows before the row that is `steps` [B] (default 0) after the slot.
        Frames more than `depth` [B] rows before the slot are set to zero.
        """
        if self._on_host is not None:
            kernels.copy_stretches(
                self._on_host,
                self._rows,
                self._span - 1,
                self._frame_bytes,
                slot,
                steps,
                depth,
                before,
                out.numpy(),
            )
            return
        column, row = np.divmod(slot, self._rows)
        later = (0 if steps is None else steps) - before
        place = column * self._pitch + (row + later) % self._rows
        missing = -later - depth
        count, frames = out.shape[:2]
        words = out.view(count, -1).view(self._word)
        places, width = self._frames.shape
        stretches = self._frames.as_strided((places - frames + 1, frames * width), (width, 1))
        torch.index_select(stretches, 0, self._sent(place), out=words)
        blank = np.flatnonzero(np.arange(frames) < missing[:, None])
        if len(blank):
            out.flatten(0, 1).index_fill_(0, self._sent(blank), 0)

    def _sent(self, values: np.ndarray) -> Tensor:
        """Copy to the store's GPU, from pinned memory: this call does not wait, operations on the
        copy do.
        """
        return torch.from_numpy(values).pin_memory().to(self._frames.device, non_blocking=True)

    def contiguous(self, column: int, row: int, count: int) -> np.ndarray:
        """Return frames [count, size] of consecutive rows of one environment; on the host, a view
        of the store's memory.
        """
        first = column * self._pitch + row
        words = self._frames[first : first + count]
        frames: np.ndarray = words.view(self._dtype).cpu().numpy()
        return frames
