"""Show an episode in a window, or write it as MP4 or GIF."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import replacing, require_writable
from hvd_dqn.reporting.videos import FrameWriter, GifWriter

_USE_A_FILE = "write a file: --video episode.gif"


class Mp4Writer:
    """Writes MP4 (H.264) with ffmpeg."""

    def __init__(self, path: Path, fps: float) -> None:
        """Raises `UserError` if ffmpeg is missing."""
        self._path, self._fps = path, fps
        self._writer: Any = None
        try:
            import imageio_ffmpeg

            imageio_ffmpeg.get_ffmpeg_exe()
        except ImportError as error:
            raise UserError(
                "MP4 needs the package imageio-ffmpeg, which contains ffmpeg",
                "pip install 'hvd_dqn[video]', or name the file .gif",
            ) from error
        except RuntimeError as error:
            raise UserError(
                "MP4 needs ffmpeg, which is not installed", "install it, or name the file .gif"
            ) from error
        self._write_frames = imageio_ffmpeg.write_frames

    def write(self, frame: np.ndarray) -> bool:
        """Encode the frame; the first one sets the size."""
        if self._writer is None:
            size = frame.shape[1], frame.shape[0]
            self._writer = self._write_frames(
                str(self._path), size, fps=self._fps, macro_block_size=2, quality=8
            )
            self._writer.send(None)
        self._writer.send(np.ascontiguousarray(frame))
        return True

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()


class Window:
    """Shows frames in a window, in real time."""

    def __init__(self, title: str, fps: float) -> None:
        """Raises `UserError` if there is no screen or pygame is missing."""
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UserError("no display is available", _USE_A_FILE)
        try:
            os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
            import pygame
        except ImportError as error:
            raise UserError(
                "a window needs the package pygame-ce",
                f"pip install 'hvd_dqn[video]', or {_USE_A_FILE}",
            ) from error
        self._pygame, self._fps = pygame, fps
        self._title, self._surface = title, None
        self._next = time.monotonic()

    def write(self, frame: np.ndarray) -> bool:
        """Show the frame when it is due. Return False if the user has closed the window."""
        pygame = self._pygame
        if self._surface is None:
            try:
                pygame.display.init()
                self._surface = pygame.display.set_mode((frame.shape[1], frame.shape[0]))
            except pygame.error as error:
                raise UserError(f"a window cannot be opened ({error})", _USE_A_FILE) from error
            pygame.display.set_caption(self._title)
        surface: Any = self._surface
        pygame.surfarray.blit_array(surface, frame.transpose(1, 0, 2))
        pygame.display.flip()
        keys = (pygame.K_ESCAPE, pygame.K_q)
        for event in pygame.event.get():
            pressed = event.type == pygame.KEYDOWN and event.key in keys
            if event.type == pygame.QUIT or pressed:
                return False
        self._next = max(self._next + 1 / self._fps, time.monotonic())
        time.sleep(max(0.0, self._next - time.monotonic()))
        return True

    def close(self) -> None:
        """Close the window."""
        self._pygame.display.quit()


@contextmanager
def open_writer(video: Path | None, title: str, fps: float) -> Iterator[FrameWriter]:
    """Open the file `video`, MP4 or GIF by its extension, or a window if it is `None`, and close it
    at the end. If the block fails, no file remains.

    Raises `UserError` if it cannot be opened.
    """
    if video is None:
        with closing(Window(title, fps)) as window:
            yield window
        return
    kinds: dict[str, Any] = {".mp4": Mp4Writer, ".gif": GifWriter}
    if video.suffix not in kinds:
        raise UserError(f"--video {video}", "the file name must end in .mp4 or .gif")
    with (
        replacing(require_writable(video)) as file,
        closing(kinds[video.suffix](file, fps)) as writer,
    ):
        yield writer
