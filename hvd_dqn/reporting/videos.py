"""An episode to look at: the environment's picture, and beside it what the policy thinks of every
action.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hvd_dqn.acting.exploration import epsilon_greedy
from hvd_dqn.common.seeding import Stream, derived_seed
from hvd_dqn.config import Config
from hvd_dqn.envs import VectorEnvironment, make_vector_env

_SIDE = 320
"""Pixels of the panel's width, and of a picture's shorter side at least, unless its longer one
would have more than `_WIDEST`."""
_WIDEST = 1280
_INK, _PAPER, _BAR, _CHOSEN = "#e6e6e6", "#16181d", "#4f6d8f", "#f2a33a"
_FILM_STEPS, _FILM_FPS = 500, 15.0
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


class EpisodeRecorder:
    """One copy of a run's environment that can be looked at."""

    def __init__(
        self,
        config: Config,
        *,
        seed: int,
        beat: Callable[[], None] = lambda: None,
        wants_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`seed`: which episodes; `beat` is called at every step."""
        self._wants_stop = wants_stop
        self._envs: VectorEnvironment = make_vector_env(
            dataclasses.replace(config.env, vectorization="sync"),
            num_envs=1,
            episode_seed=lambda copy, number: derived_seed(seed, Stream.EVALUATION, number),
            max_episode_steps=config.evaluation.max_episode_steps,
            pictures=True,
        )
        self._envs.beat = beat
        self._seed = seed

    def play(
        self,
        values_of: Callable[[np.ndarray], np.ndarray],
        screen: Screen,
        *,
        episodes: int = 1,
        epsilon: float = 0.0,
        max_steps: int,
        every: int = 1,
    ) -> list[float]:
        """Show the first episodes, each as far as so many steps and `every` so many of them, while
        somebody looks: their returns so far. `values_of` gives action values [1, A] of observations
        [1, *shape]. `UserError` where the environment draws no pictures.
        """
        envs, rng, returns = self._envs, np.random.default_rng(self._seed), []
        names = envs.action_names()
        for episode in range(episodes):
            obs, so_far = envs.reset(episode), 0.0
            returns.append(so_far)
            for steps in range(max_steps):
                values = values_of(obs)
                action = _choose(values, epsilon, rng)
                if steps % every == 0:
                    moment = Moment(envs.picture(), values[0], action, so_far, steps, episode)
                    if not screen.show(compose(moment, names)) or self._wants_stop():
                        return returns
                step = envs.step(np.array([action]))
                ended = bool(step.ended[0])
                so_far = step.episodes[0].episode_return if ended else float(envs.returns[0])
                returns[-1], obs = so_far, step.obs
                if ended:
                    break
        return returns

    def film(self, values_of: Callable[[np.ndarray], np.ndarray], path: Path) -> bool:
        """The first episode as a GIF, every second one of its first steps; whether there is one,
        and no stop came between. `OSError`, and what the environment raises.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        try:
            with closing(Gif(partial, _FILM_FPS)) as gif:
                self.play(values_of, gif, max_steps=_FILM_STEPS, every=2)
            if self._wants_stop():
                return False
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """End the environment."""
        self._envs.close()


def _choose(values: np.ndarray, epsilon: float, rng: np.random.Generator) -> int:
    """Return an ε-greedy action for action values [1, A]."""
    return int(epsilon_greedy(np.array([epsilon]), values.shape[1], lambda: values, rng)[0])
