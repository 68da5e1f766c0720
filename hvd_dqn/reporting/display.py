"""What a person sees of a run: a live panel on a terminal, otherwise plain lines, and nothing from
ranks other than the root.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text

from hvd_dqn.common.numbers import mean_and_std, number
from hvd_dqn.common.output import tolerant
from hvd_dqn.common.structs import Progress
from hvd_dqn.distributed.launcher import detect_launch
from hvd_dqn.reporting.metrics import Metrics

_SECONDS_BETWEEN_LINES = 5.0
_RECORDS_FOR_SPEED = 20


class Countdown:
    """Estimates when a run ends from its newest records, since its speed changes: there are no
    updates at first.
    """

    def __init__(self, total_env_steps: int) -> None:
        self._total = total_env_steps
        self._records: deque[tuple[int, float]] = deque(maxlen=_RECORDS_FOR_SPEED)

    def seconds_left(self, env_steps: int, seconds: float) -> float:
        """Return the seconds left at a record of `env_steps`, made at `seconds` of any clock; NaN
        if it is the first one.
        """
        if self._records and env_steps < self._records[-1][0]:  # resumed from a checkpoint
            self._records.clear()
        self._records.append((env_steps, seconds))
        first_steps, first_seconds = self._records[0]
        if env_steps >= self._total:
            return 0.0
        if env_steps == first_steps:
            return math.nan
        return (self._total - env_steps) * (seconds - first_seconds) / (env_steps - first_steps)


class Display:
    """Shows nothing, as on all ranks but the root. Base of the displays that do."""

    def start(self, title: str, details: str, run_dir: Path, env_steps: int) -> None:
        """Begin a run, or resume it after `env_steps`."""

    def update(
        self, progress: Progress, metrics: Metrics, seconds_left: float | None = None
    ) -> None:
        """Show a new record. `seconds_left` is estimated by the clock unless given."""

    def evaluating(self) -> None:
        """Show that an evaluation has begun; it lasts until the next call of another method."""

    def evaluated(self, env_steps: int, metrics: Metrics, best: tuple[float, int] | None) -> None:
        """Show the `metrics` of an evaluation, periodic or final, of the network of `env_steps`.
        `best` is the highest mean so far and the env steps of its network.
        """

    def say(self, line: str) -> None:
        """Show a line that stays."""

    def stop(self) -> None:
        """End the run."""


class PlainDisplay(Display):
    """Plain lines, for a log file."""

    def __init__(self, total_env_steps: int) -> None:
        self._total = total_env_steps
        self._countdown = Countdown(total_env_steps)
        self._last_line = -math.inf

    def start(self, title: str, details: str, run_dir: Path, env_steps: int) -> None:
        """Print what runs and where it is stored."""
        self._countdown.seconds_left(env_steps, time.monotonic())
        self.say(" · ".join(filter(None, (title, details))))
        self.say(f"run directory: {run_dir}")

    def update(
        self, progress: Progress, metrics: Metrics, seconds_left: float | None = None
    ) -> None:
        """Print one line, at most every few seconds."""
        now = time.monotonic()
        estimate = self._countdown.seconds_left(progress.env_steps, now)
        if now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        parts = [
            f"{progress.env_steps:,}/{self._total:,} env steps",
            *(f"{label} {value}" for label, value in _figures(metrics).items()),
            f"ETA {_clock(estimate if seconds_left is None else seconds_left)}",
        ]
        self.say(" · ".join(parts))

    def evaluated(self, env_steps: int, metrics: Metrics, best: tuple[float, int] | None) -> None:
        """Print one line."""
        self.say(_evaluation_line(env_steps, metrics))

    def say(self, line: str) -> None:
        """Print the line."""
        print(line, flush=True)


class LiveDisplay(Display):
    """A panel with a progress bar and the newest figures, redrawn in place."""

    def __init__(self, terminal: TextIO, total_env_steps: int) -> None:
        self._console = Console(file=terminal, force_terminal=True)
        self._bar = ProgressBar(
            TextColumn("{task.completed:,.0f} / {task.total:,.0f} env steps"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}", style="yellow"),
            console=self._console,
            expand=True,
        )
        self._total = total_env_steps
        self._task = self._bar.add_task("", total=total_env_steps, state="")
        self._countdown, self._seconds_left = Countdown(total_env_steps), math.nan
        self._env_steps = 0
        self._live = Live(
            console=self._console,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._title = self._details = self._run_dir = ""
        self._shown: dict[str, str] = {}
        self._last_evaluation = self._best = ""
        self._is_evaluating = False

    def start(self, title: str, details: str, run_dir: Path, env_steps: int) -> None:
        """Draw the panel."""
        self._title, self._details, self._run_dir = title, details, str(run_dir)
        self._env_steps = env_steps
        self._countdown.seconds_left(env_steps, time.monotonic())
        self._live.start()
        self._draw()

    def update(
        self, progress: Progress, metrics: Metrics, seconds_left: float | None = None
    ) -> None:
        """Redraw with the new figures; a figure that this record lacks keeps its last value."""
        self._shown |= _figures(metrics)
        self._env_steps = progress.env_steps
        estimate = self._countdown.seconds_left(progress.env_steps, time.monotonic())
        self._seconds_left = estimate if seconds_left is None else seconds_left
        self._is_evaluating = False
        self._draw()

    def evaluating(self) -> None:
        """Show it in the panel."""
        self._is_evaluating = True
        self._draw()

    def evaluated(self, env_steps: int, metrics: Metrics, best: tuple[float, int] | None) -> None:
        """Print the result above the panel; show the last and the best one in it."""
        if "evaluation/return_mean" in metrics:
            mean, std = metrics["evaluation/return_mean"], metrics["evaluation/return_std"]
            self._last_evaluation = _figure("last evaluation", mean_and_std(mean, std))
        if best is not None:
            at = f"[dim]at {best[1]:,} env steps[/dim]"
            self._best = f"{_figure('best', number(best[0]))} {at}"
        self._is_evaluating = False
        self._draw()
        self.say(_evaluation_line(env_steps, metrics))

    def say(self, line: str) -> None:
        """Print the line above the panel."""
        self._console.print(Text(line))

    def stop(self) -> None:
        """Leave the last state on the screen."""
        self._is_evaluating = False
        if self._live.is_started:
            self._draw()
        self._live.stop()

    def _draw(self) -> None:
        figures = Table.grid(padding=(0, 2), expand=True)
        items = list(self._shown.items())
        for row in range(0, len(items), 3):
            figures.add_row(*(_figure(*item) for item in items[row : row + 3]))
        share = 100 * self._env_steps / self._total
        state = f"{share:.0f} %  ETA {_clock(self._seconds_left)}"
        state = "evaluating …" if self._is_evaluating else state
        self._bar.update(self._task, completed=self._env_steps, state=state)
        evaluation = "  ".join(filter(None, (self._last_evaluation, self._best)))
        rows: list[RenderableType] = [
            Text(self._details, style="dim"),
            self._bar,
            figures if items else "",
            evaluation,
            Text(self._run_dir, style="dim", overflow="fold"),
        ]
        self._live.update(
            Panel(
                Group(*(row for row in rows if row)),
                title=Text(self._title),  # text from outside is never parsed as markup
                title_align="left",
                border_style="cyan",
            ),
            refresh=True,
        )


def make_display(total_env_steps: int) -> Display:
    """Return the live panel if a person sits at a terminal, otherwise plain lines."""
    terminal = _terminal()
    if terminal is None:
        return PlainDisplay(total_env_steps)
    return LiveDisplay(terminal, total_env_steps)


def _terminal() -> TextIO | None:
    """Return the terminal of the person who started the run, if there is one.

    mpirun gives each rank a terminal of its own and forwards its lines with a tag, which a panel
    that is redrawn does not survive. If mpirun's own standard output is a terminal, the panel goes
    to the controlling terminal, which the launcher and this rank share.
    """
    if detect_launch() is None:
        return sys.stdout if sys.stdout.isatty() else None
    try:
        if str(Path(f"/proc/{os.getppid()}/fd/1").readlink()).startswith(("/dev/pts/", "/dev/tty")):
            return tolerant(Path("/dev/tty").open("w", encoding="utf-8"))
    except OSError:
        pass
    return None


def _figures(metrics: Metrics) -> dict[str, str]:
    """Return label and value of the metrics that a person follows, as far as they are there."""
    loss = next((name for name in metrics if name.startswith("loss/")), "loss")
    shown = [
        ("return", "episode/return_mean", ""),
        ("loss", loss, "{:.4g}"),
        ("ε", "exploration/epsilon", "{:.2f}"),
        ("env steps/s", "speed/env_steps_per_second", "{:,.0f}"),
        ("updates/s", "speed/updates_per_second", "{:,.0f}"),
    ]
    if "rank/waiting/1" in metrics:  # there is more than one rank
        shown.append(("waiting for ranks", "time/averaging", "{:.0%}"))
    known = [entry for entry in shown if not math.isnan(metrics.get(entry[1], math.nan))]
    return {
        label: form.format(metrics[name]) if form else number(metrics[name])
        for label, name, form in known
    }


def _figure(label: str, value: str) -> str:
    return f"[dim]{label}[/dim] [bold]{value}[/bold]"


def _evaluation_line(env_steps: int, metrics: Metrics) -> str:
    final = "closing/return_mean" in metrics
    section, name = ("closing", "final evaluation") if final else ("evaluation", "evaluation")
    mean, std, episodes = (
        metrics[f"{section}/{value}"] for value in ("return_mean", "return_std", "episodes")
    )
    return (
        f"{name} at {env_steps:,} env steps: {mean_and_std(mean, std)} over {episodes:.0f} episodes"
    )


def _clock(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
