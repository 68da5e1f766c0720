"""Compares training speed with other libraries, and ways of averaging gradients with each other.

    python benchmarks/compare.py                                     ways of averaging, two ranks
    make peers
    python benchmarks/compare.py --python .venv-peers/bin/python     other libraries, too

Libraries train CartPole in one process on one thread: Stable-Baselines3, Tianshou and TorchRL
(those that are installed and work) and this project, eager and compiled. Ways of averaging run on
one rank and on several: this project's, and Horovod's `DistributedOptimizer` and torch's
`DistributedDataParallel` as their documentation shows them (`documented.py`), all in this project's
training loop. They train the preset and options that follow `--`. Runs are interleaved, round by
round.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from command import at_least, execute
from peers import HERE, installed, run_script, versions

from hvd_dqn.common.errors import RunError
from hvd_dqn.common.files import require_writable
from hvd_dqn.tools.bench.launched import (
    efficiencies,
    rates,
    require_launcher,
    run_bench,
    run_program,
    say_rate,
)
from hvd_dqn.tools.bench.report import finish, number, print_table, say, spread, write

Keep = Callable[[list[dict[str, Any]]], None]
"""Receives all runs so far after each run, so that a later failure does not lose them."""

PEERS = {
    "Stable-Baselines3": ("Stable-Baselines3", ["peer_sb3.py", "speed"]),
    "Tianshou": ("Tianshou", ["peer_tianshou.py"]),
    "TorchRL": ("TorchRL", ["peer_torchrl.py"]),
    "TorchRL, compiled": ("TorchRL", ["peer_torchrl.py"]),
}
"""For each row, its library and the script that runs it."""
OURS = {"hvd_dqn": [], "hvd_dqn, compiled": ["--optimizer.compile=True"]}
WORK: dict[str, Any] = {
    "env_id": "CartPole-v1",
    "learning_rate": 2.3e-3,
    "capacity": 100_000,
    "learning_starts": 1_000,
    "batch_size": 64,
    "gamma": 0.99,
    "round_env_steps": 256,
    "round_updates": 128,
    "target_period_env_steps": 10,
    "target_period_updates": 128,
    "hidden_sizes": [256, 256],
    "record_env_steps": 2_000,
}
"""rl-baselines3-zoo's CartPole: 128 updates after every 256 env steps. Its target network changes
once per round, because its period of 10 env steps ends while steps are taken: every 128 updates."""


def our_words(work: Mapping[str, Any]) -> list[str]:
    """The preset and options of `hvd-dqn train` for the same work."""
    options = {
        "env.num-envs": work["num_envs"],
        "vector-steps-per-iteration": work["round_env_steps"] // work["num_envs"],
        "updates-per-iteration": work["round_updates"],
        "target-period-updates": work["target_period_updates"],
        "learning-starts-env-steps": work["learning_starts"],
        "network.layer-norm": False,
        "network.scale-observations": False,
        "objective.double": False,
        "objective.gamma": work["gamma"],
        "replay.n-step": 1,
        "replay.batch-size": work["batch_size"],
        "replay.capacity": work["capacity"],
        "optimizer.learning-rate": work["learning_rate"],
        "optimizer.final-learning-rate-fraction": 1.0,
        "logging.period-env-steps": work["record_env_steps"],
        "distributed.threads-per-rank": 1,
    }
    return ["cartpole", *(f"--{name}={value}" for name, value in options.items())]


def measure_peers(
    python: Path,
    libraries: Sequence[str],
    *,
    rounds: int,
    records: int,
    num_envs: Sequence[int],
    keep: Keep,
) -> list[dict[str, Any]]:
    """Run these libraries and this project in turn, `rounds` times, on one thread.

    A row whose script fails is reported in one line and left out from then on.
    """
    runs: list[dict[str, Any]] = []
    rows = {name: row for name, row in PEERS.items() if row[0] in libraries}

    def add(round_index: int, name: str, count: int, result: Mapping[str, Any]) -> None:
        runs.append({"name": name, "num_envs": count, "ranks": 1, **result})
        say_rate(f"round {round_index + 1}, {name}", runs[-1])
        keep(runs)

    total = WORK["learning_starts"] * 2 + records * WORK["record_env_steps"]
    for round_index in range(rounds):
        for count in num_envs:
            work = WORK | {"num_envs": count, "total_env_steps": total}
            for name, (_, (script, *words)) in list(rows.items()):
                told = json.dumps(work | {"compile": name.endswith("compiled")})
                try:
                    result = run_script(python, [str(HERE / script), *words, told])
                except RunError as error:
                    say(f"{name} is left out: {error}")
                    del rows[name]
                else:
                    add(round_index, name, count, result)
            for name, options in OURS.items():
                train = ["train", "--records", str(records), "--", *our_words(work), *options]
                add(round_index, name, count, run_bench(train, 1, ""))
    return runs


def print_peers(runs: Sequence[Mapping[str, Any]]) -> None:
    """Print env steps per second, and this project's speed divided by each library's."""
    rows = []
    for count in sorted({run["num_envs"] for run in runs}):
        speeds: dict[str, list[float]] = {}
        for run in runs:
            if run["num_envs"] == count:
                speeds.setdefault(run["name"], []).extend(run["env_steps_per_second"])
        medians = {name: statistics.median(values) for name, values in speeds.items()}
        for name, values in speeds.items():
            ratios = ["" if name in OURS else number(medians[us] / medians[name]) for us in OURS]
            rows.append([str(count), name, str(spread(values)), *ratios])
    print_table(
        "CartPole with rl-baselines3-zoo's settings, one thread",
        ["environments", "library", "env steps/s", *(f"speed of {us} / its speed" for us in OURS)],
        rows,
    )


WAYS: dict[str, list[str]] = {
    "one flat buffer by Horovod, exact": [],
    "the same, one update late": ["--distributed.average=delayed_gradients"],
    "the same by mpi4py": ["--distributed.backend=mpi"],
    "mpi4py, one update late": [
        "--distributed.backend=mpi",
        "--distributed.average=delayed_gradients",
    ],
}
DOCUMENTED = {
    "DistributedOptimizer": "horovod",
    "DistributedOptimizer, our waiting": "horovod-asleep",
    "DistributedDataParallel, Gloo": "ddp",
}
"""For each row, the way in `documented.py`."""


def measure_ways(
    words: Sequence[str], *, ranks: int, rounds: int, records: int, launcher: str, keep: Keep
) -> list[dict[str, Any]]:
    """Run every way of averaging on one rank and on `ranks`, in turn, `rounds` times."""
    runs: list[dict[str, Any]] = []

    def add(round_index: int, name: str, result: Mapping[str, Any]) -> None:
        runs.append({"name": name, "round": round_index, **result})
        say_rate(f"round {round_index + 1}, {name}", runs[-1])
        keep(runs)

    for round_index in range(rounds):
        for count in (1, ranks):
            for name, way in DOCUMENTED.items():
                program = [str(HERE / "documented.py"), way, str(records)]
                add(round_index, name, run_program(program, words, count, launcher))
            for name, options in WAYS.items():
                if count == 1 and "backend" in " ".join(options):
                    continue  # one rank uses no backend
                train = ["train", "--records", str(records), "--", *words, *options]
                add(round_index, name, run_bench(train, count, launcher))
    return runs


def print_ways(runs: Sequence[Mapping[str, Any]], ranks: int) -> None:
    """Print env steps per second on one rank and on several.

    Efficiency is relative to the same way on one rank; for mpi4py, to this project on one rank,
    which uses no backend.
    """
    exact, late, *_ = WAYS
    rows = []
    for name in (*DOCUMENTED, *WAYS):
        alone = rates(runs, 1, name=name)
        if not alone:
            alone = rates(runs, 1, name=late if "late" in name else exact)
        several = rates(runs, ranks, name=name)
        shares = efficiencies(several, ranks, alone)
        figures = (list(alone.values()), list(several.values()), shares)
        rows.append([name, *(str(spread(values)) for values in figures)])
    print_table(
        f"gradients over {ranks} ranks, each with its own environments and batch",
        ["way", "one rank, env steps/s", f"{ranks} ranks", "efficiency"],
        rows,
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--python", type=Path, help="Python with the other libraries; default: leave them out")
    add("--num-envs", nargs="+", type=at_least(1), default=[1, 8], help="for the libraries")
    add("--ranks", type=at_least(0), default=2, help="for the ways; 0: libraries only")
    add("--rounds", type=at_least(1), default=3, help="number of runs of each")
    add("--records", type=at_least(3), default=8, help="records to measure per run")
    add("--launcher", default="horovodrun", help="starts several ranks; may have options")
    add("--json", type=Path, help="write all measurements to this file")
    add("words", nargs="*", metavar="-- PRESET --option VALUE", help="what the ways train")
    arguments = parser.parse_args()
    if arguments.ranks == 1:
        parser.error("--ranks 1: must be 0, or 2 or more")
    if arguments.ranks == 0 and arguments.python is None:
        parser.error("--ranks 0 without --python leaves nothing to compare")
    return arguments


def main() -> None:
    """Compare what the command line asks for."""
    arguments = parse_arguments()
    if arguments.ranks:
        require_launcher(arguments.launcher)
    if arguments.json is not None:
        require_writable(arguments.json)
    results: dict[str, Any] = {}

    def keep(part: str) -> Keep:
        return lambda runs: write("compare", results | {part: runs}, arguments.json)

    if arguments.python is not None:
        found = installed(arguments.python, dict.fromkeys(library for library, _ in PEERS.values()))
        more = versions(arguments.python, ["torch", "gymnasium", "numpy"])
        results["peer_versions"] = found | more
        results["peers"] = measure_peers(
            arguments.python,
            list(found),
            rounds=arguments.rounds,
            records=arguments.records,
            num_envs=arguments.num_envs,
            keep=keep("peers"),
        )
        print_peers(results["peers"])
    if arguments.ranks:
        results["ways"] = measure_ways(
            arguments.words or ["cartpole", "--distributed.threads-per-rank=1"],
            ranks=arguments.ranks,
            rounds=arguments.rounds,
            records=arguments.records,
            launcher=arguments.launcher,
            keep=keep("ways"),
        )
        print_ways(results["ways"], arguments.ranks)
    finish("compare", results, arguments.json)


if __name__ == "__main__":
    execute(main)
