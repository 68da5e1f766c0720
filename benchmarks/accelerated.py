"""End-to-end training speed on Atari, with more and more of the options that accelerate it.

    python benchmarks/accelerated.py                       on a machine with a GPU
    python benchmarks/accelerated.py --device cpu          the options that need no GPU

Each row is `hvd-dqn bench train` with one update of 256 after every 64 env steps. A row that begins
with "and" has the options of the rows above it. Each round runs every row once.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import torch
from command import at_least, execute

from hvd_dqn.common.stages import STAGES
from hvd_dqn.tools.bench.launched import run_bench
from hvd_dqn.tools.bench.report import number, print_table, spread, write

WORK = [
    "dqn",
    "--env.num_envs=64",
    "--replay.batch_size=256",
    "--updates_per_iteration=1",
    "--replay.capacity=200000",
    "--optimizer.name=adam",
]
"""The published settings except for sizes: a sixteenth of the updates, with eight times the
samples each."""
RECORDED = {"optimizer.cuda_graph": "True"}
COMPILED = RECORDED | {"optimizer.compile": "True"}
BFLOAT16 = COMPILED | {"network.precision": "bfloat16"}
OVERLAPPED = BFLOAT16 | {"env.overlap_updates": "True"}
APART = OVERLAPPED | {"env.overlap_acting": "True"}
ON_DEVICE = APART | {"replay.storage": "device"}
ROWS: dict[str, dict[str, str]] = {
    "eager": {},
    "recorded (CUDA graph)": RECORDED,
    "and compiled": COMPILED,
    "and bfloat16": BFLOAT16,
    "and environments meanwhile": OVERLAPPED,
    "and acting on its own stream": APART,
    "and the replay on the device": ON_DEVICE,
}
GPU_ONLY = {"optimizer.cuda_graph", "replay.storage"}


def measure(options: dict[str, str], arguments: argparse.Namespace) -> dict[str, float]:
    """Run once; returns the median env steps per second, and the share of each stage."""
    words = [*WORK, f"--device={arguments.device}", *arguments.words]
    words += [f"--{name}={value}" for name, value in options.items()]
    result = run_bench(["train", "--records", str(arguments.records), "--", *words], 1, "")
    speed = statistics.median(result["env_steps_per_second"])
    return {"env_steps_per_second": speed, **result["shares"]}


def main() -> None:
    """Measure every row, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("--records", type=at_least(1), default=5)
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    parser.add_argument("words", nargs="*", metavar="-- --option VALUE", help="of hvd-dqn train")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU: pass --device cpu to measure the options that need none")
    without = set() if arguments.device == "cuda" else GPU_ONLY
    rows: dict[str, dict[str, str]] = {}
    for name, options in ROWS.items():
        left = {key: value for key, value in options.items() if key not in without}
        if left not in rows.values():
            rows[name] = left
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in rows}
    for _ in range(arguments.rounds):
        for name, options in rows.items():
            runs[name].append(measure(options, arguments))
    write("accelerated", {"runs": runs}, arguments.json)
    base = statistics.median(run["env_steps_per_second"] for run in runs["eager"])
    table = []
    for name, each in runs.items():
        speeds = [run["env_steps_per_second"] for run in each]
        shares = [f"{statistics.median(run[stage] for run in each):.0%}" for stage in STAGES[:6]]
        ratio = number(statistics.median(speeds) / base)
        table.append([name, str(spread(speeds)), ratio, *shares])
    columns = ["", "env steps/s", "speed / eager", *STAGES[:6]]
    print_table("", columns, table)


if __name__ == "__main__":
    execute(main)
