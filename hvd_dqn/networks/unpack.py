"""From records of bytes to features: the first modules of a network whose observations are not one
Box.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from hvd_dqn.config import NetworkConfig
from hvd_dqn.networks.scaling import RunningScaling, make_scaling
from hvd_dqn.networks.torsos.registry import make_torso
from hvd_dqn.spaces.channels import Channels
from hvd_dqn.spaces.records import MASK, Field, RecordSpace, is_grid

_MOST_ONE_HOT = 4096
"""Discrete fields with more values in all get an embedding of `_EMBEDDING_SIZE` numbers."""
_EMBEDDING_SIZE = 64
_DTYPES = {np.dtype(t): getattr(torch, np.dtype(t).name) for t in (np.uint8, np.int32, np.float32)}

Records = Tensor | tuple[Tensor, ...]
"""Records as bytes [B, K·bytes], or the values of their fields, each [B, K, *shape]."""


class Unpack(nn.Module):
    """Takes the fields out of K stacked records: bytes [B, K·bytes] to one tensor for each field,
    float32. Images become [B, K·C, H, W], all others vectors [B, F].

    Exported programs, in which bytes cannot become numbers, give it the fields' values.
    """

    def __init__(self, config: NetworkConfig, space: RecordSpace) -> None:
        super().__init__()
        self._frames = space.frames
        self._bytes = space.layout.itemsize
        self._places = [_place(space, field) for field in space.fields if field.name != MASK]
        self.names = [field.name for field in space.fields if field.name != MASK]
        self.fields = nn.ModuleList(
            _module_of(config, field, space.frames, space.channels_of(field))
            for field in space.fields
            if field.name != MASK
        )
        mask = next((field for field in space.fields if field.name == MASK), None)
        self._mask = None if mask is None else _place(space, mask)[0]

    @property
    def has_mask(self) -> bool:
        """Whether the records say which actions are legal."""
        return self._mask is not None

    def forward(self, records: Records) -> list[Tensor]:
        """Return the values of the fields, in their order."""
        return [
            module(values) for module, values in zip(self.fields, self._raw(records), strict=True)
        ]

    def running(self, records: Records) -> list[tuple[RunningScaling, Tensor]]:
        """Return the layers with running statistics, and what they scale, [B, K, *shape]."""
        return [
            (cast(RunningScaling, module.scaling), values)
            for module, values in zip(self.fields, self._raw(records), strict=True)
            if isinstance(getattr(module, "scaling", None), RunningScaling)
        ]

    def _raw(self, records: Records) -> Iterator[Tensor]:
        """Yield the values of each field as they are stored, [B, K, *shape]."""
        if isinstance(records, tuple):
            yield from records[: len(self._places)]
            return
        stacks = records.view(records.shape[0], self._frames, self._bytes)
        for part, dtype, shape in self._places:
            raw = stacks[:, :, part].contiguous().view(dtype)
            yield raw.view(*raw.shape[:2], *shape)

    def legal(self, records: Records) -> Tensor:
        """Return the masks of the newest records, [B, A] bool."""
        if isinstance(records, tuple):
            return records[-1][:, -1] != 0
        newest = records.view(records.shape[0], self._frames, self._bytes)[:, -1]
        return newest[:, self._mask] != 0


class Joined(nn.Module):
    """The torso of records: each image goes through the torso that `network.torso` names; their
    features and the vectors are joined.
    """

    def __init__(self, torsos: list[nn.Module]) -> None:
        super().__init__()
        self.torsos = nn.ModuleList(torsos)

    def forward(self, values: list[Tensor]) -> Tensor:
        """Return features [B, F] of the values of all fields."""
        return torch.cat(
            [torso(value) for torso, value in zip(self.torsos, values, strict=True)], dim=1
        )


def make_joined(config: NetworkConfig, unpack: Unpack) -> tuple[Joined, int]:
    """Return the torso of these records and its number of features F. Raises `ConfigError` if the
    torso that `network.torso` names cannot take an image among them.
    """
    torsos: list[nn.Module] = []
    features = 0
    for field in unpack.fields:
        shape: tuple[int, ...] = cast(Any, field).shape
        if len(shape) == 1:
            torso, count = cast("nn.Module", nn.Identity()), shape[0]
        elif config.torso == "mlp":
            torso, count = nn.Flatten(), math.prod(shape)
        else:
            torso, count = make_torso(config, shape)
        torsos.append(torso)
        features += count
    return Joined(torsos), features


class Numbers(nn.Module):
    """Numbers of a field, [B, K, *shape]; an image's axes are brought in order."""

    def __init__(
        self,
        scaling: nn.Module,
        field_shape: tuple[int, ...],
        frames: int,
        channels: Channels | None = None,
    ) -> None:
        super().__init__()
        self.scaling = scaling
        self._axes, image = _axes_of_image(field_shape, channels)
        self.shape = _stacked_shape(frames, image, field_shape)

    def forward(self, values: Tensor) -> Tensor:
        """Return [B, *shape], scaled."""
        values = self.scaling(values.to(torch.float32))
        if self._axes is not None:
            values = values.permute(self._axes)
        return values.reshape(values.shape[0], *self.shape)


