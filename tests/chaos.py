"""Faults at random moments, and runs that must end as if there had been none.

    python -m tests.chaos --kills 100 --hangs 20 --corruptions 200 --signals 50

Each run is disturbed a few times, resumed each time, and then finishes. Its last checkpoint is
compared, bit for bit, with that of an undisturbed run.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.checkpoints import assert_equal, everything
from tests.distributed.workers import small_config
from tests.launching import Finished, Job, started

HANG_SECONDS = 4.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
FAULTS_A_RUN = 4


@dataclass
class Tally:
    """The counts of a campaign."""

    kills: int = 0
    hangs: int = 0
    corruptions: int = 0
    signals: int = 0
    runs: int = 0
    wrong: int = 0
    left_behind: int = 0
    slowest_exit_seconds: float = 0.0

    def table(self) -> str:
        """Return a Markdown table."""
        names = [field.name.replace("_", " ") for field in dataclasses.fields(self)]
        values = [
            f"{value:.1f}" if isinstance(value, float) else str(value)
            for value in dataclasses.astuple(self)
        ]
        return "\n".join(
            (
                "| " + " | ".join(names) + " |",
                "|---" * len(names) + "|",
                "| " + " | ".join(values) + " |",
            )
        )


class Campaign:
    """Runs of one configuration on one number of ranks."""

    def __init__(self, scratch: Path, ranks: int, rng: random.Random, tally: Tally) -> None:
        self.scratch, self.ranks, self.rng, self.tally = scratch, ranks, rng, tally
        config = small_config().changed(
            {
                "total_env_steps": 6000,
                "replay.sampling": "prioritized",
                "checkpoint.period_env_steps": 240,
                "distributed.hang_seconds": HANG_SECONDS,
            }
        )
        self.config_file = scratch / "config.json"
        self.config_file.write_text(config.to_json())
        done = self.go_on(scratch / "alone")
        assert done.code == 0, done.output
        self.alone = everything(scratch / "alone" / "checkpoints")

    def start(self, run_dir: Path) -> contextlib.AbstractContextManager[Job]:
        """The command, on all ranks."""
        arguments = ["train", "--config", str(self.config_file), "--run-dir", str(run_dir)]
        return started(["-m", "hvd_dqn", *arguments], ranks=self.ranks)

    def go_on(self, run_dir: Path) -> Finished:
        """To the end."""
        with self.start(run_dir) as job:
            return job.wait()

    def disturb(self, run_dir: Path, fault: str) -> Finished | None:
        """Start the run, strike it somewhere, and see it end; `None` where it was done before."""
        with self.start(run_dir) as job:
            if not _wait_for_life(job, run_dir, self.ranks):
                return None
            time.sleep(self.rng.uniform(0, 2.5))
            rank = self.rng.randrange(self.ranks)
            pid = _pid(run_dir, rank)
            struck = time.monotonic()
            number = {"kill": signal.SIGKILL, "hang": signal.SIGSTOP}.get(
                fault, self.rng.choice(STOP_SIGNALS)
            )
            if pid is None or not _send(pid, number):
                return None
            done = job.wait(60 + 3 * HANG_SECONDS)
            seconds = time.monotonic() - struck
            time.sleep(0.5)
            self.tally.left_behind += len(job.members())
            self.tally.slowest_exit_seconds = max(self.tally.slowest_exit_seconds, seconds)
            return done

    def run(self, faults: Sequence[str], corruptions: int) -> None:
        """One run with these faults, and its newest checkpoints damaged in between."""
        run_dir = self.scratch / f"run-{self.tally.runs}"
        for fault in faults:
            done = self.disturb(run_dir, fault)
            if done is None or done.code == 0:
                continue
            name = {"kill": "kills", "hang": "hangs", "signal": "signals"}[fault]
            setattr(self.tally, name, getattr(self.tally, name) + 1)
            if (done.code == 75) != (fault == "signal") or done.code == 2:
                self.tally.wrong += 1
                print(f"a {fault} ended in {done.code}:\n{done.output}", file=sys.stderr)
            if corruptions and self.damage(run_dir / "checkpoints"):
                corruptions -= 1
                self.tally.corruptions += 1
        done = self.go_on(run_dir)
        self.tally.runs += 1
        try:
            assert done.code == 0, done.output
            assert_equal(self.alone, everything(run_dir / "checkpoints"))
        except AssertionError as error:
            self.tally.wrong += 1
            print(f"{run_dir} after {faults}: {error}", file=sys.stderr)

    def damage(self, checkpoints: Path) -> bool:
        """Flip a bit of the newest checkpoint, or cut a file of it short; whether there is another
        to go on from.
        """
        manifests = sorted(checkpoints.glob("step-*/manifest.json"))
        if len(manifests) < 2:
            return False
        try:
            older, body = (json.loads(manifest.read_text())["body"] for manifest in manifests[-2:])
        except (ValueError, KeyError):  # struck already, and no other has been made since
            return False
        spared = {segment[0][0] for _, segments in older["ranks"] for segment in segments}
        records = [body["shared"], *(state for state, _ in body["ranks"])]
        records += [segment[0] for _, segments in body["ranks"] for segment in segments]
        files = [checkpoints / name for name, _, _ in records if name not in spared]
        file = self.rng.choice([*files, manifests[-1]])
        data = bytearray(file.read_bytes())
        place = self.rng.randrange(len(data))
        if self.rng.random() < 0.3:
            data = data[:place]
        else:
            data[place] ^= 1 << self.rng.randrange(8)
        file.write_bytes(data)
        return True


def _wait_for_life(job: Job, run_dir: Path, ranks: int) -> bool:
    """Whether all ranks have begun; not where the job is over before."""
    while job.process.poll() is None:
        if all(_pid(run_dir, rank) in job.members() for rank in range(ranks)):
            return True
        time.sleep(0.05)
    return False


def _pid(run_dir: Path, rank: int) -> int | None:
    try:
        return int(json.loads((run_dir / "heartbeats" / f"rank-{rank}.json").read_text())[1])
    except (OSError, ValueError):
        return None


def _send(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def campaign(
    *, kills: int, hangs: int, corruptions: int, signals: int, ranks: Sequence[int], seed: int = 0
) -> Tally:
    """Run until there were at least the given numbers of kills, hangs, corruptions and signals."""
    rng, tally = random.Random(seed), Tally()
    wanted = {"kill": kills, "hang": hangs, "signal": signals}
    with tempfile.TemporaryDirectory() as scratch:
        fleets = []
        for count in ranks:
            place = Path(scratch) / str(count)
            place.mkdir()
            fleets.append(Campaign(place, count, rng, tally))
        while True:
            had = {"kill": tally.kills, "hang": tally.hangs, "signal": tally.signals}
            left = [fault for fault in wanted for _ in range(wanted[fault] - had[fault])]
            if not left and tally.corruptions >= corruptions:
                return tally
            rng.shuffle(left)
            faults = (left or ["kill"] * FAULTS_A_RUN)[:FAULTS_A_RUN]
            rng.choice(fleets).run(faults, corruptions - tally.corruptions)
            print(tally, file=sys.stderr, flush=True)


def main() -> None:
    """Run a campaign and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, count in (("kills", 100), ("hangs", 20), ("corruptions", 200), ("signals", 50)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--seed", type=int, default=0)
    tally = campaign(**vars(parser.parse_args()))
    print(tally.table())
    sys.exit(int(tally.wrong + tally.left_behind > 0))


if __name__ == "__main__":
    main()
