"""Scores of this project and of other libraries over several seeds: trains what is missing, and
prints the tables; `--tables` writes them into the pages.

    make peers
    python benchmarks/scores.py classic environments --parallel 2
    python benchmarks/scores.py environments --only LunarLander --seeds 0 1 2
    python benchmarks/scores.py --tables

`score_rows.py` lists the rows of each group. Each rank has one thread. Runs that are in
`benchmarks/results/scores-GROUP.json` are not repeated, and runs of this project that were
interrupted continue from their last checkpoint in `runs/scores/`. `make peers` installs the other
libraries; rows of libraries that are missing are left out. `--tables` trains nothing: it writes
each table into the page that has its place, `<!-- scores: GROUP -->`.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from command import at_least, execute
from peers import DEFAULT_PYTHON, HERE, installed, run_script
from score_rows import Row, rows

from hvd_dqn.common.files import publish
from hvd_dqn.tools.bench.report import machine, markdown_table, say
from hvd_dqn.tools.runs import read_records

RESULTS = HERE / "results"
RUNS = Path("runs/scores")
PAGES = [HERE / name for name in ("../README.md", "../docs/environments.md", "README.md")]
COLUMNS = ("task", "agent", "env steps", "seeds", "return, mean ± std (worst … best)")
WITH_THRESHOLD = ("to reach", "seeds that reach it", "first reached after, median env steps")
SECONDS = "seconds, median"


def main() -> None:
    """Train what is missing, or write the tables."""
    groups = sorted({row.group for row in rows()})
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("groups", nargs="*", help=", ".join(groups))
    parser.add_argument("--only", default="", help="a part of a task, an agent and env steps")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: all of a row's")
    parser.add_argument("--parallel", type=at_least(1), default=os.cpu_count(), help="ranks")
    parser.add_argument("--python", type=Path, default=DEFAULT_PYTHON, help="that of the peers")
    parser.add_argument("--tables", action="store_true", help="write all tables, and train nothing")
    arguments = parser.parse_args()
    unknown = set(arguments.groups) - set(groups)
    if unknown or not (arguments.groups or arguments.tables):
        parser.error(f"name groups of {', '.join(groups)}")
    if arguments.tables and (arguments.groups or arguments.only or arguments.seeds):
        parser.error("--tables writes all tables: name nothing else")
    chosen = [
        row
        for row in rows()
        if row.group in arguments.groups
        and arguments.only in f"{row.task}, {row.agent}, {row.env_steps}"
    ]
    if not (chosen or arguments.tables):
        parser.error(f"--only {arguments.only}: no row of these groups has that in its name")
    if arguments.tables:
        for page in PAGES:
            publish(page, with_tables(page.read_text()).encode())
        return
    train_missing(chosen, arguments)
    for group in arguments.groups:
        print(table([row for row in chosen if row.group == group]))


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

    for ranks in sorted({row.ranks for _, row in wanted}):
        with ThreadPoolExecutor(max(1, arguments.parallel // ranks)) as pool:
            possible = [work for work in wanted if work[1].library in ("", *found)]
            list(pool.map(one, [work for work in possible if work[1].ranks == ranks]))


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
    if row.info:
        options["logging.info-keys"] = row.info
    launcher = ["horovodrun", "-np", str(row.ranks)] if row.ranks > 1 else []
    words = [*launcher, "hvd-dqn", "train", *row.words]
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    run_command([*words, "--logging.loggers", "--run-dir", str(run_dir)])
    records = read_records(run_dir)
    evaluations = [r for r in records if r.get("evaluation/return_mean") is not None]
    if row.protocol == "last":
        games = ["--episodes", str(row.episodes), "--network", "newest", "--json"]
        closing = json.loads(run_command(["hvd-dqn", "evaluate", str(run_dir), *games]))
        mean, std, infos = closing["mean"], closing["std"], closing["infos"][0]
    else:
        mean, std = (records[-1][f"closing/return_{name}"] for name in ("mean", "std"))
        infos = {row.info: records[-1].get(f"closing/info/{row.info}")}
    return {
        "closing_mean": mean,
        "closing_std": std,
        **({"closing_info": infos[row.info]} if row.info else {}),
        "curve": [[r["env_steps"], round(r["evaluation/return_mean"], 3)] for r in evaluations],
        "seconds": round(records[-1]["seconds"], 1),
        "command": " ".join(words),
        "commit": json.loads((run_dir / "run.json").read_text())["commit"],
    }


def run_command(words: Sequence[str]) -> str:
    """Run a command of this project with one thread; returns what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return done.stdout


def theirs(row: Row, seed: int, python: Path) -> dict[str, Any]:
    """Train a peer in its own Python; returns the figures of the run."""
    work = {
        **row.work,
        "seed": seed,
        "env_steps": row.env_steps,
        "evaluations": row.evaluations,
        "protocol": row.protocol,
        "episodes": row.episodes,
        "info": row.info,
    }
    began = time.monotonic()
    script = [str(HERE / row.script), "score", json.dumps(work)]
    result: dict[str, Any] = run_script(python, script)
    return {"seconds": round(time.monotonic() - began, 1)} | result


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


def with_tables(page: str) -> str:
    """Return a page with the newest tables in their places."""

    def fill(place: re.Match[str]) -> str:
        found = [row for row in rows() if row.group == place["group"]]
        return f"{place['begin']}\n{table(found)}\n{place['end']}"

    pattern = r"(?P<begin><!-- scores: (?P<group>[\w-]+) -->\n).*?(?P<end><!-- end of scores -->)"
    return re.sub(pattern, fill, page, flags=re.DOTALL)


def table(chosen: Sequence[Row]) -> str:
    """Return a Markdown table of the rows with results."""
    found = [(row, runs) for row in chosen if (runs := results_of(row))]
    if not found:
        return "Not run yet.\n"
    with_threshold = any(row.threshold is not None for row, _ in found)
    infos = {f"{row.info}, mean": None for row, _ in found if row.info}
    columns = [*COLUMNS, *(WITH_THRESHOLD if with_threshold else ()), *infos, SECONDS]
    return markdown_table(columns, [cells(row, runs, columns) for row, runs in found])


def cells(row: Row, runs: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[str]:
    """Return the cells of a row with results."""
    scores = [run["closing_mean"] for run in runs]
    spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    seconds = [run["seconds"] for run in runs if run["seconds"] is not None]
    texts = {
        "task": row.task,
        "agent": row.agent,
        "env steps": f"{row.env_steps:,}",
        "seeds": str(len(runs)) if len(runs) == row.seeds else f"{len(runs)} of {row.seeds}",
        COLUMNS[-1]: (
            f"{statistics.fmean(scores):.2f}{spread} ({min(scores):.2f} … {max(scores):.2f})"
            if len(scores) > 1
            else f"{scores[0]:.2f}"
        ),
        SECONDS: f"{statistics.median(seconds):,.0f}",
    }
    if row.info:
        texts[f"{row.info}, mean"] = f"{statistics.fmean(run['closing_info'] for run in runs):.2f}"
    if row.threshold is not None:
        threshold = row.threshold
        first = [
            next((steps for steps, mean in run["curve"] if mean >= threshold), float("inf"))
            for run in runs
        ]
        median = statistics.median_low(first)
        texts |= {
            "to reach": f"{threshold:g}",
            "seeds that reach it": f"{sum(score >= threshold for score in scores)} of {len(runs)}",
            WITH_THRESHOLD[-1]: f"{median:,}" if median < float("inf") else "never",
        }
    return [texts.get(column, "") for column in columns]


if __name__ == "__main__":
    execute(main)