class OneHot(nn.Module):
    """Discrete values [B, K, *shape], each one-hot; those of a grid with a last axis of channels
    become the planes of an image.
    """

    offsets: Tensor

    def __init__(self, choices: np.ndarray, frames: int) -> None:
        """`choices` [*shape]: the number of values of each."""
        super().__init__()
        self._is_grid = is_grid(choices)
        counts = choices[0, 0] if self._is_grid else choices.reshape(-1)
        self._total = int(counts.sum()) * frames
        starts = np.cumsum(np.concatenate(([0], np.tile(counts, frames)[:-1])))
        self.register_buffer("offsets", torch.from_numpy(starts), persistent=False)
        self.shape = (self._total, *choices.shape[:2]) if self._is_grid else (self._total,)

    def forward(self, values: Tensor) -> Tensor:
        """Return [B, *shape], of 0 and 1."""
        return self._flags(self._numbers(values))

    def _numbers(self, values: Tensor) -> Tensor:
        """Return the places of the ones: [B, K·C, H, W] or [B, K·n]."""
        values = values.to(torch.int64)
        if self._is_grid:
            values = values.permute(0, 1, 4, 2, 3).flatten(1, 2)
            return values + self.offsets.view(-1, 1, 1)
        return values.flatten(1) + self.offsets

    def _flags(self, places: Tensor) -> Tensor:
        flags = places.new_zeros((places.shape[0], *self.shape), dtype=torch.float32)
        return flags.scatter_(1, places, 1.0)


class Embedded(OneHot):
    """Discrete values with too many choices for one-hot vectors: the sum of their embeddings."""

    def __init__(self, choices: np.ndarray, frames: int) -> None:
        super().__init__(choices.reshape(-1), frames)
        self.embedding = nn.Embedding(self._total, _EMBEDDING_SIZE)
        self.shape = (_EMBEDDING_SIZE,)

    def forward(self, values: Tensor) -> Tensor:
        """Return [B, F]."""
        embedded: Tensor = self.embedding(self._numbers(values)).sum(dim=1)
        return embedded


def _place(space: RecordSpace, field: Field) -> tuple[slice, torch.dtype, tuple[int, ...]]:
    """Return the bytes of a field in a record, their type and shape."""
    assert space.layout.fields is not None
    kind, offset = space.layout.fields[field.name][:2]
    return slice(offset, offset + kind.itemsize), _DTYPES[field.dtype], field.shape


def _module_of(
    config: NetworkConfig, field: Field, frames: int, channels: Channels | None
) -> nn.Module:
    choices = field.choices
    if choices is not None:
        too_many = choices.sum() > _MOST_ONE_HOT
        return (Embedded if too_many else OneHot)(choices, frames)
    if isinstance(field.space, gym.spaces.MultiBinary):
        return Numbers(nn.Identity(), field.shape, frames)
    assert isinstance(field.space, gym.spaces.Box)
    low, high = (
        bound.reshape(field.shape).astype(field.dtype)
        for bound in (field.space.low, field.space.high)
    )
    box: gym.spaces.Box = gym.spaces.Box(low, high, dtype=field.dtype.type)
    return Numbers(make_scaling(config, box), field.shape, frames, channels)


def _axes_of_image(
    shape: tuple[int, ...], channels: Channels | None
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Return how to permute [B, K, *shape], if it is necessary, and the shape [C, H, W] of an
    image; `None` if it is not one.
    """
    if channels == "last":
        return (0, 1, 4, 2, 3), (shape[2], *shape[:2])
    return None, shape if channels == "first" else None


def _stacked_shape(
    frames: int, image: tuple[int, ...] | None, shape: tuple[int, ...]
) -> tuple[int, ...]:
    if image is not None:
        return (frames * image[0], *image[1:])
    return (frames * math.prod(shape),)
