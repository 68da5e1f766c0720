"""Runs as a report reads them: records by name, seeds of one configuration together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hvd_dqn.common.stages import STAGES
from hvd_dqn.presets import PRESETS
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.tools.runs import read_facts, read_metrics
from hvd_dqn.tools.scores import score

_LIKE = ("seed", "device", "logging", "checkpoint", "time_limit_minutes")
"""What runs of one group may differ in."""
_VIDEOS, _VIDEO_BYTES = 3, 20 << 20


class Curve(NamedTuple):
    """Values [K] of a metric, at env steps [K] and seconds [K], with an interval or without."""

    env_steps: np.ndarray
    seconds: np.ndarray
    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


class Run:
    """One run directory, read whole."""

    def __init__(self, path: Path) -> None:
        """`UserError` where it is none."""
        self.path = path
        self.name = path.resolve().name
        self.config, self.facts = read_facts(path)
        self.records = read_metrics(path) if RunDirectory(path).metrics_file.exists() else []
        closing = [r for r in self.records if r.get("closing/return_mean") is not None]
        self.closing: dict[str, Any] | None = closing[-1] if closing else None

    @property
    def now(self) -> dict[str, Any]:
        """The facts of its last start."""
        facts: dict[str, Any] = self.facts.get("resumed", [self.facts])[-1]
        return facts

    @property
    def last(self) -> dict[str, Any]:
        """Its newest record; empty where it has none."""
        return self.records[-1] if self.records else {}

    @property
    def last_speed(self) -> float | None:
        """Env steps a second of all ranks, the median of its records; `None` where it went on with
        another number of them.
        """
        speeds = [
            r["speed/env_steps_per_second"]
            for r in self.records
            if r.get("speed/env_steps_per_second")
        ]
        return float(np.median(speeds)) if speeds else None

    def columns(self, *names: str) -> dict[str, np.ndarray] | None:
        """Env steps, seconds and these metrics of every record that has all of them; `None` where
        none has.
        """
        having = [r for r in self.records if all(r.get(name) is not None for name in names)]
        if names[0].startswith(("speed/", "time/")):  # before the updates begin it says nothing
            having = [record for record in having if "gradient/norm_mean" in record] or having
        every = ("env_steps", "seconds", *names)
        columns = {name: np.array([r[name] for r in having], dtype=np.float64) for name in every}
        return columns if having else None

    def curve(self, name: str) -> Curve | None:
        """A metric by its name; `None` where no record has it."""
        columns = self.columns(name)
        if columns is None:
            return None
        return Curve(columns["env_steps"], columns["seconds"], columns[name])

    def stage_shares(self) -> dict[str, float]:
        """Mean shares of the time, by stage; empty where no record has them."""
        columns = self.columns(*(f"time/{stage}" for stage in STAGES))
        if columns is None:
            return {}
        return {stage: float(columns[f"time/{stage}"].mean()) for stage in STAGES}

    def ranks(self) -> list[dict[str, Any]]:
        """Of each rank of the last start: host, device, mean share of the time that it waited."""
        now = self.now
        rows = []
        for rank, host in enumerate(now.get("hosts", [])):
            waits = [r[f"rank/waiting/{rank}"] for r in self.records if f"rank/waiting/{rank}" in r]
            devices = now.get("devices", [])
            rows.append(
                {
                    "rank": rank,
                    "host": host,
                    "device": devices[rank] if rank < len(devices) else "",
                    "waiting": float(np.mean(waits)) if waits else None,
                }
            )
        return rows

    def settings(self) -> list[tuple[str, str, str | None]]:
        """Name, value and, where it is another, what the preset has for it."""
        own = _flat(self.config)
        preset = PRESETS.get(self.config.get("preset", ""))
        theirs = _flat(json.loads(preset().to_json())) if preset is not None else own
        return [
            (name, _text(value), _text(theirs.get(name)) if theirs.get(name) != value else None)
            for name, value in own.items()
        ]

    def videos(self) -> list[Path]:
        """The newest MP4 and GIF files in it, as many as can be taken in, newest first."""
        found = [p for kind in ("*.mp4", "*.gif") for p in self.path.rglob(kind) if p.is_file()]
        sizes = {path: path.stat().st_size for path in found}
        newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
        taken: list[Path] = []
        for path in newest:
            room = _VIDEO_BYTES - sum(sizes[other] for other in taken)
            if 0 < sizes[path] <= room and len(taken) < _VIDEOS:
                taken.append(path)
        return taken


class Group(NamedTuple):
    """Runs of one configuration on as many ranks, by seed."""

    label: str
    runs: list[Run]

    def score_curve(self, name: str) -> Curve | None:
        """The interquartile mean over seeds of a metric at every env step that all of them have it
        at, with its bootstrap interval; of one run, its own values.
        """
        curves = [curve for run in self.runs if (curve := run.curve(name)) is not None]
        if not curves:
            return None
        if len(curves) == 1:
            return curves[0]
        at = [
            {step: (value, second) for step, second, value in zip(*curve[:3], strict=True)}
            for curve in curves
        ]
        steps = sorted(set.intersection(*(set(places) for places in at)))
        if not steps:
            return None
        scores = [score([places[step][0] for places in at]) for step in steps]
        seconds = [float(np.mean([places[step][1] for places in at])) for step in steps]
        return Curve(
            np.array(steps),
            np.array(seconds),
            np.array([s.iqm for s in scores]),
            np.array([s.iqm_low for s in scores]),
            np.array([s.iqm_high for s in scores]),
        )


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """In the order of their first runs."""
    by_key: dict[str, list[Run]] = {}
    for run in runs:
        alike = {name: value for name, value in run.config.items() if name not in _LIKE}
        key = json.dumps([alike, run.now.get("world_size")], sort_keys=True)
        by_key.setdefault(key, []).append(run)
    every = list(by_key.values())
    return [Group(_label(number, members, every), members) for number, members in enumerate(every)]


def _label(number: int, runs: list[Run], every: list[list[Run]]) -> str:
    """What tells the group from the others: its settings that they do not all share, shortly."""
    flats = [_flat(members[0].config) for members in every]
    own = flats[number]
    differing = [
        f"{name.rpartition('.')[2]} {_text(own.get(name))}"
        for name in own
        if name.partition(".")[0] not in _LIKE
        and any(flat.get(name) != own.get(name) for flat in flats)
    ]
    sizes = {members[0].now.get("world_size") for members in every}
    ranks = runs[0].now.get("world_size", 1)
    if len(sizes) > 1:
        differing.append(f"{ranks} rank{'s' * (ranks != 1)}")
    if not differing:
        return runs[0].name if len(runs) == 1 else str(own.get("preset"))
    return ", ".join(differing[:4]) + (" …" if len(differing) > 4 else "")


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            fields |= _flat(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
