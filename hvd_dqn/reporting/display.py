"""What a person sees of a run: a live panel on a terminal, plain lines elsewhere, nothing from
other ranks.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from hvd_dqn.common.structs import Progress
from hvd_dqn.distributed.launcher import detect_launch
from hvd_dqn.reporting.metrics import Metrics

_SECONDS_BETWEEN_LINES = 5.0


class Display(Protocol):
    """Told what happens, shows what it likes."""

    def start(self, title: str, env_steps: int) -> None:
        """The run begins, or goes on after so many env steps."""
        ...

    def update(self, progress: Progress, metrics: Metrics) -> None:
        """A new record."""
        ...

    def say(self, line: str) -> None:
        """One line worth keeping."""
        ...

    def stop(self) -> None:
        """The run is over."""
        ...


class NullDisplay:
    """For the ranks that do not speak."""

    def start(self, title: str, env_steps: int) -> None:
        """Show nothing."""

    def update(self, progress: Progress, metrics: Metrics) -> None:
        """Show nothing."""

    def say(self, line: str) -> None:
        """Show nothing."""

    def stop(self) -> None:
        """Show nothing."""


class PlainDisplay:
    """Lines for a log file."""

    def __init__(self, total_env_steps: int) -> None:
        self._total = total_env_steps
        self._first = 0
        self._began, self._last_line = time.monotonic(), -math.inf

    def start(self, title: str, env_steps: int) -> None:
        """One line with what runs."""
        self._first = env_steps
        print(title, flush=True)

    def update(self, progress: Progress, metrics: Metrics) -> None:
        """One line, every few seconds at most."""
        now = time.monotonic()
        if now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        done, left = progress.env_steps - self._first, self._total - progress.env_steps
        remaining = (now - self._began) * left / max(done, 1)
        parts = [
            f"{progress.env_steps:,}/{self._total:,} env steps",
            *(f"{k} {v}" for k, v in _facts(metrics)),
        ]
        print(" · ".join([*parts, f"ETA {_clock(remaining)}"]), flush=True)

    def say(self, line: str) -> None:
        """The line."""
        print(line, flush=True)

    def stop(self) -> None:
        """Nothing is held back."""


class LiveDisplay:
    """A progress bar and the newest figures, redrawn in place."""

    def __init__(self, terminal: TextIO, total_env_steps: int) -> None:
        self._console = Console(file=terminal, force_terminal=True)
        self._bar = ProgressBar(
            TextColumn("{task.completed:>10,.0f} / {task.total:,.0f} env steps"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
            expand=True,
        )
        self._task = self._bar.add_task("", total=total_env_steps)
        self._shown: dict[str, str] = {}
        self._live = Live(
            console=self._console,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._title = ""

    def start(self, title: str, env_steps: int) -> None:
        """Draw the panel."""
        self._title = title
        self._bar.reset(self._task, completed=env_steps)
        self._live.start()
        self._draw()

    def update(self, progress: Progress, metrics: Metrics) -> None:
        """Redraw with the new figures; a figure that this record lacks keeps its last value."""
        self._shown |= dict(_facts(metrics))
        self._bar.update(self._task, completed=progress.env_steps)
        self._draw()

    def say(self, line: str) -> None:
        """The line, above the panel."""
        self._console.print(line, highlight=False)

    def stop(self) -> None:
        """Leave the last state on the screen."""
        self._live.stop()

    def _draw(self) -> None:
        figures = Table.grid(padding=(0, 2), expand=True)
        items = list(self._shown.items())
        for row in range(0, len(items), 4):
            figures.add_row(
                *(f"[dim]{name}[/dim] [bold]{value}[/bold]" for name, value in items[row : row + 4])
            )
        self._live.update(
            Panel(
                Group(self._bar, figures),
                title=self._title,
                title_align="left",
                border_style="cyan",
            )
        )


def make_display(total_env_steps: int) -> Display:
    """The live panel where a person sits at a terminal, else plain lines."""
    terminal = _terminal()
    if terminal is None:
        return PlainDisplay(total_env_steps)
    return LiveDisplay(terminal, total_env_steps)


def _terminal() -> TextIO | None:
    """The terminal that a person looks at, if one does.

    mpirun gives its ranks terminals of its own making and tags and forwards their lines, which a
    redrawn panel does not survive. Its own standard output tells whether somebody is looking: then
    the panel goes to the terminal that the launcher and this rank share.
    """
    if detect_launch() is None:
        return sys.stdout if sys.stdout.isatty() else None
    try:
        if str(Path(f"/proc/{os.getppid()}/fd/1").readlink()).startswith(("/dev/pts/", "/dev/tty")):
            return Path("/dev/tty").open("w")
    except OSError:
        pass
    return None


def _facts(metrics: Metrics) -> list[tuple[str, str]]:
    """The figures a person follows, those of them that the record holds."""
    shown = (
        ("return", "episode/return_mean", "{:.1f}"),
        ("loss", next((n for n in metrics if n.startswith("loss/")), ""), "{:.4g}"),
        ("ε", "exploration/epsilon", "{:.2f}"),
        ("env steps/s", "speed/env_steps_per_second", "{:,.0f}"),
        ("updates/s", "speed/updates_per_second", "{:,.0f}"),
        ("waiting for ranks", "time/averaging", "{:.0%}"),
    )
    return [(label, form.format(metrics[name])) for label, name, form in shown if name in metrics]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
