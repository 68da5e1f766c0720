"""Draw a figure as SVG for the page. Colours come from the page's style sheet, which has one set
for light and one for dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from hvd_dqn.tools.drawing import load_matplotlib
from hvd_dqn.tools.report.curves import Curve
from hvd_dqn.tools.report.figures import Figure, Line, short_number

_WIDTH, _WIDE, _HEIGHT = 480, 640, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 10, 38
_MOST_POINTS = 300


class Axis(NamedTuple):
    """Maps values from `low` to `high` to pixels from `start` to `stop`."""

    low: float
    high: float
    ticks: list[float]
    start: float
    stop: float

    def pixels(self, values: np.ndarray) -> np.ndarray:
        """Return the pixel of each value."""
        share = (values - self.low) / (self.high - self.low)
        pixels: np.ndarray = self.start + share * (self.stop - self.start)
        return pixels


def draw_svg(figure: Figure, *, over: str, wide: bool = False) -> Markup:
    """Draw the lines of `figure`, at least one, over `env_steps` or `seconds`."""
    width = _WIDE if wide else _WIDTH
    lines = [line._replace(curve=_thin_out(line.curve)) for line in figure.lines]
    x_values = [getattr(line.curve, over) for line in lines]
    y_values = [part for line in lines for part in line.curve[2:] if part is not None]
    x_axis = _make_axis(x_values, _LEFT, width - _RIGHT, from_zero=True)
    y_axis = _make_axis(y_values, _HEIGHT - _BOTTOM, _TOP)
    label = over.replace("_", " ")
    parts = [_frame(x_axis, y_axis, label)]
    for line in lines:
        x, low, high = getattr(line.curve, over), line.curve.low, line.curve.high
        if low is not None and high is not None:
            outline = np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]])
            points = _points(x_axis, y_axis, *outline)
            parts.append(f'<polygon class="band c{line.colour}" points="{points}"/>')
    parts += [_line(x_axis, y_axis, line, getattr(line.curve, over)) for line in lines]
    ranges = "; ".join(
        f"{line.label}: {short_number(line.curve.values[0])} to "
        f"{short_number(line.curve.values[-1])}"
        for line in lines
        if not line.faint
    )
    return Markup(
        f'<svg viewBox="0 0 {width} {_HEIGHT}" role="img" '
        f'aria-label="{escape(figure.title)} over {label}: {escape(ranges)}">'
        + "".join(parts)
        + "</svg>"
    )  # every text is escaped


def _line(x_axis: Axis, y_axis: Axis, line: Line, x: np.ndarray) -> str:
    y = line.curve.values
    style = f"line c{line.colour}{' faint' if line.faint else ''}"
    parts = [f'<polyline class="{style}" points="{_points(x_axis, y_axis, x, y)}"/>']
    for at, value in zip(x, y, strict=True) if line.marked else ():
        hint = escape(f"{line.label}: {short_number(value)} at {short_number(at)}")
        parts.append(
            f'<circle class="dot c{line.colour}" cx="{x_axis.pixels(at):.1f}" '
            f'cy="{y_axis.pixels(value):.1f}" r="3.5"><title>{hint}</title></circle>'
        )
    return "".join(parts)


def _points(x_axis: Axis, y_axis: Axis, x: np.ndarray, y: np.ndarray) -> str:
    pixels = zip(x_axis.pixels(x), y_axis.pixels(y), strict=True)
    return " ".join(f"{across:.1f},{down:.1f}" for across, down in pixels)


def _thin_out(curve: Curve) -> Curve:
    """Drop values that are not finite and, of a long curve, all but the lowest and highest of each
    stretch, so that no spike is lost.
    """
    kept = finite = np.flatnonzero(np.isfinite(curve.values))
    if len(finite) > _MOST_POINTS:
        parts = np.array_split(finite, _MOST_POINTS // 2)
        extremes = [
            part[find(curve.values[part])] for part in parts for find in (np.argmin, np.argmax)
        ]
        kept = np.unique([finite[0], finite[-1], *extremes])
    low, high = (None if part is None else part[kept] for part in (curve.low, curve.high))
    return Curve(curve.env_steps[kept], curve.seconds[kept], curve.values[kept], low, high)


def _make_axis(
    parts: Sequence[np.ndarray], start: float, stop: float, *, from_zero: bool = False
) -> Axis:
    """Return an axis that holds all values. It starts at zero if `from_zero` is set or zero is
    near.
    """
    values = np.concatenate(parts)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if from_zero or 0 < low < 0.6 * high:
        low = min(low, 0.0)
    if low == high:
        low, high = low - max(abs(low), 1) * 0.1, high + max(abs(high), 1) * 0.1
    load_matplotlib()
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    inside = [float(tick) for tick in ticks if low <= tick <= high]
    return Axis(low, high, inside, start, stop)


def _frame(x_axis: Axis, y_axis: Axis, label: str) -> str:
    left, right, bottom = x_axis.start, x_axis.stop, y_axis.start
    parts = []
    for tick, y in zip(y_axis.ticks, y_axis.pixels(np.array(y_axis.ticks)), strict=True):
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="y" x="{left - 6}" y="{y + 4:.1f}">{short_number(tick)}</text>')
    for tick, x in zip(x_axis.ticks, x_axis.pixels(np.array(x_axis.ticks)), strict=True):
        parts.append(f'<text class="x" x="{x:.1f}" y="{bottom + 16}">{short_number(tick)}</text>')
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    middle = (left + right) / 2
    parts.append(f'<text class="x" x="{middle}" y="{_HEIGHT - 4}">{label}</text>')
    return "".join(parts)
