"""What environments render, as RGB images."""

from __future__ import annotations

from typing import Any

import numpy as np

from hvd_dqn.common.errors import UserError


class Pictures:
    """Converts the pictures of one environment: RGB, RGBA or grey, of integers, floats or booleans.

    Floats are in 0 … 1, unless one of the pictures so far exceeds 1: then they are in 0 … 255.
    """

    def __init__(self) -> None:
        self._factor = 255.0

    def rgb(self, drawn: Any) -> np.ndarray:
        """Return `drawn`, [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], as [H, W, 3] uint8.

        Raises `UserError` for anything else.
        """
        picture = np.asarray(drawn)
        if picture.ndim == 2:
            picture = picture[:, :, None]
        usable = picture.ndim == 3 and picture.shape[2] in (1, 3, 4) and picture.size > 0
        if not usable or picture.dtype.kind not in "biuf":
            found = "nothing" if drawn is None else f"{picture.dtype} of shape {picture.shape}"
            raise UserError(
                f'with render_mode="rgb_array", the environment renders {found}',
                "an image [H, W, 3], [H, W, 4] or [H, W] is required",
            )
        if picture.dtype.kind == "b":
            picture = picture.astype(np.uint8) * 255
        elif picture.dtype.kind == "f":
            picture = np.nan_to_num(picture)
            if picture.max() > 1:
                self._factor = 1.0
            picture = np.rint(self._factor * picture)
        colours = np.clip(picture[:, :, :3], 0, 255).astype(np.uint8)
        return np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else colours
