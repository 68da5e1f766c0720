"""End-to-end training on Atari, option by option: what each is worth on this machine. A table.

    python benchmarks/accelerated.py                       on a machine with a GPU
    python benchmarks/accelerated.py --device cpu          what of it a machine without one can do

`hvd-dqn bench train` of one update of 256 after every 64 env steps, each row with the options of
those above it where it says so, every round one of each row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from hvd_dqn.common.stages import STAGES
from hvd_dqn.tools.bench.report import number, print_table, spread, write

WORK = [
    "dqn",
    "--env.num_envs=64",
    "--replay.batch_size=256",
    "--updates_per_iteration=1",
    "--replay.capacity=200000",
    "--optimizer.name=adam",
]
"""Published settings but for the sizes: a sixteenth of the updates, of eight times the samples."""
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
OF_A_GPU = {"optimizer.cuda_graph", "replay.storage"}


def measure(options: dict[str, str], arguments: argparse.Namespace) -> dict[str, float]:
    """Medians of one run's records."""
    words = [*WORK, f"--device={arguments.device}", *arguments.words]
    words += [f"--{name}={value}" for name, value in options.items()]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "result.json"
        command = [sys.executable, "-m", "hvd_dqn", "bench", "train", "--records"]
        command += [str(arguments.records), "--json", str(file), "--", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        result = json.loads(file.read_text())
    speed = statistics.median(result["env_steps_per_second"])
    return {"env_steps_per_second": speed} | result["shares"]


def main() -> None:
    """The table, and its numbers as JSON where they are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--records", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every measurement here")
    parser.add_argument("words", nargs="*", help="options of hvd-dqn train, behind --")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here: --device cpu measures what a machine without one can do")
    without = set() if arguments.device == "cuda" else OF_A_GPU
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
        times = number(statistics.median(speeds) / base)
        table.append([name, str(spread(speeds)), times, *shares])
    print_table("", ["", "env steps a second", "times as fast", *STAGES[:6]], table)


if __name__ == "__main__":
    main()
