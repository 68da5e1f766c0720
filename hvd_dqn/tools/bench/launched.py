"""Runs a program on several ranks with a launcher, and reads the result that it writes."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hvd_dqn.common.errors import RunError, UserError
from hvd_dqn.tools.bench.report import number, say
from hvd_dqn.tools.launching.launchers import environment, environment_of_a_launch

Keep = Callable[[dict[str, Any]], None]
"""Receives all measurements so far after each run, so that a later failure does not lose them."""


def run_bench(words: Sequence[str], ranks: int, launcher: str) -> dict[str, Any]:
    """Run `hvd-dqn bench WORDS` on `ranks` ranks; returns its measurements."""
    return run_program(["-m", "hvd_dqn", "bench", words[0], "--json"], words[1:], ranks, launcher)


def run_program(
    program: Sequence[str], words: Sequence[str], ranks: int, launcher: str
) -> dict[str, Any]:
    """Run `python PROGRAM FILE WORDS` on `ranks` ranks; returns the JSON that it writes to FILE.

    Raises `RunError` if it fails or if FILE is missing afterwards. One rank needs no launcher.
    """
    before = [*launcher.split(), _ranks_flag(launcher), str(ranks)] if ranks > 1 else []
    with (
        # In the working directory: rank 0 may run on another host, with its own /tmp.
        tempfile.TemporaryDirectory(prefix=".hvd-dqn-bench-", dir=Path.cwd()) as scratch,
        environment_of_a_launch(before) as variables,
    ):
        path = Path(scratch) / "bench.json"
        done = subprocess.run(
            [*before, sys.executable, *program, str(path), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=variables,
            check=False,
        )
        if done.returncode != 0:
            print(done.stdout, file=sys.stderr)
            raise RunError(f"{ranks} ranks failed with exit code {done.returncode} (output above)")
        if not path.exists():
            print(done.stdout, file=sys.stderr)
            raise RunError(
                f"rank 0 left no result in {Path.cwd()}: if it runs on another host, start the "
                "benchmark in a directory that both hosts share"
            )
        result: dict[str, Any] = json.loads(path.read_text())
        return result


def _ranks_flag(launcher: str) -> str:
    """The launcher's option for the number of ranks: horovodrun does not know `-n`."""
    return "-np" if Path(launcher.split()[0]).name == "horovodrun" else "-n"


def require_launcher(launcher: str) -> None:
    """Raise `UserError` if the launcher's program is not on `PATH`."""
    program = launcher.partition(" ")[0]
    if shutil.which(program, path=environment().get("PATH")) is None:
        raise UserError(f"--launcher {launcher}", f"{program!r} was not found on PATH")


def say_rate(what: str, run: Mapping[str, Any]) -> None:
    """Report the speed of a run on standard error."""
    count = run["ranks"]
    rate = number(statistics.median(run["env_steps_per_second"]))
    say(f"{what}, {count} rank{'s' if count > 1 else ''}: {rate} env steps/s")


def rates(runs: Sequence[Mapping[str, Any]], ranks: int, **others: str) -> dict[int, float]:
    """Median env steps per second, by round, of the runs on `ranks` ranks whose other facts (their
    name or mode) equal `others`.
    """
    wanted = {"ranks": ranks, **others}
    return {
        run["round"]: statistics.median(run["env_steps_per_second"])
        for run in runs
        if all(run[name] == value for name, value in wanted.items())
    }


def efficiencies(
    several: Mapping[int, float], ranks: int, alone: Mapping[int, float]
) -> list[float]:
    """Efficiency of `ranks` ranks in each round: their rate divided by `ranks` times the rate of
    one rank in the same round, because the machine's speed changes from minute to minute.
    """
    return [rate / (ranks * alone[number_of_round]) for number_of_round, rate in several.items()]
