"""What waiting costs, and what asynchronous training saves: CartPole with steps that take time.

    python benchmarks/waiting.py                             two ranks, one seed
    python benchmarks/waiting.py --seeds 3 --launcher "mpirun --bind-to none"

A step sleeps, so ranks and environments share no core while they wait, and a machine with two cores
suffices. `half speed`: each step of rank 1 takes twice the time of rank 0's. `heavy tail`: the time
of every step is a Pareto variable with the exponent 1.5, whose mean is three times its least, cut
at 100 times its least. Runs of one case are interleaved, seed by seed.
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
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from command import at_least, execute

from hvd_dqn.common.errors import RunError
from hvd_dqn.tools.bench.launched import require_launcher
from hvd_dqn.tools.bench.report import machine, number, print_table, say, spread
from hvd_dqn.tools.runs import read_records

ENVS = 4
ALL = ["--vector-steps-per-iteration=1"]
READY = ["--env.ready-fraction=0.5", "--vector-steps-per-iteration=2"]
"""As many env steps for each update as with all environments."""
SERVER = ["--distributed.average=server"]
PROCESSES = ["--env.vectorization=async"]
CASES: dict[str, tuple[dict[str, Any], dict[str, list[str]]]] = {
    "half speed": (
        {"milliseconds": 2.0, "slow_rank": 1},
        {"exact": ALL, "server": ALL + SERVER},
    ),
    "heavy tail": (
        {"milliseconds": 2.0, "tail": 1.5},
        {
            "exact": ALL + PROCESSES,
            "server": ALL + PROCESSES + SERVER,
            "ready 0.5": READY + PROCESSES,
            "ready 0.5, server": READY + PROCESSES + SERVER,
        },
    ),
}
"""For each case, how steps take time and the ways to train."""
COMMON = [
    *("--distributed.backend=mpi", "--optimizer.world-size-scaling=none"),
    *(f"--env.num-envs={ENVS}", "--updates-per-iteration=2"),
    *("--evaluation.final-episodes=20", "--evaluation.episodes=10", "--logging.loggers"),
]


class SlowSteps(gym.Wrapper[Any, Any, Any, Any]):
    """Sleeps in each step of the environments that train, and not in evaluations."""

    def __init__(
        self, env: gym.Env[Any, Any], milliseconds: float, tail: float | None, seed: int
    ) -> None:
        super().__init__(env)
        self._seconds = milliseconds / 1000
        self._tail = tail
        self._rng = np.random.default_rng(seed)

    def step(self, action: Any) -> Any:
        """Step, and sleep before."""
        many = 1.0 if self._tail is None else min(1 + self._rng.pareto(self._tail), 100.0)
        time.sleep(many * self._seconds)
        return self.env.step(action)


def make_env(
    rank: int,
    copy: int,
    index: int,
    milliseconds: float,
    slow_rank: int | None = None,
    tail: float | None = None,
    render_mode: str | None = None,
) -> gym.Env[Any, Any]:
    """Return CartPole whose steps take time: the `env.id` of these runs."""
    env = gym.make("CartPole-v1", render_mode=render_mode)
    if copy >= ENVS:
        return env
    return SlowSteps(env, milliseconds * (2 if rank == slow_rank else 1), tail, seed=index)


def main() -> None:
    """Train every case in every way, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=at_least(1), default=1)
    parser.add_argument("--env-steps", type=at_least(2000), default=15_000)
    parser.add_argument("--launcher", default="mpirun")
    arguments = parser.parse_args()
    require_launcher(arguments.launcher)
    rows = []
    for case, (times, ways) in CASES.items():
        runs: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
        for seed in range(arguments.seeds):
            for way, options in ways.items():
                runs[way].append(train(arguments, times, options, seed))
                rate, score, seconds = runs[way][-1]
                say(f"{case}, {way}: {number(rate)} env steps/s, {score:.0f}, {seconds:.0f} s")
        exact = statistics.median(rate for rate, *_ in runs["exact"])
        for way, results in runs.items():
            rates = spread([rate for rate, *_ in results])
            scores = [score for _, score, _ in results]
            rows.append(
                (
                    case,
                    way,
                    str(rates),
                    f"{rates.median / exact:.2f}",
                    f"{statistics.fmean(scores):.0f} ({min(scores):.0f} … {max(scores):.0f})",
                    number(statistics.median(seconds for *_, seconds in results)),
                )
            )
    columns = ("step times", "way", "env steps/s", "of exact", "final return", "seconds")
    print_table(json.dumps(machine()), columns, rows)


def train(
    arguments: argparse.Namespace, times: dict[str, Any], options: list[str], seed: int
) -> tuple[float, float, float]:
    """Train once. Return env steps per second between the first and the last record, the final
    return, and the seconds of the training.
    """
    kwargs = times | {"rank": "{rank}", "copy": "{copy}", "index": "{index}"}
    total = arguments.env_steps
    with tempfile.TemporaryDirectory(prefix=".hvd-dqn-waiting-", dir=Path.cwd()) as scratch:
        run_dir = Path(scratch) / "run"
        command = [
            *(*arguments.launcher.split(), "-np", "2", sys.executable, "-m", "hvd_dqn", "train"),
            *("cartpole", f"--run-dir={run_dir}", f"--seed={seed}", f"--total-env-steps={total}"),
            *("--env.id=waiting:make_env", f"--env.kwargs={json.dumps(kwargs)}"),
            *(f"--evaluation.period-env-steps={total}", *COMMON, *options),
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": _python_path()},
        )
        if done.returncode != 0:
            raise RunError(f"{' '.join(command)} failed: {done.stdout[-500:]}{done.stderr[-1500:]}")
        records = [r for r in read_records(run_dir) if "speed/env_steps_per_second" in r]
        final = json.loads((run_dir / "final.json").read_text())
    first, last = records[0], records[-1]
    seconds = last["seconds"] - first["seconds"]
    rate = (last["env_steps"] - first["env_steps"]) / seconds
    return rate, statistics.fmean(final["returns"]), seconds


def _python_path() -> str:
    """Return the path on which processes find this module."""
    before = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(filter(None, (str(Path(__file__).parent), before)))


if __name__ == "__main__":
    execute(main)
