"""How reliably and how fast a preset learns, over several seeds. Runs `hvd-dqn train`.

    python benchmarks/learning.py cartpole --threshold 475 --seeds 10 --ranks 1 2

Prints a Markdown table, and writes the figures of every run to
`benchmarks/results/PRESET-RANKSranks.json`. Options after `--` go to `hvd-dqn train`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hvd_dqn.tools.bench.report import machine, print_table, say
from hvd_dqn.tools.runs import read_records

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    "preset",
    "ranks",
    "seeds at the threshold",
    "final return, mean ± std (min … max)",
    "last evaluation, mean",
    "env steps / updates to the threshold, median",
    "seconds to the threshold, median",
    "seconds of the run, median",
)


def main() -> None:
    """Run every seed on every number of ranks, and print one row for each number of ranks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("preset")
    parser.add_argument("--threshold", type=float, required=True, help="mean return to reach")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--parallel", type=int, default=2, help="number of one-rank runs at a time")
    parser.add_argument("--label", default="", help="appended to the preset's name in the results")
    parser.epilog = "Options after -- go to hvd-dqn train."
    words = [*sys.argv[1:], "--"]
    split = words.index("--")
    arguments = parser.parse_args(words[:split])
    arguments.options = words[split + 1 : -1]
    rows = []
    for ranks in arguments.ranks:
        with ThreadPoolExecutor(arguments.parallel if ranks == 1 else 1) as pool:
            runs = list(
                pool.map(
                    lambda seed, ranks=ranks: one_run(arguments, seed, ranks),
                    range(arguments.first_seed, arguments.first_seed + arguments.seeds),
                )
            )
        write_results(arguments, ranks, runs)
        rows.append(row(arguments, ranks, runs))
    print_table("", COLUMNS, rows)


def one_run(arguments: argparse.Namespace, seed: int, ranks: int) -> dict[str, Any]:
    """Train once; returns the figures of the run."""
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as scratch:
        run_dir = Path(scratch) / "run"
        command = ["hvd-dqn", "train", arguments.preset, "--seed", str(seed)]
        command += ["--run-dir", str(run_dir), *arguments.options, "--logging.loggers"]
        if ranks == 1:
            command += ["--distributed.threads-per-rank", "1"]
        else:
            command = ["horovodrun", "-np", str(ranks), *command]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        seconds = time.monotonic() - began
        records = read_records(run_dir)
    evaluations = [r for r in records if r.get("evaluation/return_mean") is not None]
    reached = next(
        (r for r in evaluations if r["evaluation/return_mean"] >= arguments.threshold), None
    )
    run = {
        "seed": seed,
        "closing_mean": records[-1]["closing/return_mean"],
        "closing_std": records[-1]["closing/return_std"],
        "closing_episodes": records[-1]["closing/episodes"],
        "last_evaluation_mean": evaluations[-1]["evaluation/return_mean"],
        "evaluations": [[r["env_steps"], r["evaluation/return_mean"]] for r in evaluations],
        "reached_env_steps": reached and reached["env_steps"],
        "reached_updates": reached and reached["updates"],
        "reached_seconds": reached and round(reached["seconds"], 1),
        "seconds": round(seconds, 1),
    }
    say(f"{arguments.preset}, {ranks} ranks: {run}")
    return run


def write_results(arguments: argparse.Namespace, ranks: int, runs: list[dict[str, Any]]) -> None:
    """Write the figures of every run to `benchmarks/results/`."""
    RESULTS.mkdir(exist_ok=True)
    facts = {
        **machine(),
        "preset": arguments.preset,
        "ranks": ranks,
        "threshold": arguments.threshold,
        "runs": runs,
    }
    file = RESULTS / f"{name_of(arguments)}-{ranks}ranks.json"
    file.write_text(json.dumps(facts, indent=2) + "\n")


def row(arguments: argparse.Namespace, ranks: int, runs: list[dict[str, Any]]) -> list[str]:
    """Cells of the table for all seeds on `ranks` ranks."""
    good = [run for run in runs if run["closing_mean"] >= arguments.threshold]
    reached = [run for run in runs if run["reached_env_steps"] is not None]
    scores = [run["closing_mean"] for run in runs]
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0

    def median(name: str) -> str:
        return f"{statistics.median(run[name] for run in reached):,.0f}" if reached else "never"

    return [
        name_of(arguments),
        str(ranks),
        f"{len(good)} of {len(runs)}",
        f"{statistics.fmean(scores):.1f} ± {deviation:.1f} ({min(scores):.1f} … {max(scores):.1f})",
        f"{statistics.fmean(run['last_evaluation_mean'] for run in runs):.1f}",
        f"{median('reached_env_steps')} / {median('reached_updates')}",
        median("reached_seconds"),
        f"{statistics.median(run['seconds'] for run in runs):.0f}",
    ]


def name_of(arguments: argparse.Namespace) -> str:
    """The preset, and the label of the options that change it."""
    return f"{arguments.preset}-{arguments.label}" if arguments.label else arguments.preset


if __name__ == "__main__":
    main()
