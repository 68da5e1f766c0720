"""Scores of this project and of other libraries over several seeds: trains what is missing, and
prints the tables.

    make peers
    python benchmarks/scores.py environments --parallel 2
    python benchmarks/scores.py environments --only LunarLander --seeds 0 1 2
    python benchmarks/scores.py environments --table

`score_rows.py` lists the rows of each group. Each run has one core. Runs that are in
`benchmarks/results/scores-GROUP.json` are not repeated, and runs of this project that were
interrupted continue from their last checkpoint in `runs/scores/`. `make peers` installs the other
libraries; rows of libraries that are missing are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from command import at_least, execute
from peers import DEFAULT_PYTHON, HERE, installed, run_script
from score_rows import Row, rows

from hvd_dqn.common.files import publish
from hvd_dqn.run.facts import commit
from hvd_dqn.tools.bench.report import machine, print_table, say
from hvd_dqn.tools.runs import read_records

RESULTS = HERE / "results"
RUNS = Path("runs/scores")
COLUMNS = ("task", "agent", "env steps", "seeds", "return, mean ± std (worst … best)", "seconds")


def main() -> None:
    """Train what is missing, and print the tables."""
    groups = sorted({row.group for row in rows()})
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("groups", nargs="+", choices=groups)
    parser.add_argument("--only", default="", help="a part of a task, an agent and env steps")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: all of a row's")
    parser.add_argument("--parallel", type=at_least(1), default=os.cpu_count())
    parser.add_argument("--python", type=Path, default=DEFAULT_PYTHON, help="that of the peers")
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    chosen = [
        row
        for row in rows()
        if row.group in arguments.groups
        and arguments.only in f"{row.task}, {row.agent}, {row.env_steps}"
    ]
    if not arguments.table:
        train_missing(chosen, arguments)
    for group in arguments.groups:
        print_scores([row for row in chosen if row.group == group])


def train_missing(chosen: Sequence[Row], arguments: argparse.Namespace) -> None:
    """Train the seeds that have no result yet, all rows' first seeds first."""
    wanted = [
        (seed, row)
        for seed in arguments.seeds or range(max(row.seeds for row in chosen))
        for row in chosen
        if seed < row.seeds and seed not in {run["seed"] for run in results_of(row)}
    ]
    libraries = {row.library for _, row in wanted if row.library}
    found = installed(arguments.python, sorted(libraries)) if libraries else {}
    lock = threading.Lock()

    def one(work: tuple[int, Row]) -> None:
        seed, row = work
        figures = theirs(row, seed, arguments.python) if row.library else ours(row, seed)
        run = {"task": row.task, "agent": row.agent, "env_steps": row.env_steps, "seed": seed}
        run |= figures | {"date": time.strftime("%Y-%m-%d"), "cpu": machine()["cpu"]}
        run |= {"library": f"{row.library} {found[row.library]}"} if row.library else {}
        with lock:
            runs = [*read_results(row.group), run]
            text = json.dumps({"runs": runs}, indent=1, ensure_ascii=False) + "\n"
            publish(results_file(row.group), text.encode())
        say(f"{row.task}, {row.agent}, seed {seed}: {figures['closing_mean']:.2f}")

    with ThreadPoolExecutor(arguments.parallel) as pool:
        list(pool.map(one, [work for work in wanted if work[1].library in ("", *found)]))


def ours(row: Row, seed: int) -> dict[str, Any]:
    """Train with this project, or continue the training; returns the figures of the run."""
    run_dir = RUNS / row.group / name_of(row) / f"seed-{seed}"
    options = {
        "seed": seed,
        "total-env-steps": row.env_steps,
        "evaluation.period-env-steps": row.env_steps // row.evaluations,
        "evaluation.final-episodes": row.episodes,
        "distributed.threads-per-rank": 1,
    }
    words = ["train", *row.words]
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["hvd-dqn", *words, "--logging.loggers", "--run-dir", str(run_dir)],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
    )
    records = read_records(run_dir)
    evaluations = [r for r in records if r.get("evaluation/return_mean") is not None]
    return {
        "closing_mean": records[-1]["closing/return_mean"],
        "closing_std": records[-1]["closing/return_std"],
        "curve": [[r["env_steps"], round(r["evaluation/return_mean"], 3)] for r in evaluations],
        "seconds": round(records[-1]["seconds"], 1),
        "command": f"hvd-dqn {' '.join(words)}",
        "commit": commit(),
    }


def theirs(row: Row, seed: int, python: Path) -> dict[str, Any]:
    """Train a peer in its own Python; returns the figures of the run."""
    work = {
        **row.work,
        "seed": seed,
        "env_steps": row.env_steps,
        "evaluations": row.evaluations,
        "protocol": row.protocol,
        "episodes": row.episodes,
    }
    began = time.monotonic()
    result: dict[str, Any] = run_script(
        python, [str(HERE / "peer_sb3.py"), "score", json.dumps(work)]
    )
    return result | {"seconds": round(time.monotonic() - began, 1)}


def name_of(row: Row) -> str:
    """A name for files."""
    return (
        re.sub(r"[^A-Za-z0-9]+", "-", f"{row.task} {row.agent} {row.env_steps}").strip("-").lower()
    )


def results_file(group: str) -> Path:
    """Where the runs of a group are."""
    return RESULTS / f"scores-{group}.json"


def read_results(group: str) -> list[dict[str, Any]]:
    """Return the runs of a group."""
    file = results_file(group)
    runs: list[dict[str, Any]] = json.loads(file.read_text())["runs"] if file.exists() else []
    return runs


def results_of(row: Row) -> list[dict[str, Any]]:
    """Return the runs of a row."""
    key = (row.task, row.agent, row.env_steps)
    return [
        run
        for run in read_results(row.group)
        if (run["task"], run["agent"], run["env_steps"]) == key
    ]


def print_scores(chosen: Iterable[Row]) -> None:
    """Print a table of the rows with results."""
    cells = []
    for row in chosen:
        runs = results_of(row)
        if not runs:
            continue
        scores = [run["closing_mean"] for run in runs]
        seconds = [run["seconds"] for run in runs if run["seconds"] is not None]
        spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
        cells.append(
            [
                row.task,
                row.agent,
                f"{row.env_steps:,}",
                f"{len(runs)} of {row.seeds}",
                f"{statistics.fmean(scores):.2f}{spread} ({min(scores):.2f} … {max(scores):.2f})",
                f"{statistics.median(seconds):,.0f}",
            ]
        )
    print_table("", COLUMNS, cells)


if __name__ == "__main__":
    execute(main)
