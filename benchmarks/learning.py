"""Does a preset learn, on how many seeds, and after how much? Runs the real command and reads what
it wrote.

    python benchmarks/learning.py cartpole --threshold 475 --seeds 10 --ranks 1 2

Prints a Markdown table and writes every run's figures to
`benchmarks/results/PRESET-RANKSranks.json`.
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

sys.path.insert(0, str(Path(__file__).parents[1]))

from hvd_dqn.tools.bench.report import machine

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run every seed on every number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("--threshold", type=float, required=True, help="mean return to reach")
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--parallel", type=int, default=2, help="one-rank runs side by side")
    parser.add_argument("--label", default="", help="behind the preset's name: what options change")
    parser.epilog = "Further options of hvd-dqn train stand behind --."
    words = [*sys.argv[1:], "--"]
    split = words.index("--")
    arguments = parser.parse_args(words[:split])
    arguments.options = words[split + 1 : -1]
    for ranks in arguments.ranks:
        with ThreadPoolExecutor(arguments.parallel if ranks == 1 else 1) as pool:
            runs = list(
                pool.map(
                    lambda seed, ranks=ranks: one_run(arguments, seed, ranks),
                    range(arguments.first_seed, arguments.first_seed + arguments.seeds),
                )
            )
        report(arguments, ranks, runs)


def one_run(arguments: argparse.Namespace, seed: int, ranks: int) -> dict[str, Any]:
    """Train once; the figures of that run."""
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as scratch:
        run_dir = Path(scratch) / "run"
        command = [
            "hvd-dqn",
            "train",
            arguments.preset,
            "--seed",
            str(seed),
            "--run-dir",
            str(run_dir),
        ]
        command += [*arguments.options, "--logging.loggers"]
        if ranks == 1:
            command += ["--distributed.threads-per-rank", "1"]
        else:
            command = ["horovodrun", "-np", str(ranks), *command]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        seconds = time.monotonic() - began
        records = [
            json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()
        ]
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
    print(f"{arguments.preset}, {ranks} ranks: {run}", file=sys.stderr, flush=True)
    return run


def report(arguments: argparse.Namespace, ranks: int, runs: list[dict[str, Any]]) -> None:
    """Write the file and print the table's line."""
    good = [run for run in runs if run["closing_mean"] >= arguments.threshold]
    reached = [run for run in runs if run["reached_env_steps"] is not None]
    scores = [run["closing_mean"] for run in runs]
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    RESULTS.mkdir(exist_ok=True)
    facts = {
        **machine(),
        "preset": arguments.preset,
        "ranks": ranks,
        "threshold": arguments.threshold,
        "runs": runs,
    }
    label = f"-{arguments.label}" if arguments.label else ""
    name = f"{arguments.preset}{label}-{ranks}ranks.json"
    (RESULTS / name).write_text(json.dumps(facts, indent=2) + "\n")

    def median(name: str) -> str:
        return f"{statistics.median(run[name] for run in reached):,.0f}" if reached else "never"

    print(
        f"| {arguments.preset}{label} | {ranks} | {len(good)} of {len(runs)} "
        f"| {statistics.fmean(scores):.1f} ± {deviation:.1f} "
        f"({min(scores):.1f} … {max(scores):.1f}) "
        f"| {statistics.fmean(run['last_evaluation_mean'] for run in runs):.1f} "
        f"| {median('reached_env_steps')} / {median('reached_updates')} "
        f"| {median('reached_seconds')} "
        f"| {statistics.median(run['seconds'] for run in runs):.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
