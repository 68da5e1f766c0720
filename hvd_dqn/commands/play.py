"""`hvd-dqn play`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from hvd_dqn.commands.options import OptionalFile, RunDir, parse
from hvd_dqn.common.errors import EXIT_OK
from hvd_dqn.config.section import Section, fraction, non_negative, positive

_EXAMPLES = (
    "hvd-dqn play runs/a",
    "hvd-dqn play runs/a --video episode.gif --max-steps 300",
)


@dataclass(frozen=True, kw_only=True)
class PlayOptions(Section):
    """Watch a policy play, with its Q-values beside the image: in a window (Esc closes it), or as a
    video file.
    """

    prefix = "--"

    run_dir: RunDir
    """The run directory, or zoo:NAME."""
    video: OptionalFile = None
    """Write this file, .mp4 or .gif, instead of opening a window."""
    network: str = "best"
    """Network to use: best (by evaluation), newest, or the env steps of a saved one."""
    episodes: int = positive(1)
    """Number of episodes."""
    max_steps: int = positive(2_000)
    """Maximum number of steps shown of each episode."""
    epsilon: float = fraction(0.0)
    """Probability of a random action."""
    seed: int = non_negative(0)
    """Seed of the episodes."""
    fps: float = positive(30.0)
    """Frames per second; every step is one frame."""


def run(arguments: Sequence[str]) -> int:
    """Play the episodes."""
    options = parse(PlayOptions, arguments, program="hvd-dqn play", examples=_EXAMPLES)
    from hvd_dqn.policy import load_policy
    from hvd_dqn.reporting.videos import EpisodeRecorder
    from hvd_dqn.run.foreign_code import announce_environment_code
    from hvd_dqn.tools.play import open_writer

    policy = load_policy(options.run_dir, network=options.network)
    announce_environment_code(policy.config, options.run_dir)
    title = f"{policy.config.env.id} · {options.run_dir}"
    with (
        open_writer(options.video, title, options.fps) as writer,
        closing(EpisodeRecorder(policy.config, seed=options.seed)) as recorder,
    ):
        returns = recorder.play(
            policy.values_of,
            writer,
            episodes=options.episodes,
            epsilon=options.epsilon,
            max_steps=options.max_steps,
        )
    shown = ", ".join(f"{value:g}" for value in returns)
    print(f"return {shown}" + (f" · {options.video}" if options.video is not None else ""))
    return EXIT_OK
