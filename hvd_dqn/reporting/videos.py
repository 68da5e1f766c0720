"""Play episodes to look at: each frame shows the environment and the policy's Q-values."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from hvd_dqn.acting.exploration import Values, epsilon_greedy
from hvd_dqn.common.seeding import Stream, derived_seed
from hvd_dqn.config import Config
from hvd_dqn.envs import VectorEnvironment, make_vector_env
from hvd_dqn.spaces.actions import places_of

_PANEL_WIDTH = 320
_SHORT_SIDE, _LONG_SIDE = 320, 1280
"""Pixels: an image is enlarged until its short side has `_SHORT_SIDE`, unless its long side would
exceed `_LONG_SIDE`."""
_TEXT, _BACKGROUND, _BAR, _CHOSEN = "#e6e6e6", "#16181d", "#4f6d8f", "#f2a33a"
_GIF_STEPS, _GIF_FPS = 500, 15.0
"""Length and speed of the episodes that a run records."""
_SHORTEST_GIF_FRAME = 0.02
"""Seconds; browsers slow down shorter frames."""


class PlayedStep(NamedTuple):
    """One step of an episode: image [H, W, 3] uint8, Q-values [A], the places of those of
    the action taken, the return before it, and the numbers of the step and of the episode.
    """

    image: np.ndarray
    q_values: np.ndarray
    chosen: list[int]
    episode_return: float
    step: int
    episode: int


class FrameWriter(Protocol):
    """Takes the frames of a video: a file or a window."""

    def write(self, frame: np.ndarray) -> bool:
        """Write a frame [H, W, 3] uint8. Return whether to continue."""
        ...

    def close(self) -> None:
        """End the video."""
        ...


class GifWriter:
    """Writes a GIF of 256 colours per frame."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._milliseconds = 1000 * max(1 / fps, _SHORTEST_GIF_FRAME)
        self._images: list[Image.Image] = []

    def write(self, frame: np.ndarray) -> bool:
        """Keep the frame in memory."""
        image = Image.fromarray(frame)
        self._images.append(image.quantize(256, method=Image.Quantize.FASTOCTREE))
        return True

    def close(self) -> None:
        """Write the file, if there are frames."""
        if self._images:
            first, *rest = self._images
            first.save(
                self._path,
                save_all=True,
                append_images=rest,
                duration=self._milliseconds,
                loop=0,
                optimize=False,
            )


