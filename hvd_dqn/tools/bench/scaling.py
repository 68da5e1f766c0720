"""One rank and several: how much faster N are, and what the rest of the time is spent on."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hvd_dqn.command_line import parse_train
from hvd_dqn.errors import RunError, UserError
from hvd_dqn.tools.bench.allreduce import fit, predicted_seconds
from hvd_dqn.tools.bench.report import number, print_table, spread
from hvd_dqn.tools.launching.launchers import environment, environment_of_a_launch

_PREDICTED = (8, 16, 64, 256, 1024)


def measure_scaling(
    words: Sequence[str], ranks: Sequence[int], *, rounds: int, records: int, launcher: str
) -> dict[str, Any]:
    """Every number of ranks, in turn, `rounds` times: weakly (each rank as much as one alone), and
    strongly (all ranks together as much, where that can be divided).
    """
    config = parse_train(words).config
    whole = {"env.num_envs": config.env.num_envs, "replay.batch_size": config.replay.batch_size}
    runs: list[dict[str, Any]] = []
    for number_of_round in range(rounds):
        for count in ranks:
            by_mode = {"weak": list(words)}
            if count > 1 and not any(value % count for value in whole.values()):
                share = [f"--{name}={value // count}" for name, value in whole.items()]
                by_mode["strong"] = [*words, *share]
            for mode, these in by_mode.items():
                run = _train(these, count, records, launcher)
                runs.append(run | {"mode": mode, "round": number_of_round})
    allreduce = None
    if max(ranks) > 1:
        backend = "mpi" if config.distributed.backend == "mpi" else "horovod"
        sums = ["allreduce", "--backend", backend, "--seconds", "0.3"]
        allreduce = run_bench(sums, max(ranks), launcher)
    return {"runs": runs, "allreduce": allreduce}


def _train(words: Sequence[str], ranks: int, records: int, launcher: str) -> dict[str, Any]:
    return run_bench(["train", "--records", str(records), "--", *words], ranks, launcher)


def require_launcher(launcher: str) -> None:
    """`UserError` where its program is not there."""
    program = launcher.partition(" ")[0]
    if shutil.which(program, path=environment().get("PATH")) is None:
        raise UserError(f"--launcher {launcher}", f"there is no program {program!r} here")


def run_bench(words: Sequence[str], ranks: int, launcher: str) -> dict[str, Any]:
    """What `hvd-dqn bench` measures on so many ranks."""
    return run_program(["-m", "hvd_dqn", "bench", words[0], "--json"], words[1:], ranks, launcher)


def run_program(
    program: Sequence[str], words: Sequence[str], ranks: int, launcher: str
) -> dict[str, Any]:
    """What Python, called with `program`, a file's name and `words`, writes into that file."""
    before = [*launcher.split(), "-np", str(ranks)] if ranks > 1 else []
    with tempfile.TemporaryDirectory() as scratch, environment_of_a_launch(before) as its_own:
        path = Path(scratch) / "bench.json"
        command = [sys.executable, *program, str(path), *words]
        done = subprocess.run(
            [*before, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=its_own,
            check=False,
        )
        if done.returncode != 0 or not path.exists():
            print(done.stdout, file=sys.stderr)
            raise RunError(f"{ranks} ranks ended in {done.returncode}: their output is above")
        result: dict[str, Any] = json.loads(path.read_text())
        return result


def rates(runs: Sequence[Mapping[str, Any]], ranks: int, **others: str) -> dict[int, float]:
    """By round, the median of the records' env steps a second of the run on so many ranks in which
    `others` (its name, its mode) are these.
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
    """What `ranks` did together by so many times what one did alone, in each round: how fast a
    machine is changes from minute to minute.
    """
    return [rate / (ranks * alone[number_of_round]) for number_of_round, rate in several.items()]


def print_scaling(result: dict[str, Any]) -> None:
    """What was measured, and what larger numbers of ranks would do on this network at best.

    What they would do without waiting for sums tells what ranks lose to each other otherwise: to
    memory, caches, cores that are two halves of one, or threads that make the sums meanwhile.
    """
    runs = result["runs"]
    alone = rates(runs, 1, mode="weak")
    rows = []
    for mode in ("weak", "strong"):
        for ranks in sorted({run["ranks"] for run in runs if run["mode"] == mode}):
            these = [r for r in runs if (r["ranks"], r["mode"]) == (ranks, mode)]
            speeds = rates(runs, ranks, mode=mode)
            waiting = {run["round"]: run["shares"]["averaging"] for run in these}
            without = {number: speed / (1 - waiting[number]) for number, speed in speeds.items()}
            transfer = statistics.fmean(run["transfer_share"] for run in these)
            hidden = statistics.fmean(run["hidden_share"] for run in these)
            rows.append(
                [
                    mode,
                    str(ranks),
                    str(spread(list(speeds.values()))),
                    str(spread(efficiencies(speeds, ranks, alone))) if ranks > 1 else "1",
                    str(spread(efficiencies(without, ranks, alone))) if ranks > 1 else "1",
                    f"{statistics.fmean(waiting.values()) - transfer:.1%}",
                    f"{transfer:.1%}",
                    f"{hidden:.1%}",
                ]
            )
    print_table(
        f"{runs[0]['preset']} by {runs[-1]['backend']}, {runs[0]['average']} averaged: median "
        "(least … greatest) of the rounds",
        [
            "scaling",
            "ranks",
            "env steps/s",
            "efficiency",
            "without waiting for sums",
            "waiting for slower ranks",
            "for the sum",
            "between sending and waiting",
        ],
        rows,
    )
    if result["allreduce"] is not None:
        _print_predictions(result)


class Prediction(NamedTuple):
    """A ring of `ranks`: the seconds of its sum, and the efficiency where every update waits for
    it, and where it has the next update's time.
    """

    ranks: int
    seconds: float
    exact: float
    late: float


def predict(result: dict[str, Any], ranks: Sequence[int]) -> list[Prediction]:
    """From an update on one rank, and the α and β found."""
    alpha, beta = fit(result["allreduce"])
    first = next(run for run in result["runs"] if run["ranks"] == 1)
    update = 1 / statistics.median(first["updates_per_second"])
    found = []
    for count in ranks:
        seconds = predicted_seconds(alpha, beta, count, first["parameter_bytes"])
        late = update / max(update, seconds)
        found.append(Prediction(count, seconds, update / (update + seconds), late))
    return found


def _print_predictions(result: dict[str, Any]) -> None:
    first = next(run for run in result["runs"] if run["ranks"] == 1)
    update = 1 / statistics.median(first["updates_per_second"])
    size = first["parameter_bytes"]
    rows = [
        [f"{p.ranks:,}", number(1e3 * p.seconds), f"{p.exact:.2f}", f"{p.late:.2f}"]
        for p in predict(result, _PREDICTED)
    ]
    print_table(
        f"predicted for a ring on this network: {size:,} bytes, updates of {number(1e3 * update)} "
        "ms",
        ["ranks", "sum, ms", "efficiency, exact", "one update late"],
        rows,
    )


def plot_scaling(result: dict[str, Any], path: Path) -> None:
    """Efficiency over ranks: what was measured, and what is predicted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runs = result["runs"]
    alone = rates(runs, 1, mode="weak")
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for mode in ("weak", "strong"):
        counts = sorted({run["ranks"] for run in runs if run["mode"] == mode} | {1})
        if len(counts) == 1:
            continue
        found = [spread(efficiencies(rates(runs, n, mode=mode), n, alone)) for n in counts[1:]]
        shares = [1.0, *(share.median for share in found)]
        below = [0.0, *(share.median - share.low for share in found)]
        above = [0.0, *(share.high - share.median for share in found)]
        axes.errorbar(
            counts, shares, (below, above), fmt="o-", capsize=3, label=f"{mode} scaling, measured"
        )
    if result["allreduce"] is not None:
        ahead = predict(result, [2**power for power in range(1, 11)])
        axes.plot([p.ranks for p in ahead], [p.exact for p in ahead], ":", label="weak, predicted")
        axes.plot(
            [p.ranks for p in ahead],
            [p.late for p in ahead],
            "--",
            label="the same, one update late",
        )
    axes.set(xscale="log", xlabel="ranks", ylabel="efficiency", ylim=(0, 1.05))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title(f"{runs[0]['preset']} by {runs[-1]['backend']}")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
