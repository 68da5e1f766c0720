"""Figures with their spread, and the machine that they were measured on."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hvd_dqn.common.errors import UserError
from hvd_dqn.run.facts import commit, versions


class Spread(NamedTuple):
    """The median of several measurements, and the least and the greatest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.low)} … {number(self.high)})"


def spread(values: Sequence[float]) -> Spread:
    """Of one measurement or more."""
    return Spread(statistics.median(values), min(values), max(values))


def number(value: float) -> str:
    """Three digits that count."""
    if value != value:  # not measured
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": " ".join([_program(Path(sys.argv[0])), *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": gpus,
        "python": platform.python_version(),
        "packages": versions(),
    }


def _program(path: Path) -> str:
    if path.parent.name == "benchmarks":
        return f"python benchmarks/{path.name}"
    return "hvd-dqn"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Markdown, aligned, so that it can be read in a terminal and copied into a page."""
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    print(f"\n{title}\n" if title else "")
    for number_of_row, row in enumerate((columns, *rows)):
        print("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |")
        if number_of_row == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def finish(kind: str, results: Mapping[str, Any], path: Path | None) -> None:
    """Say on which machine it was, and write everything where that is asked for."""
    facts = machine()
    gpus = f" · {', '.join(facts['gpus'])}" if facts["gpus"] else ""
    commit = f" · {facts['commit'][:9]}" if facts["commit"] else ""
    commit += " with changes" if (facts["commit"] or "").endswith("-dirty") else ""
    print(f"\n{facts['cpu']} · {facts['cores']} cores{gpus} · {facts['date']}{commit}", flush=True)
    write(kind, results, path)


def write(kind: str, results: Mapping[str, Any], path: Path | None) -> None:
    """What has been measured so far, where it is asked for."""
    if path is None:
        return
    try:
        path.write_text(json.dumps({"kind": kind, **machine(), **results}, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
