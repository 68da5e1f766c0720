"""Collects trained policies from the runs of `scores.py`, and writes their page.

    python benchmarks/zoo.py

Each row of `score_rows.py` with a name for the zoo gives the policy of its first seed, whatever
that seed's score. A policy is `benchmarks/zoo/NAME/`: `config.json`, `run.json`, a thinned
`metrics.jsonl`, the network whose return the tables state, and `card.json`. `docs/zoo.md` gets the
list, with the learning curve and an episode of each policy.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from command import execute
from score_rows import Row, rows
from scores import RUNS, name_of, results_of, run_command

from hvd_dqn.common.files import publish
from hvd_dqn.networks.saved import NetworkDirectory
from hvd_dqn.tools.bench.report import say
from hvd_dqn.tools.runs import read_records

HERE = Path(__file__).parent
ZOO = HERE / "zoo"
DOCS = HERE.parent / "docs"
SEED = 0
VIDEO_STEPS = 75
MAX_RECORDS = 100
FACTS = ("id", "hvd_dqn", "commit", "started", "packages", "world_size", "backend", "spaces")
KEYS = ("env_steps", "updates", "seconds", "episode/return_mean")


def main() -> None:
    """Collect all policies that have been trained here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="a part of a policy's name")
    arguments = parser.parse_args()
    for row in rows():
        if row.zoo and arguments.only in row.zoo:
            run_dir = RUNS / row.group / name_of(row) / f"seed-{SEED}"
            runs = [run for run in results_of(row) if run["seed"] == SEED]
            if runs and run_dir.is_dir():
                collect(row, runs[0], run_dir)
                draw(row.zoo)
                say(row.zoo)
    page = DOCS / "zoo.md"
    begin, end = "<!-- policies -->\n", "<!-- end of policies -->"
    before, _, rest = page.read_text().partition(begin)
    after = rest.partition(end)[2]
    publish(page, "".join([before, begin, *sections(), end, after]).encode())


def collect(row: Row, run: dict[str, Any], run_dir: Path) -> None:
    """Write the policy's directory."""
    place = ZOO / f".{row.zoo}"
    shutil.rmtree(place, ignore_errors=True)
    networks = NetworkDirectory(run_dir / "networks")
    saved = networks.find("newest" if row.protocol == "last" else "best")
    shutil.copytree(saved.path, place / "networks" / saved.path.name)
    shutil.copy(run_dir / "config.json", place)
    facts = json.loads((run_dir / "run.json").read_text())
    kept = {name: facts[name] for name in FACTS} | {"command": run["command"].split()}
    (place / "run.json").write_text(json.dumps(kept, indent=1) + "\n")
    (place / "metrics.jsonl").write_text("".join(thinned(read_records(run_dir))))
    card = {
        "name": row.zoo,
        "task": row.task if "-v" in row.task else env_id_of(run_dir),
        "env_steps": row.env_steps,
        "closing_mean": run["closing_mean"],
        "closing_std": run["closing_std"],
        "episodes": row.episodes,
        "network": f"{'the last' if row.protocol == 'last' else 'selected by evaluations'}, "
        f"of {saved.env_steps:,} env steps",
        "seed": SEED,
        "closing_means": [one["closing_mean"] for one in by_seed(row)],
        **{name: run[name] for name in ("command", "commit", "date", "seconds", "cpu")},
    }
    (place / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    shutil.rmtree(ZOO / row.zoo, ignore_errors=True)
    place.rename(ZOO / row.zoo)


def env_id_of(run_dir: Path) -> str:
    """Return the id of a run's environment."""
    return str(json.loads((run_dir / "config.json").read_text())["env"]["id"])


def by_seed(row: Row) -> list[dict[str, Any]]:
    """Return the runs of a row, in the order of their seeds."""
    return sorted(results_of(row), key=lambda run: run["seed"])


def thinned(records: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a few records, and of all evaluations."""
    plain = [r for r in records if "evaluation/return_mean" not in r]
    kept = plain[:: -(-len(plain) // MAX_RECORDS) or 1]
    for record in records:
        evaluated = any(key.startswith(("evaluation/", "closing/")) for key in record)
        if evaluated or record in kept:
            short = {
                key: round(value, 4) if isinstance(value, float) else value
                for key, value in record.items()
                if key in KEYS or key.startswith(("evaluation/", "closing/"))
            }
            yield json.dumps(short) + "\n"


def draw(name: str) -> None:
    """Draw the policy's learning curve, and film an episode if its environment can be rendered."""
    pictures = DOCS / "zoo"
    pictures.mkdir(exist_ok=True)
    for kind in ("png", "gif"):
        (pictures / f"{name}.{kind}").unlink(missing_ok=True)
    os.environ["HVD_DQN_ZOO"] = str(ZOO)
    run_command(["hvd-dqn", "plot", f"zoo:{name}", "--output", str(pictures / f"{name}.png")])
    video = [
        "--video",
        str(pictures / f"{name}.gif"),
        "--max-steps",
        str(VIDEO_STEPS),
        "--fps=15",
    ]
    try:
        run_command(["hvd-dqn", "play", f"zoo:{name}", *video])
    except subprocess.CalledProcessError:
        print(f"{name} cannot be filmed here", file=sys.stderr)


def sections() -> Iterator[str]:
    """Yield the part of the page about each policy."""
    for file in sorted(ZOO.glob("*/card.json")):
        card = json.loads(file.read_text())
        name = card["name"]
        means = ", ".join(f"{mean:.4g}" for mean in card["closing_means"])
        yield f"\n## {name}\n\n"
        yield f"{card['task']}: {card['closing_mean']:.4g} ± {card['closing_std']:.4g} over "
        yield f"{card['episodes']} greedy episodes after {card['env_steps']:,} env steps. "
        yield f"Means of the seeds that have been run: {means}.\n\n"
        yield f"```text\n{card['command']}\n```\n\n"
        for kind, what in (("png", "learning curve"), ("gif", "an episode")):
            if (DOCS / "zoo" / f"{name}.{kind}").exists():
                yield f"![{name}, {what}](zoo/{name}.{kind}){{width=45%}}\n"
    yield "\n"


if __name__ == "__main__":
    execute(main)
