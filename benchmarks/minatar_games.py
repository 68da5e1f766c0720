"""Five MinAtar games, several seeds, beside Stable-Baselines3's DQN and QR-DQN.

    make peers
    python benchmarks/minatar_games.py --env-steps 100000 --seeds 3

Every run has the same number of env steps, one core, and a final evaluation of 50 greedy whole
games with the game's own sticky actions. Ours are presets whose ε falls over a tenth of the budget;
`peer_sb3.py` describes the others. Runs that are in `benchmarks/results/minatar.json` are not
repeated. Prints a Markdown table: mean ± standard deviation over seeds, of the last network.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from command import at_least, execute
from peers import DEFAULT_PYTHON, HERE, installed, run_script

from hvd_dqn.run.facts import commit
from hvd_dqn.tools.bench.report import print_table, say
from hvd_dqn.tools.runs import read_records

RESULTS = HERE / "results" / "minatar.json"
GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
OURS = ("dqn", "rainbow", "m-iqn")
PEERS = {"SB3 DQN": "Stable-Baselines3", "SB3 QR-DQN": "sb3-contrib"}
"""For each agent, the library that it needs."""
EPISODES = 50


def ours(agent: str, game: str, seed: int, env_steps: int, scratch: Path) -> dict[str, Any]:
    """Train one of our presets; returns the figures of the run."""
    run_dir = scratch / "run"
    command = ["hvd-dqn", "train", f"minatar-{agent}", "--env.id", f"MinAtar/{game}-v1"]
    options = {
        "seed": seed,
        "run-dir": run_dir,
        "total-env-steps": env_steps,
        "exploration.epsilon-decay-env-steps": env_steps // 10,
        "evaluation.period-env-steps": env_steps,  # once, so that no network is selected
        "evaluation.final-episodes": EPISODES,
        "logging.loggers": (),
        "distributed.threads-per-rank": 1,
    }
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())
    records = read_records(run_dir)
    return {
        "closing_mean": records[-1]["closing/return_mean"],
        "closing_std": records[-1]["closing/return_std"],
    }


def theirs(peer: str, game: str, seed: int, env_steps: int, python: Path) -> dict[str, Any]:
    """Train a peer in its own Python; returns the figures of the run."""
    algorithm = peer.removeprefix("SB3 ")
    arguments = ["score", algorithm, game, seed, env_steps, EPISODES]
    result: dict[str, Any] = run_script(python, [str(HERE / "peer_sb3.py"), *map(str, arguments)])
    return result


def environment() -> dict[str, str]:
    """One thread, and this Python's programs first on `PATH`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--env-steps", type=at_least(1000), default=100_000)
    parser.add_argument("--seeds", type=at_least(2), default=3)
    parser.add_argument("--parallel", type=at_least(1), default=os.cpu_count())
    parser.add_argument("--agents", nargs="+", default=[*OURS, *PEERS])
    parser.add_argument("--games", nargs="+", default=GAMES)
    parser.add_argument("--python", type=Path, default=DEFAULT_PYTHON)
    arguments = parser.parse_args()
    facts = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": []}
    lock = threading.Lock()

    def one(key: tuple[str, str, int]) -> None:
        agent, game, seed = key
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            if agent in OURS:
                result = ours(agent, game, seed, arguments.env_steps, Path(scratch))
            else:
                result = theirs(agent, game, seed, arguments.env_steps, arguments.python)
        run = {
            "agent": agent,
            "game": game,
            "seed": seed,
            "env_steps": arguments.env_steps,
            **result,
            "seconds": round(time.monotonic() - began, 1),
            "commit": commit(),
            "date": time.strftime("%Y-%m-%d"),
        }
        with lock:
            facts["runs"].append(run)
            facts["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, one thread a run"
            facts["command"] = (
                f"python benchmarks/minatar_games.py --env-steps {arguments.env_steps} "
                f"--seeds {arguments.seeds}"
            )
            RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
        say(str(run))

    done = {
        (r["agent"], r["game"], r["seed"])
        for r in facts["runs"]
        if r["env_steps"] == arguments.env_steps
    }
    wanted = [
        (agent, game, seed)
        for seed in range(arguments.seeds)
        for game in arguments.games
        for agent in arguments.agents
    ]
    missing = [key for key in wanted if key not in done]
    libraries = {agent: PEERS[agent] for agent, _, _ in missing if agent in PEERS}
    found = installed(arguments.python, libraries.values()) if libraries else {}
    with ThreadPoolExecutor(arguments.parallel) as pool:
        list(pool.map(one, [key for key in missing if libraries.get(key[0]) in (None, *found)]))
    print_scores(facts["runs"], arguments)


def print_scores(runs: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Print mean ± standard deviation over seeds of the last network's greedy return."""
    rows = []
    for game in arguments.games:
        cells = []
        for agent in arguments.agents:
            scores = [
                run["closing_mean"]
                for run in runs
                if (run["agent"], run["game"]) == (agent, game)
                and run["env_steps"] == arguments.env_steps
            ]
            if len(scores) < 2:
                cells.append("–")
            else:
                cells.append(f"{statistics.fmean(scores):.1f} ± {statistics.stdev(scores):.1f}")
        rows.append([game, *cells])
    print_table("", ["game", *arguments.agents], rows)


if __name__ == "__main__":
    execute(main)
