"""Frame stacking: from raw frames to stored frames and observations."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from hvd_dqn.spaces.channels import given_channels
from hvd_dqn.spaces.records import RecordSpace, stored_dtype


class FrameStack:
    """Stacks the newest `length` frames, channels first, along the first axis.

    An image H×W×C becomes C×H×W if its `channels` are last; a grey image H×W of bytes becomes
    1×H×W. Bytes and booleans are stored as uint8, other types as float32. Frames [C, …] give
    observations [length·C, …], oldest first, zero-padded at the start of an episode, as in dqn_zoo
    and Dopamine.

    `channels` of observations with three axes are the "first" or the "last" one, guessed by the
    shape if "auto"; the attribute is `None` if that fails, and for all other observations.
    """

    def __init__(self, raw_space: gym.spaces.Box, length: int, channels: str = "auto") -> None:
        self.raw_space = raw_space
        self.length = length
        self.dtype = stored_dtype(raw_space.dtype)
        self.channels = given_channels(raw_space.shape, channels)
        # The order of a batch's axes as stored; `None` if a channel axis must be added.
        self._axes: tuple[int, ...] | None
        if len(raw_space.shape) == 2 and self.dtype == np.uint8:
            self._axes = None
        elif self.channels == "last":
            self._axes = (0, 3, 1, 2)
        else:
            self._axes = tuple(range(len(raw_space.shape) + 1))
        low, high = (
            np.ascontiguousarray(self._stored(bound[None])[0], dtype=self.dtype)
            for bound in (raw_space.low, raw_space.high)
        )
        self.frame_shape: tuple[int, ...] = low.shape
        self.obs_space: gym.spaces.Box
        if isinstance(raw_space, RecordSpace):
            self.obs_space = raw_space.stacked(length)
            return
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
