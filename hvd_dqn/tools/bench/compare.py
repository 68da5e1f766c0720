"""The same work beside what people use now: interleaved runs on one machine.

One process: Stable-Baselines3, Tianshou and TorchRL, in a Python of their own. Two ranks: this
project's ways of averaging, beside Horovod's `DistributedOptimizer` as it is documented and torch's
`DistributedDataParallel`, in this project's own loop.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hvd_dqn.common.errors import RunError, UserError
from hvd_dqn.tools.bench.report import number, print_table, spread
from hvd_dqn.tools.bench.scaling import (
    Keep,
    efficiencies,
    rates,
    run_bench,
    run_program,
    say_rate,
)

PEERS = {
    "Stable-Baselines3": "with_stable_baselines3.py",
    "Tianshou": "with_tianshou.py",
    "TorchRL": "with_torchrl.py",
    "TorchRL, compiled": "with_torchrl.py",
}
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
once a round, since its period of 10 env steps ends while steps are taken: every 128 updates."""
OURS = {"hvd_dqn": [], "hvd_dqn, compiled": ["--optimizer.compile=True"]}


_VERSIONS = """
import importlib.metadata, json, platform, sys
found = {name: importlib.metadata.version(name) for name in sys.argv[1:]}
print(json.dumps({"python": platform.python_version()} | found))
"""


def peer_versions(python: Path) -> dict[str, str]:
    """Of that Python and what is compared in it."""
    packages = ["torch", "gymnasium", "numpy", "stable-baselines3", "tianshou", "torchrl"]
    found: dict[str, str] = json.loads(_call(python, ["-c", _VERSIONS, *packages], "versions"))
    return found


def measure_peers(
    python: Path, *, rounds: int, records: int, num_envs: Sequence[int], keep: Keep
) -> list[dict[str, Any]]:
    """Every library in turn, `rounds` times, one thread each."""
    runs: list[dict[str, Any]] = []
    for number_of_round in range(rounds):
        for count in num_envs:
            total = WORK["learning_starts"] * 2 + records * WORK["record_env_steps"]
            work = WORK | {"num_envs": count, "total_env_steps": total}
            for name, script in PEERS.items():
                path = Path(__file__).parent / "peers" / script
                told = json.dumps(work | {"compile": name.endswith("compiled")})
                output = _call(python, [str(path), told], script)
                run = {"ranks": 1, **json.loads(output.splitlines()[-1])}
                runs.append({"name": name, "num_envs": count} | run)
                _note(number_of_round, runs, keep)
            for name, options in OURS.items():
                words = [*our_words(work), *options]
                ours = run_bench(["train", "--records", str(records), "--", *words], 1, "")
                runs.append({"name": name, "num_envs": count} | ours)
                _note(number_of_round, runs, keep)
    return runs


def _note(number_of_round: int, runs: list[dict[str, Any]], keep: Keep) -> None:
    say_rate(f"round {number_of_round + 1}, {runs[-1]['name']}", runs[-1])
    keep({"runs": runs})


def our_words(work: Mapping[str, Any]) -> list[str]:
    """The same work in our options."""
    options = {
        "env.num_envs": work["num_envs"],
        "vector_steps_per_iteration": work["round_env_steps"] // work["num_envs"],
        "updates_per_iteration": work["round_updates"],
        "target_period_updates": work["target_period_updates"],
        "learning_starts_env_steps": work["learning_starts"],
        "network.layer_norm": False,
        "network.scale_observations": False,
        "objective.double": False,
        "objective.gamma": work["gamma"],
        "replay.n_step": 1,
        "replay.batch_size": work["batch_size"],
        "replay.capacity": work["capacity"],
        "optimizer.learning_rate": work["learning_rate"],
        "optimizer.final_learning_rate_fraction": 1.0,
        "logging.period_env_steps": work["record_env_steps"],
        "distributed.threads_per_rank": 1,
    }
    return ["cartpole", *(f"--{name}={value}" for name, value in options.items())]


def _call(python: Path, words: Sequence[str], name: str) -> str:
    """What the peers' Python prints."""
    try:
        done = subprocess.run(
            [str(python), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise UserError(f"{python}: {error.strerror}", "make peers, or --python PATH") from error
    if done.returncode != 0:
        print(done.stderr[-2000:], file=sys.stderr)
        raise RunError(f"{name} ended in {done.returncode}: its last lines are above")
    return done.stdout


def print_peers(runs: Sequence[Mapping[str, Any]]) -> None:
    """Env steps a second, and how many times as many ours makes."""
    rows = []
    for count in sorted({run["num_envs"] for run in runs}):
        of = {
            name: [
                rate
                for run in runs
                if (run["name"], run["num_envs"]) == (name, count)
                for rate in run["env_steps_per_second"]
            ]
            for name in (*PEERS, *OURS)
        }
        medians = {name: statistics.median(values) for name, values in of.items()}
        for name, values in of.items():
            ratios = ["" if name in OURS else number(medians[us] / medians[name]) for us in OURS]
            rows.append([str(count), name, str(spread(values)), *ratios])
    print_table(
        "CartPole by rl-baselines3-zoo's settings, one thread",
        [
            "environments",
            "library",
            "env steps/s",
            *(f"{us} is so many times as fast" for us in OURS),
        ],
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


def measure_ways(
    words: Sequence[str], *, ranks: int, rounds: int, records: int, launcher: str, keep: Keep
) -> list[dict[str, Any]]:
    """Every way of averaging on one rank and on `ranks`, in turn."""
    runs: list[dict[str, Any]] = []
    for number_of_round in range(rounds):
        for count in (1, ranks):
            for name, kind in DOCUMENTED.items():
                program = ["-m", "hvd_dqn.tools.bench.documented", kind, str(records)]
                result = run_program(program, words, count, launcher)
                runs.append({"name": name, "round": number_of_round} | result)
                _note(number_of_round, runs, keep)
            for name, options in WAYS.items():
                if count == 1 and "backend" in " ".join(options):
                    continue  # one rank has no backend
                train = ["train", "--records", str(records), "--", *words, *options]
                result = run_bench(train, count, launcher)
                runs.append({"name": name, "round": number_of_round} | result)
                _note(number_of_round, runs, keep)
    return runs


def print_ways(runs: Sequence[Mapping[str, Any]], ranks: int) -> None:
    """Env steps a second on one rank and on several; efficiency is against the same way alone,
    which for mpi4py is ours: one rank has nobody to send anything to.
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
        f"gradients over {ranks} ranks, each with its environments and its batch",
        ["way", "one rank, env steps/s", f"{ranks} ranks", "efficiency"],
        rows,
    )
