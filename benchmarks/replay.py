"""Drawing Atari batches from a full replay, beside a plain copy and other libraries' buffers.

    python benchmarks/replay.py --capacity 100000 1000000           this project's replay
    make peers
    python benchmarks/replay.py --python .venv-peers/bin/python     other libraries, too

A batch is 256 transitions of 4 stacked frames of 84×84 bytes with n = 3. Each buffer runs in a
process of its own, on one thread. Every sample is timed next to a plain copy of as many bytes (two
stacks); compare the ratios of the medians, not the times. A million transitions need 7.1 GB here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from command import at_least, execute
from peers import DISTRIBUTIONS, HERE, installed, run_script
from replay_buffers import BATCH, FRAME, N_STEP, STACK

from hvd_dqn.common.errors import RunError
from hvd_dqn.common.files import require_writable
from hvd_dqn.common.memory import available_bytes
from hvd_dqn.tools.bench.report import finish, number, print_table, say, write

OURS = "hvd_dqn"
STORES_STACKS = ("Stable-Baselines3", "TorchRL")
"""Libraries that store two whole stacks of frames per transition."""


def measure(
    python: Path, name: str, capacity: int, prioritized: bool, rounds: int
) -> dict[str, Any]:
    """Time one buffer in a process of its own; a remark if it does not fit in memory or fails."""
    frames = 2 * STACK if name in STORES_STACKS else 1
    needed, free = capacity * frames * FRAME[0] * FRAME[1], available_bytes()
    if free is not None and needed > 0.9 * free:
        return {"remark": f"needs {needed / 1e9:.0f} GB of {free / 1e9:.0f}"}
    drawn = "prioritised" if prioritized else "uniform"
    words = [str(HERE / "replay_buffers.py"), name, str(capacity), drawn, str(rounds)]
    try:
        found = run_script(python, words)
    except RunError as error:
        return {"remark": str(error)}
    if "remark" in found:
        return {"remark": found["remark"]}
    sample, update, copy = (
        1e3 * statistics.median(found["seconds"][key]) for key in ("sample", "update", "copy")
    )
    return {
        "sample_ms": round(sample, 3),
        "update_ms": round(update, 3) if prioritized else None,
        "copy_ms": round(copy, 3),
        "times_the_copy": round((sample + update) / copy, 2),
        "transitions_per_second": round(1e3 * BATCH / (sample + update)),
        "bytes_per_transition": found["bytes_per_transition"],
    }


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print one table."""
    columns = {
        "sample_ms": "sample, ms",
        "update_ms": "update, ms",
        "copy_ms": "plain copy, ms",
        "times_the_copy": "ratio to the copy",
        "transitions_per_second": "transitions/s",
        "bytes_per_transition": "bytes per transition",
        "remark": "remark",
    }

    def cell(value: Any) -> str:
        if value is None:
            return "–"
        return value if isinstance(value, str) else number(value)

    print_table(
        f"batches of {BATCH} Atari transitions (two stacks of {STACK}, n = {N_STEP}), one thread",
        ["buffer", "rows", "drawn", *columns.values()],
        [
            [
                row["buffer"],
                f"{row['capacity']:,}",
                "prioritised" if row["prioritized"] else "uniform",
                *(cell(row.get(key, "" if key == "remark" else None)) for key in columns),
            ]
            for row in rows
        ],
    )


def main() -> None:
    """Measure every buffer, uniform and prioritised."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--capacity", type=at_least(1000), nargs="+", default=[100_000], help="in transitions")
    add("--rounds", type=at_least(1), default=200, help="samples of each kind")
    add("--python", type=Path, help="Python with the other libraries; default: leave them out")
    add("--only", nargs="+", choices=[OURS, *DISTRIBUTIONS], help="measure these buffers only")
    add("--json", type=Path, help="write all measurements to this file")
    arguments = parser.parse_args()
    if arguments.json is not None:
        require_writable(arguments.json)
    wanted = arguments.only or [OURS, *DISTRIBUTIONS]
    versions: dict[str, str] = {}
    if arguments.python is not None:
        versions = installed(arguments.python, [name for name in wanted if name != OURS])
    results: dict[str, Any] = {
        "versions": versions,
        "batch": {"size": BATCH, "frame": FRAME, "stack": STACK, "n_step": N_STEP},
        "rows": [],
    }
    for capacity in arguments.capacity:
        for prioritized in (False, True):
            for name in [name for name in wanted if name in (OURS, *versions)]:
                python = Path(sys.executable) if name == OURS else arguments.python
                found = measure(python, name, capacity, prioritized, arguments.rounds)
                row = {"buffer": name, "capacity": capacity, "prioritized": prioritized, **found}
                results["rows"].append(row)
                write("replay", results, arguments.json)
                say(f"{name}, {capacity:,} rows: done")
    print_rows(results["rows"])
    finish("replay", results, arguments.json)


if __name__ == "__main__":
    execute(main)
