"""`hvd-dqn play`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from hvd_dqn.commands.options import OptionalFile, RunDir, parse
from hvd_dqn.common.errors import EXIT_OK, UserError

_EXAMPLES = (
    "hvd-dqn play runs/a",
    "hvd-dqn play runs/a --video episode.gif --max-steps 300",
)


@dataclass(frozen=True, kw_only=True)
class PlayOptions:
    """Watch a run's policy play, with what it thinks of every action beside the picture: in a
    window (Esc closes it), or as a video.
    """

    run_dir: RunDir
    """The run's directory."""
    video: OptionalFile = None
    """Write a file instead of opening a window: .mp4 or .gif."""
    network: str = "best"
    """best (by evaluation), newest, or the env steps of one of the networks kept."""
    episodes: int = 1
    """How many."""
    max_steps: int = 2_000
    """The most steps of an episode that are shown."""
    epsilon: float = 0.0
    """Share of random actions."""
    seed: int = 0
    """Which episodes."""
    fps: float = 30.0
    """Steps a second."""


def run(arguments: Sequence[str]) -> int:
    """Show."""
    options = parse(PlayOptions, arguments, program="hvd-dqn play", examples=_EXAMPLES)
    from hvd_dqn.policy import load_policy
    from hvd_dqn.reporting.videos import EpisodeRecorder
    from hvd_dqn.tools.play import open_screen

    if options.episodes < 1 or options.max_steps < 1 or options.fps <= 0:
        raise UserError("hvd-dqn play", "--episodes, --max-steps and --fps must be greater than 0")
    if not 0 <= options.epsilon <= 1 or options.seed < 0:
        raise UserError("hvd-dqn play", "--epsilon must be between 0 and 1, --seed 0 or more")
    policy = load_policy(options.run_dir, network=options.network)
    title = f"{policy.config.env.id} · {options.run_dir}"
    screen = open_screen(options.video, title, options.fps)
    try:
        with (
            closing(screen),
            closing(EpisodeRecorder(policy.config, seed=options.seed)) as recorder,
        ):
            returns = recorder.play(
                policy.values_of,
                screen,
                episodes=options.episodes,
                epsilon=options.epsilon,
                max_steps=options.max_steps,
            )
    finally:
        if options.video is not None and options.video.stat().st_size == 0:
            options.video.unlink()  # nothing was shown
    shown = ", ".join(f"{value:g}" for value in returns)
    print(f"return {shown}" + (f" · {options.video}" if options.video is not None else ""))
    return EXIT_OK
