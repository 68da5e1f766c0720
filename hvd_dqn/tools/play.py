"""An episode to look at: the environment's picture, and beside it what the policy thinks of every
action; in a window, or as MP4 or GIF.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hvd_dqn.envs import make_vector_env
from hvd_dqn.errors import UserError
from hvd_dqn.files import room_for
from hvd_dqn.policy import Policy
from hvd_dqn.seeding import Stream, derived_seed

_SIDE = 320
"""Pixels of the panel's width, and of a picture's shorter side at least, unless its longer one
would have more than `_WIDEST`."""
_WIDEST = 1280
_INK, _PAPER, _BAR, _CHOSEN = "#e6e6e6", "#16181d", "#4f6d8f", "#f2a33a"
_GIF_SECONDS = 0.02
"""The shortest time of a GIF's frame that browsers keep to."""


class Moment(NamedTuple):
    """What is shown of one step: picture [H, W, 3] uint8, action values [A], the action taken, the
    return so far and the episode's number of steps and its own.
    """

    picture: np.ndarray
    values: np.ndarray
    action: int
    so_far: float
    steps: int
    episode: int


class Screen(Protocol):
    """Where pictures go."""

    def show(self, picture: np.ndarray) -> bool:
        """One picture [H, W, 3]; whether somebody still looks."""
        ...

    def close(self) -> None:
        """No more come."""
        ...


def compose(moment: Moment, names: list[str]) -> np.ndarray:
    """The picture, enlarged where it is small, and a panel to its right: [H, W, 3], both even."""
    height, width = moment.picture.shape[:2]
    factor = max(1, min(-(-_SIDE // min(height, width)), _WIDEST // max(height, width)))
    picture = moment.picture.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = picture.shape[0], picture.shape[1]
    whole = Image.new("RGB", (width + _SIDE + width % 2, height + height % 2), _PAPER)
    whole.paste(Image.fromarray(picture), (0, 0))
    _draw_panel(ImageDraw.Draw(whole), width, height, moment, names)
    return np.asarray(whole)


def _draw_panel(
    draw: ImageDraw.ImageDraw, left: int, height: int, moment: Moment, names: list[str]
) -> None:
    font, margin = ImageFont.load_default(size=15), 16
    head = [
        f"episode {moment.episode + 1} · step {moment.steps}",
        f"return so far {moment.so_far:,.2f}",
    ]
    for line, text in enumerate(head):
        draw.text((left + margin, margin + 22 * line), text, fill=_INK, font=font)
    top = margin + 22 * len(head) + 14
    pitch = min(34, (height - top - margin) // len(moment.values))
    if pitch < 8:
        return  # more actions than lines
    small = ImageFont.load_default(size=min(13, pitch - 2))
    low, high = float(moment.values.min()), float(moment.values.max())
    room = _SIDE - 2 * margin - 150
    for number, value in enumerate(moment.values):
        y = top + pitch * number
        share = (float(value) - low) / (high - low) if high > low else 1.0
        colour = _CHOSEN if number == moment.action else _BAR
        draw.text((left + margin, y), names[number][:12], fill=_INK, font=small)
        start = left + margin + 90
        draw.rectangle((start, y + 1, start + 2 + room * share, y + pitch - 5), fill=colour)
        draw.text((start + room + 10, y), f"{value:.3g}", fill=_INK, font=small)


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


class Gif:
    """Pictures as GIF, of 256 colours each."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._milliseconds = 1000 * max(1 / fps, _GIF_SECONDS)
        self._pictures: list[Image.Image] = []

    def show(self, picture: np.ndarray) -> bool:
        """One more."""
        image = Image.fromarray(picture)
        self._pictures.append(image.quantize(256, method=Image.Quantize.FASTOCTREE))
        return True

    def close(self) -> None:
        """Write the file."""
        if self._pictures:
            first, *rest = self._pictures
            first.save(
                self._path,
                save_all=True,
                append_images=rest,
                duration=self._milliseconds,
                loop=0,
                optimize=False,
            )


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
    room_for(video)
    screen: Screen = kinds[video.suffix](video, fps)
    return screen


def play(
    policy: Policy,
    screen: Screen,
    *,
    episodes: int,
    epsilon: float,
    seed: int,
    max_steps: int,
) -> list[float]:
    """Show episodes, each as far as so many steps, while somebody looks: their returns so far.
    `UserError` where the environment draws no pictures.
    """
    config = policy.config
    envs = make_vector_env(
        dataclasses.replace(config.env, vectorization="sync"),
        num_envs=1,
        episode_seed=lambda copy, number: derived_seed(seed, Stream.EVALUATION, number),
        max_episode_steps=config.evaluation.max_episode_steps,
        pictures=True,
    )
    rng, returns = np.random.default_rng(seed), []
    try:
        names = envs.action_names()
        for episode in range(episodes):
            obs, so_far = envs.reset(episode), 0.0
            returns.append(so_far)
            for steps in range(max_steps):
                values = policy.values_of(obs)[0]
                random = rng.random() < epsilon
                action = int(rng.integers(envs.num_actions) if random else values.argmax())
                moment = Moment(envs.picture(), values, action, so_far, steps, episode)
                if not screen.show(compose(moment, names)):
                    return returns
                step = envs.step(np.array([action]))
                ended = bool(step.ended[0])
                so_far = step.episodes[0].episode_return if ended else float(envs.returns[0])
                returns[-1], obs = so_far, step.obs
                if ended:
                    break
        return returns
    finally:
        screen.close()
        envs.close()
