"""Line charts and stacked bars as SVG: drawn once for env steps and once for seconds, coloured by
the page's style, so that they read in light and in dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from hvd_dqn.tools.report.figures import Line
from hvd_dqn.tools.report.reading import Curve

_WIDTH, _HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 10, 38
_MOST_POINTS = 300


class Axis(NamedTuple):
    """From values to places."""

    low: float
    high: float
    ticks: list[float]

    def share(self, value: np.ndarray) -> np.ndarray:
        """0 … 1 along the axis."""
        places: np.ndarray = (value - self.low) / (self.high - self.low)
        return places


def line_chart(title: str, lines: Sequence[Line], *, over: str) -> Markup:
    """The lines over `env_steps` or `seconds`. A chart needs one line or more."""
    lines = [line._replace(curve=_thin(line.curve)) for line in lines]
    x_axis = _axis([getattr(line.curve, over) for line in lines], whole=True)
    y_axis = _axis([part for line in lines for part in line.curve[2:] if part is not None])
    parts = [_frame(x_axis, y_axis, "env steps" if over == "env_steps" else "seconds")]
    for line in lines:
        x, low, high = getattr(line.curve, over), line.curve.low, line.curve.high
        if low is not None and high is not None:
            ahead, back = _places(x_axis, y_axis, x, high), _places(x_axis, y_axis, x, low)[::-1]
            outline = " ".join(f"{a:.1f},{b:.1f}" for a, b in (*ahead, *back))
            parts.append(f'<polygon class="band c{line.colour}" points="{outline}"/>')
    for line in lines:
        x, y = getattr(line.curve, over), line.curve.values
        places = _places(x_axis, y_axis, x, y)
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        faint = " faint" if line.faint else ""
        parts.append(f'<polyline class="line c{line.colour}{faint}" points="{path}"/>')
        if line.marked:
            for (a, b), at, value in zip(places, x, y, strict=True):
                hint = escape(f"{line.label}: {number(value)} at {number(at)}")
                parts.append(
                    f'<circle class="dot c{line.colour}" cx="{a:.1f}" cy="{b:.1f}" r="3.5">'
                    f"<title>{hint}</title></circle>"
                )
    told = "; ".join(
        f"{line.label}: {number(line.curve.values[0])} to {number(line.curve.values[-1])}"
        for line in lines
        if not line.faint
    )
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)} over {over.replace("_", " ")}: {escape(told)}">'
        + "".join(parts)
        + "</svg>"
    )  # every text in it is escaped above


def number(value: float) -> str:
    """Short, for axes and hints."""
    size = abs(value)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= 0.9995 * unit:  # it is rounded to three digits
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def _thin(curve: Curve) -> Curve:
    """Its numbers, and of a long one's every stretch the least and the greatest: so that no spike
    is lost.
    """
    finite = np.flatnonzero(np.isfinite(curve.values))
    kept = finite
    if len(finite) > _MOST_POINTS:
        parts = np.array_split(finite, _MOST_POINTS // 2)
        extremes = [
            part[find(curve.values[part])] for part in parts for find in (np.argmin, np.argmax)
        ]
        kept = np.unique([finite[0], finite[-1], *extremes])
    low, high = (None if part is None else part[kept] for part in (curve.low, curve.high))
    return Curve(curve.env_steps[kept], curve.seconds[kept], curve.values[kept], low, high)


def _axis(parts: Sequence[np.ndarray], *, whole: bool = False) -> Axis:
    """For all of these; from 0 on where it is the `whole`, or 0 is not far."""
    values = np.concatenate(parts)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if whole or 0 < low < 0.6 * high:
        low = min(low, 0.0)
    if low == high:
        low, high = low - max(abs(low), 1) * 0.1, high + max(abs(high), 1) * 0.1
    ticks = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    inside = [float(tick) for tick in ticks if low <= tick <= high]
    return Axis(low, high, inside)


def _places(x_axis: Axis, y_axis: Axis, x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    across = _LEFT + x_axis.share(x) * (_WIDTH - _LEFT - _RIGHT)
    down = _HEIGHT - _BOTTOM - y_axis.share(y) * (_HEIGHT - _TOP - _BOTTOM)
    return list(zip(across.tolist(), down.tolist(), strict=True))


def _frame(x_axis: Axis, y_axis: Axis, label: str) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for tick in y_axis.ticks:
        ((_, y),) = _places(x_axis, y_axis, np.array([x_axis.low]), np.array([tick]))
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 6}" y="{y + 4:.1f}">{number(tick)}</text>')
    for tick in x_axis.ticks:
        ((x, _),) = _places(x_axis, y_axis, np.array([tick]), np.array([y_axis.low]))
        parts.append(f'<text class="x" x="{x:.1f}" y="{bottom + 16}">{number(tick)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text class="x" x="{middle}" y="{_HEIGHT - 4}">{label}</text>')
    return "".join(parts)
