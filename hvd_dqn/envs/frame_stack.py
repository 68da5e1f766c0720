"""Frame stacking: from raw frames to stored frames and observations."""

from __future__ import annotations

import gymnasium as gym
import numpy as np


class FrameStack:
    """Stacks the newest `length` frames, channels first, along the first axis.

    An image H×W×C becomes C×H×W, unless its first axis is smaller than its last one, which means
    that channels are already first; a grey image H×W of bytes becomes 1×H×W. Bytes and booleans are
    stored as uint8, other types as float32. Frames [C, …] give observations [length·C, …], oldest
    first, zero-padded at the start of an episode, as in dqn_zoo and Dopamine.
    """

    def __init__(self, raw_space: gym.spaces.Box, length: int) -> None:
        self.raw_space = raw_space
        self.length = length
        is_bytes = raw_space.dtype in (np.dtype(np.uint8), np.dtype(np.bool_))
        self.dtype = np.dtype(np.uint8 if is_bytes else np.float32)
        self._axes = _stored_axes(raw_space.shape, is_bytes)
        low, high = (
            np.ascontiguousarray(self._stored(bound[None])[0], dtype=self.dtype)
            for bound in (raw_space.low, raw_space.high)
        )
        self.frame_shape: tuple[int, ...] = low.shape
        # Older frames may be padding, and the raw space need not contain 0.
        older_low, older_high = np.minimum(low, 0), np.maximum(high, 0)
        self.obs_space = gym.spaces.Box(
            np.concatenate([older_low] * (length - 1) + [low]),
            np.concatenate([older_high] * (length - 1) + [high]),
            dtype=self.dtype.type,
        )

    def first(self, raw: np.ndarray) -> np.ndarray:
        """Return observations [N, length·C, …] of episodes that begin with raw frames [N, …]."""
        obs = np.zeros((len(raw), *self.obs_space.shape), dtype=self.dtype)
        obs[:, -self.frame_shape[0] :] = self._stored(raw)
        return obs

    def following(self, obs: np.ndarray, raw: np.ndarray) -> np.ndarray:
        """Return the observations that follow `obs`, with raw frames [N, …], in new memory."""
        if self.length == 1:
            return np.array(self._stored(raw), dtype=self.dtype, order="C")
        channels = self.frame_shape[0]
        following = np.empty_like(obs)
        following[:, :-channels] = obs[:, channels:]
        following[:, -channels:] = self._stored(raw)
        return following

    def _stored(self, raw: np.ndarray) -> np.ndarray:
        return raw[:, None] if self._axes is None else raw.transpose(self._axes)


def _stored_axes(shape: tuple[int, ...], is_bytes: bool) -> tuple[int, ...] | None:
    """Return the order of a batch's axes as stored; `None` if a channel axis must be added."""
    if len(shape) == 2 and is_bytes:
        return None
    if len(shape) == 3 and shape[0] >= shape[2]:
        return (0, 3, 1, 2)
    return tuple(range(len(shape) + 1))
