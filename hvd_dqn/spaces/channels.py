"""Which axis of a three-dimensional observation holds an image's channels."""

from __future__ import annotations

from typing import Literal

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


def given_channels(shape: tuple[int, ...], channels: str) -> Channels | None:
    """Return the axis that `channels` names, "first" or "last", or the guess if it is "auto";
    `None` without three axes.
    """
    if channels == "auto" or len(shape) != 3:
        return guess_channels(shape)
    return "first" if channels == "first" else "last"


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether observations of this shape can be images: whether two neighbouring ones of three axes
    are as long as the smallest kernel.
    """
    if len(shape) != 3:
        return False
    first, middle, last = (length >= SMALLEST_IMAGE for length in shape)
    return middle and (first or last)
