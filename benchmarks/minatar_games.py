"""Five MinAtar games, several seeds, beside Stable-Baselines3's DQN and QR-DQN.

    make peers
    python benchmarks/minatar_games.py --env-steps 100000 --seeds 3

Every run has the same number of env steps, one core, and a closing evaluation of 50 greedy whole
games with the game's own sticky actions. Ours are presets with ε falling over a tenth of the
budget; the others are described in `peer_sb3.py`. Runs already in `benchmarks/results/minatar.json`
are not done again. Prints a Markdown table of mean ± standard deviation over seeds, of the last
network.
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

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "minatar.json"
GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
OURS = ("dqn", "rainbow", "m-iqn")
PEERS = ("SB3 DQN", "SB3 QR-DQN")
EPISODES = 50


def ours(agent: str, game: str, seed: int, env_steps: int, scratch: Path) -> dict[str, Any]:
    """Train a preset by its command; the figures of that run."""
    run_dir = scratch / "run"
    command = ["hvd-dqn", "train", f"minatar-{agent}", "--env.id", f"MinAtar/{game}-v1"]
    options = {
        "seed": seed,
        "run-dir": run_dir,
        "total-env-steps": env_steps,
        "exploration.epsilon-decay-env-steps": env_steps // 10,
        "evaluation.period-env-steps": env_steps,  # once, so that no network is chosen
        "evaluation.final-episodes": EPISODES,
        "logging.loggers": (),
        "distributed.threads-per-rank": 1,
    }
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {
        "closing_mean": records[-1]["closing/return_mean"],
        "closing_std": records[-1]["closing/return_std"],
    }


def theirs(peer: str, game: str, seed: int, env_steps: int, python: Path) -> dict[str, Any]:
    """Train a peer in its own virtual environment."""
    script = Path(__file__).with_name("peer_sb3.py")
    algorithm = peer.removeprefix("SB3 ")
    arguments = [algorithm, game, seed, env_steps, EPISODES]
    command = [str(python), str(script), *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment())
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def environment() -> dict[str, str]:
    """One thread for everything, and this Python's programs first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env-steps", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=os.cpu_count())
    parser.add_argument("--agents", nargs="+", default=[*OURS, *PEERS])
    parser.add_argument("--games", nargs="+", default=GAMES)
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".venv-peers/bin/python")
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
                result = theirs(agent, game, seed, arguments.env_steps, arguments.peers_python)
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
        print(run, file=sys.stderr, flush=True)

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
    with ThreadPoolExecutor(arguments.parallel) as pool:
        list(pool.map(one, [key for key in wanted if key not in done]))
    print_table(facts["runs"], arguments)


def print_table(runs: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Mean ± standard deviation over seeds of the last network's greedy return."""
    print("| game | " + " | ".join(arguments.agents) + " |")
    print("|---" * (len(arguments.agents) + 1) + "|")
    for game in arguments.games:
        cells = []
        for agent in arguments.agents:
            scores = [
                run["closing_mean"]
                for run in runs
                if (run["agent"], run["game"]) == (agent, game)
                and run["env_steps"] == arguments.env_steps
            ]
            cells.append(f"{statistics.fmean(scores):.1f} ± {statistics.stdev(scores):.1f}")
        print(f"| {game} | " + " | ".join(cells) + " |")


def commit() -> str:
    """Of this repository."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


if __name__ == "__main__":
    main()
