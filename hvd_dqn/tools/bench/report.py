"""Tables of benchmark results, and a description of the machine they were measured on."""

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
from rich import box
from rich.console import Console
from rich.table import Table

from hvd_dqn.common.files import replacing
from hvd_dqn.run.facts import commit, versions


class Spread(NamedTuple):
    """The median, minimum and maximum of repeated measurements."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.low)} … {number(self.high)})"


def spread(values: Sequence[float]) -> Spread:
    """The spread of one or more measurements."""
    return Spread(statistics.median(values), min(values), max(values))


def number(value: float) -> str:
    """Format to three significant digits, or to whole numbers from 100 upwards; NaN is a dash."""
    if value != value:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a title and a Markdown table, so that the output can be pasted into a page."""
    if title:
        print(f"\n{title}")
    print(f"\n{markdown_table(columns, rows)}", flush=True)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, which ends with a newline."""
    table = Table(*columns, box=box.MARKDOWN)
    for row in rows:
        table.add_row(*row)
    # Rows are never wrapped, and text is printed as it is.
    console = Console(highlight=False, markup=False, emoji=False, width=1000, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return captured.get().strip() + "\n"


def say(line: str) -> None:
    """Report progress on standard error."""
    print(f"bench: {line}", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """The command, date, commit, hardware and package versions of this measurement."""
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


def finish(kind: str, results: Mapping[str, Any], path: Path | None) -> None:
    """Print the machine, and write all measurements to `path` unless it is None."""
    facts = machine()
    gpus = f" · {', '.join(facts['gpus'])}" if facts["gpus"] else ""
    commit = f" · {facts['commit'][:9]}" if facts["commit"] else ""
    commit += " with changes" if (facts["commit"] or "").endswith("-dirty") else ""
    print(f"\n{facts['cpu']} · {facts['cores']} cores{gpus} · {facts['date']}{commit}", flush=True)
    write(kind, results, path)


def write(kind: str, results: Mapping[str, Any], path: Path | None) -> None:
    """Write the measurements so far to `path` unless it is None.

    Raises `UserError` if the file cannot be written.
    """
    if path is None:
        return
    with replacing(path) as file:
        file.write_text(json.dumps({"kind": kind, **machine(), **results}, indent=1) + "\n")