def draw_frame(played: PlayedStep, action_names: list[str]) -> np.ndarray:
    """Return the image, enlarged if it is small, with a panel of Q-values to its right:
    [H, W, 3] uint8, H and W even.
    """
    height, width = played.image.shape[:2]
    enough = -(-_SHORT_SIDE // min(height, width))
    factor = max(1, min(enough, _LONG_SIDE // max(height, width)))
    image = played.image.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = image.shape[:2]
    size = width + _PANEL_WIDTH + width % 2, height + height % 2
    frame = Image.new("RGB", size, _BACKGROUND)
    frame.paste(Image.fromarray(image), (0, 0))
    _draw_panel(ImageDraw.Draw(frame), width, height, played, action_names)
    return np.asarray(frame)


def _draw_panel(
    draw: ImageDraw.ImageDraw, left: int, height: int, played: PlayedStep, action_names: list[str]
) -> None:
    font, margin = ImageFont.load_default(size=15), 16
    heading = [
        f"episode {played.episode + 1} · step {played.step}",
        f"return {played.episode_return:,.2f}",
        "Q-values",
    ]
    for number, text in enumerate(heading):
        draw.text((left + margin, margin + 22 * number), text, fill=_TEXT, font=font)
    top = margin + 22 * len(heading) + 8
    line_height = min(34, (height - top - margin) // len(played.q_values))
    if line_height < 8:
        return  # too many actions for the panel
    small = ImageFont.load_default(size=min(13, line_height - 2))
    legal = played.q_values[np.isfinite(played.q_values)]
    low, high = float(legal.min()), float(legal.max())
    longest = _PANEL_WIDTH - 2 * margin - 150
    for action, value in enumerate(played.q_values):
        y = top + line_height * action
        draw.text((left + margin, y), action_names[action][:12], fill=_TEXT, font=small)
        if not np.isfinite(value):
            draw.text((left + margin + 90, y), "illegal", fill=_TEXT, font=small)
            continue
        share = (float(value) - low) / (high - low) if high > low else 1.0
        colour = _CHOSEN if action in played.chosen else _BAR
        start = left + margin + 90
        draw.rectangle(
            (start, y + 1, start + 2 + longest * share, y + line_height - 5), fill=colour
        )
        draw.text((start + longest + 10, y), f"{value:.4g}", fill=_TEXT, font=small)


class EpisodeRecorder:
    """Plays episodes in its own copy of a run's environment, which renders images."""

    def __init__(
        self,
        config: Config,
        *,
        seed: int,
        on_step: Callable[[], None] = lambda: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`seed` selects the episodes. `on_step` is called at every step; `should_stop` ends the
        playing.

        Raises `UserError` if the environment does not render images.
        """
        self._should_stop = should_stop
        self._envs: VectorEnvironment = make_vector_env(
            config.evaluation_env.in_this_process,
            num_envs=1,
            first_copy=2 * config.env.num_envs,
            episode_seed=lambda copy, number: derived_seed(seed, Stream.EVALUATION, number),
            max_episode_steps=config.evaluation.max_episode_steps,
            pictures=True,
            on_step=on_step,
        )
        self._seed = seed

    def play(
        self,
        q_values_of: Callable[[np.ndarray], np.ndarray],
        writer: FrameWriter,
        *,
        episodes: int = 1,
        epsilon: float = 0.0,
        max_steps: int,
        frame_skip: int = 1,
    ) -> list[float]:
        """Play the first `episodes`, at most `max_steps` steps of each, and write every
        `frame_skip`-th step as a frame until `writer` ends it. Return the return of each episode as
        far as it was played.

        `q_values_of` maps observations [1, *shape] to Q-values [1, A]; a share `epsilon` of the
        actions is random.
        """
        envs, rng, returns = self._envs, np.random.default_rng(self._seed), []
        size: tuple[int, int] | None = None
        names = envs.action_names()
        for episode in range(episodes):
            obs, episode_return = envs.reset(episode), 0.0
            returns.append(episode_return)
            for step in range(max_steps):
                values = q_values_of(obs)
                action = _choose(envs, obs, values, epsilon, rng)
                if step % frame_skip == 0:
                    image = envs.picture()
                    size = size or (image.shape[0], image.shape[1])
                    image = _fitted(image, size)
                    chosen = places_of(action, envs.branches)
                    played = PlayedStep(image, values[0], chosen, episode_return, step, episode)
                    if not writer.write(draw_frame(played, names)) or self._should_stop():
                        return returns
                result = envs.step(np.array([action]))
                ended = bool(result.ended[0])
                episode_return = (
                    result.episodes[0].episode_return if ended else float(envs.returns[0])
                )
                returns[-1], obs = episode_return, result.obs
                if ended:
                    break
        return returns

    def record_gif(self, q_values_of: Callable[[np.ndarray], np.ndarray], path: Path) -> bool:
        """Write the beginning of the first episode to `path`, every second step. Return whether it
        was written, that is, not stopped. Raises `OSError` and whatever the environment raises.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        try:
            with closing(GifWriter(partial, _GIF_FPS)) as gif:
                self.play(q_values_of, gif, max_steps=_GIF_STEPS, frame_skip=2)
            if self._should_stop():
                return False
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Close the environment."""
        self._envs.close()


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the image at `size`, (H, W): reduced or enlarged in proportion, with black margins."""
    if image.shape[:2] == size:
        return image
    height, width = size
    fitted = ImageOps.pad(Image.fromarray(image), (width, height), color="black")
    return np.asarray(fitted)


def _choose(
    envs: VectorEnvironment,
    obs: np.ndarray,
    values: np.ndarray,
    epsilon: float,
    rng: np.random.Generator,
) -> int:
    """Return an ε-greedy action for observations [1, *shape] and their action values [1, A]."""
    action = epsilon_greedy(
        np.array([epsilon]),
        envs.num_actions,
        Values(lambda: values, envs.branches),
        rng,
        legal=envs.legal_actions(obs),
    )
    return int(action[0])
