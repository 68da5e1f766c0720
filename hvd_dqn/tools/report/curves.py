"""Metrics over time: of one run, or of the seeds of one configuration with an interval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hvd_dqn.config.run import flatten
from hvd_dqn.tools.runs import Run
from hvd_dqn.tools.scores import score

_MAY_DIFFER = ("seed", "device", "logging", "checkpoint", "time_limit_minutes")
"""Settings and sections in which the runs of one group may differ."""
_MOST_SETTINGS_IN_LABEL = 4


class Curve(NamedTuple):
    """Values [K] of a metric at env steps [K] and seconds [K]; `low` and `high` [K] bound an
    interval around them.
    """

    env_steps: np.ndarray
    seconds: np.ndarray
    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def columns(run: Run, *names: str) -> dict[str, np.ndarray] | None:
    """Return env steps, seconds and the metrics `names` [K] from the K records that have all of
    them, or `None` if there is no such record.
    """
    records = [r for r in run.records if all(r.get(name) is not None for name in names)]
    if names[0].startswith(("speed/", "time/")):  # before the first update they mean little
        records = [r for r in records if "gradient/norm_mean" in r] or records
    if not records:
        return None
    return {
        name: np.array([r[name] for r in records], dtype=np.float64)
        for name in ("env_steps", "seconds", *names)
    }


def metric_curve(run: Run, name: str) -> Curve | None:
    """Return the metric `name` over time, or `None` if no record has it."""
    found = columns(run, name)
    return None if found is None else Curve(found["env_steps"], found["seconds"], found[name])


class Group(NamedTuple):
    """Runs with the same settings and number of ranks; they differ in their seed."""

    label: str
    runs: list[Run]

    def curve(self, name: str) -> Curve | None:
        """Return the interquartile mean of the metric `name` over the seeds, with its bootstrap
        interval, at the env steps at which all of them have it. Of one run, its own values.
        """
        curves = [curve for run in self.runs if (curve := metric_curve(run, name)) is not None]
        if not curves:
            return None
        if len(curves) == 1:
            return curves[0]
        by_step = [
            {step: (value, second) for step, second, value in zip(*curve[:3], strict=True)}
            for curve in curves
        ]
        steps = sorted(set.intersection(*(set(points) for points in by_step)))
        if not steps:
            return None
        scores = [score([points[step][0] for points in by_step]) for step in steps]
        seconds = [float(np.mean([points[step][1] for points in by_step])) for step in steps]
        return Curve(
            np.array(steps),
            np.array(seconds),
            np.array([s.iqm for s in scores]),
            np.array([s.iqm_low for s in scores]),
            np.array([s.iqm_high for s in scores]),
        )


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group runs that differ only in their seed, in the order of each group's first run."""
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        settings = {name: value for name, value in run.config.items() if name not in _MAY_DIFFER}
        key = json.dumps([settings, run.last_start.get("world_size")], sort_keys=True)
        by_settings.setdefault(key, []).append(run)
    groups = list(by_settings.values())
    return [Group(_label(members, groups), members) for members in groups]


def _label(runs: list[Run], groups: list[list[Run]]) -> str:
    """Return the settings in which this group differs from the others, abridged."""
    flat = [flatten(members[0].config) for members in groups]
    own = flatten(runs[0].config)
    differing = [
        f"{option_name(name).rpartition('.')[2]} {setting_text(value)}"
        for name, value in own.items()
        if name.partition(".")[0] not in _MAY_DIFFER
        and any(other.get(name) != value for other in flat)
    ]
    ranks = runs[0].last_start.get("world_size", 1)
    if len({members[0].last_start.get("world_size") for members in groups}) > 1:
        differing.append(f"{ranks} rank{'s' * (ranks != 1)}")
    if not differing:
        return runs[0].name if len(runs) == 1 else str(own.get("preset"))
    more = " …" if len(differing) > _MOST_SETTINGS_IN_LABEL else ""
    return ", ".join(differing[:_MOST_SETTINGS_IN_LABEL]) + more


def option_name(field: str) -> str:
    """Return the name of a setting as on the command line: `env.num-envs`."""
    return field.replace("_", "-")


def setting_text(value: Any) -> str:
    """Return a setting's value as text; lists without brackets, integers with commas."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
