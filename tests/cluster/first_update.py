"""How long it is from sbatch to the first update, by launcher: a table.

    python -m tests.cluster.first_update

The job is two ranks of CartPole on two virtual nodes of this machine.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.batch import Batch
from tests.cluster.hosts import REPOSITORY
from tests.cluster.slurm import Slurm, why_not
from tests.launching import AS_ROOT, wait_until

ROUNDS = 3


def main() -> None:
    """Measure and print the table."""
    reason = why_not()
    if reason is not None:
        raise SystemExit(reason)
    print("| launcher | the job starts | its nodes are found well | first update |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        with Slurm(place / "slurm", 2, place) as slurm:
            slurm.environment |= AS_ROOT | {"PYTHONPATH": str(REPOSITORY)}
            for launcher in ("srun", "mpirun", "horovodrun"):
                rounds = [
                    measure(slurm, place / f"{launcher}-{number}", launcher)
                    for number in range(ROUNDS)
                ]
                cells = [f"{statistics.median(times):.1f} s" for times in zip(*rounds, strict=True)]
                print(f"| {launcher} | {' | '.join(cells)} |", flush=True)


def measure(slurm: Slurm, place: Path, launcher: str) -> list[float]:
    """Return the seconds from sbatch to each of the three."""
    began = time.monotonic()
    batch = Batch(slurm, place, launcher=launcher, changes={"distributed.hang_seconds": 2.0})
    times = []

    def note(happened: Callable[[], bool], what: str) -> None:
        wait_until(happened, what, 120)
        times.append(time.monotonic() - began)

    note(lambda: slurm.state(batch.number) == "RUNNING", "the job to start")
    note(lambda: (batch.run_dir / "logs/well").exists(), "the nodes to be asked")
    note(lambda: updates(batch.run_dir) > 0, "the first update")
    batch.finish()
    return times


def updates(run_dir: Path) -> int:
    """Return the last line of rank 0."""
    try:
        return int(json.loads((run_dir / "heartbeats/rank-0.json").read_text())[3])
    except (OSError, ValueError):
        return 0


if __name__ == "__main__":
    main()
