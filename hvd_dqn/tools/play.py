"""Where an episode is shown: in a window, or as MP4 or GIF."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import require_writable
from hvd_dqn.reporting.videos import Gif, Screen


class Mp4:
    """Pictures as MP4 (H.264)."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._writer: Any = None
        try:
            import imageio_ffmpeg

            imageio_ffmpeg.get_ffmpeg_exe()
        except ImportError as error:
            raise UserError(
                "MP4 needs the package 'imageio-ffmpeg', which brings ffmpeg",
                "pip install 'hvd_dqn[video]', or name the file .gif",
            ) from error
        except RuntimeError as error:
            raise UserError(
                "MP4 needs ffmpeg, and there is none here", "install it, or name the file .gif"
            ) from error
        self._write_frames = imageio_ffmpeg.write_frames

    def show(self, picture: np.ndarray) -> bool:
        """One more."""
        if self._writer is None:
            size = picture.shape[1], picture.shape[0]
            self._writer = self._write_frames(
                str(self._path), size, fps=self._fps, macro_block_size=2, quality=8
            )
            self._writer.send(None)
        self._writer.send(np.ascontiguousarray(picture))
        return True

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()


class Window:
    """Pictures in a window, at their own pace."""

    def __init__(self, title: str, fps: float) -> None:
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UserError("there is no screen here", "name a file: --video episode.mp4, or .gif")
        try:
            os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
            import pygame
        except ImportError as error:
            raise UserError(
                "a window needs the package 'pygame'",
                "pip install 'hvd_dqn[video]', or name a file: --video episode.gif",
            ) from error
        self._pygame, self._fps = pygame, fps
        self._title, self._surface = title, None
        self._next = time.monotonic()

    def show(self, picture: np.ndarray) -> bool:
        """One picture, when it is due; not where the window was closed."""
        pygame = self._pygame
        if self._surface is None:
            try:
                pygame.display.init()
                self._surface = pygame.display.set_mode((picture.shape[1], picture.shape[0]))
            except pygame.error as error:
                raise UserError(
                    f"no window can be opened ({error})", "name a file: --video episode.gif"
                ) from error
            pygame.display.set_caption(self._title)
        surface: Any = self._surface
        pygame.surfarray.blit_array(surface, picture.transpose(1, 0, 2))
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
        """Close it."""
        self._pygame.display.quit()


def open_screen(video: Path | None, title: str, fps: float) -> Screen:
    """A file by its ending, or a window. `UserError` where it cannot be had."""
    if video is None:
        return Window(title, fps)
    kinds: dict[str, Any] = {".mp4": Mp4, ".gif": Gif}
    if video.suffix not in kinds:
        raise UserError(f"--video {video}", "name it .mp4 or .gif")
    require_writable(video)
    screen: Screen = kinds[video.suffix](video, fps)
    return screen
