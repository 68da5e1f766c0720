"""Which axis of a three-dimensional observation holds an image's channels."""

from __future__ import annotations

from typing import Literal

from hvd_dqn.common.errors import UserError

Channels = Literal["first", "last"]
"""The first or the last of three axes."""

SMALLEST_IMAGE = 3
"""Rows and columns that an image has at least: those of the smallest kernel."""
_RATIO = 3
"""How many times as long as the axis of the channels the other two are, if all three differ."""


def guess_channels(shape: tuple[int, ...]) -> Channels | None:
    """Return the axis of the channels of observations of this shape; `None` if they are not images
    or if the shape does not say.

    Of three axes, rows and columns are the two that are equal, unless these are the first and the
    last one. If all three differ, the channels are the first or the last if the other two are at
    least three times as long.
    """
    if not is_image(shape):
        return None
    first, middle, last = shape
    if (middle == last) != (first == middle):
        return "first" if middle == last else "last"
    if _RATIO * first <= min(middle, last):
        return "first"
    if _RATIO * last <= min(first, middle):
        return "last"
    return None


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether observations of this shape can be images: whether two neighbouring ones of three axes
    are as long as the smallest kernel.
    """
    if len(shape) != 3:
        return False
    first, middle, last = (length >= SMALLEST_IMAGE for length in shape)
    return middle and (first or last)


def require_channels(env_id: str, shape: tuple[int, ...], channels: str) -> None:
    """Raise `UserError` if `env.channels` is set and observations do not have three axes."""
    if channels != "auto" and len(shape) != 3:
        raise UserError(
            f"env.channels = {channels!r}: the observations of {env_id!r} have the shape {shape}, "
            "not three axes; leave it auto"
        )
