"""One rank and several: how much faster N are, and what the rest of the time is spent on."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hvd_dqn.common.errors import RunError, UserError
from hvd_dqn.config import Config
from hvd_dqn.tools.bench.allreduce import SumModel, model_sums
from hvd_dqn.tools.bench.report import number, print_table, spread
from hvd_dqn.tools.launching.launchers import environment, environment_of_a_launch

_PREDICTED = (8, 16, 64, 256, 1024)


Keep = Callable[[dict[str, Any]], None]
"""Is given everything measured so far, after every run: what comes last may fail."""


def measure_scaling(
    words: Sequence[str],
    config: Config,
    ranks: Sequence[int],
    *,
    rounds: int,
    records: int,
    launcher: str,
    keep: Keep,
) -> dict[str, Any]:
    """Every number of ranks, in turn, `rounds` times: weakly (each rank as much as one alone), and
    strongly (all ranks together as much, where that can be divided).
    """
    whole = {"env.num_envs": config.env.num_envs, "replay.batch_size": config.replay.batch_size}
    undivided = [count for count in ranks if any(value % count for value in whole.values())]
    for count in undivided:
        what = " and ".join(f"{name} {value}" for name, value in whole.items())
        say(f"no strong scaling on {count} ranks, by which {what} cannot be divided")
    runs: list[dict[str, Any]] = []
    for number_of_round in range(rounds):
        for count in ranks:
            by_mode = {"weak": list(words)}
            if count > 1 and count not in undivided:
                share = [f"--{name}={value // count}" for name, value in whole.items()]
                by_mode["strong"] = [*words, *share]
            for mode, these in by_mode.items():
                train = ["train", "--records", str(records), "--", *these]
                run = run_bench(train, count, launcher)
                runs.append(run | {"mode": mode, "round": number_of_round})
                say_rate(f"round {number_of_round + 1}, {mode}", runs[-1])
                keep({"runs": runs, "allreduce": None})
    allreduce = None
    if max(ranks) > 1:
        backend = "mpi" if config.distributed.backend == "mpi" else "horovod"
        sums = ["allreduce", "--backend", backend, "--seconds", "0.3"]
        allreduce = run_bench(sums, max(ranks), launcher)
    return {"runs": runs, "allreduce": allreduce}


def say(line: str) -> None:
    """To whoever waits."""
    print(f"hvd-dqn bench: {line}", file=sys.stderr, flush=True)


def say_rate(what: str, run: Mapping[str, Any]) -> None:
    """How fast a run was."""
    count = run["ranks"]
    rate = number(statistics.median(run["env_steps_per_second"]))
    say(f"{what}, {count} rank{'s' if count > 1 else ''}: {rate} env steps/s")


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
    before = [*launcher.split(), _flag(launcher), str(ranks)] if ranks > 1 else []
    with (
        # Here, as the runs' own directories: rank 0 may be on another host, with another /tmp.
        tempfile.TemporaryDirectory(prefix=".hvd-dqn-bench-", dir=Path.cwd()) as scratch,
        environment_of_a_launch(before) as its_own,
    ):
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
        if done.returncode != 0:
            print(done.stdout, file=sys.stderr)
            raise RunError(f"{ranks} ranks ended in {done.returncode}: their output is above")
        if not path.exists():
            print(done.stdout, file=sys.stderr)
            raise RunError(
                f"rank 0 wrote nothing that is to be seen here in {Path.cwd()}: where it runs on "
                "another host, the directory must be one that both share"
            )
        result: dict[str, Any] = json.loads(path.read_text())
        return result


def _flag(launcher: str) -> str:
    """What stands before the number of ranks: mpirun and srun know `-n`, horovodrun does not."""
    return "-np" if Path(launcher.split()[0]).name == "horovodrun" else "-n"


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
    """Of sums over `ranks` by one algorithm: their seconds, and the efficiency where every update
    waits for its sum, and where that has the next update's time and takes no core from it.
    """

    ranks: int
    seconds: float
    exact: float
    late: float


class Calibration(NamedTuple):
    """What weak runs on several ranks are made of, in seconds an update: medians of the rounds."""

    alone: float
    """An update of one rank."""
    together: float
    """Of several, without averaging: what ranks take from each other is in it."""
    overhead: float
    """What a sum within a run takes longer than by itself: caches are cold, and it may have to wait
    for a core.
    """


def calibrate(result: dict[str, Any]) -> Calibration:
    """By the runs on as many ranks as the sums were measured on."""
    sums, size = result["allreduce"], result["runs"][0]["parameter_bytes"]
    by_ranks: dict[int, list[tuple[float, dict[str, Any]]]] = {1: [], sums["ranks"]: []}
    for run in result["runs"]:
        if run["mode"] == "weak" and run["ranks"] in by_ranks:
            seconds = 1 / float(statistics.median(run["updates_per_second"]))
            by_ranks[run["ranks"]].append((seconds, run))
    several = by_ranks[sums["ranks"]]
    summing = statistics.median(seconds * run["transfer_share"] for seconds, run in several)
    by_itself = model_sums(sums, size).ring(sums["ranks"], size)
    return Calibration(
        alone=statistics.median(seconds for seconds, _ in by_ranks[1]),
        together=statistics.median(
            seconds * (1 - run["shares"]["averaging"]) for seconds, run in several
        ),
        overhead=max(summing - by_itself, 0.0),
    )


def predict(
    result: dict[str, Any], ranks: Sequence[int], seconds_of: Callable[[SumModel, int, int], float]
) -> list[Prediction]:
    """From what runs on several ranks are made of, and α and β as found for sums of that size."""
    size = result["runs"][0]["parameter_bytes"]
    model, found = model_sums(result["allreduce"], size), calibrate(result)
    predictions = []
    for count in ranks:
        seconds = seconds_of(model, count, size) + found.overhead
        exact = found.alone / (found.together + seconds)
        late = found.alone / max(found.together, seconds)
        predictions.append(Prediction(count, seconds, exact, late))
    return predictions


def _print_predictions(result: dict[str, Any]) -> None:
    runs = result["runs"]
    size = runs[0]["parameter_bytes"]
    model = model_sums(result["allreduce"], size)
    measured = {
        count: statistics.median(
            efficiencies(rates(runs, count, mode="weak"), count, rates(runs, 1, mode="weak"))
        )
        for count in {run["ranks"] for run in runs}
    }
    counts = sorted({*measured, *_PREDICTED} - {1})
    rows = []
    for by_ring, by_halving in zip(
        predict(result, counts, SumModel.ring),
        predict(result, counts, SumModel.halving),
        strict=True,
    ):
        cells = [f"{by_ring.ranks:,}"]
        for p in (by_ring, by_halving):
            cells += [number(1e3 * p.seconds), f"{p.exact:.2f}", f"{p.late:.2f}"]
        seen = measured.get(by_ring.ranks)
        rows.append([*cells, "–" if seen is None else f"{seen:.2f}"])
    hosts = result["allreduce"]["hosts"]
    found = calibrate(result)
    print_table(
        f"weak scaling, if more ranks were joined as these {model.ranks} on {hosts} "
        f"host{'s' if hosts > 1 else ''}: sums of {size:,} bytes, α {number(1e6 * model.alpha)} "
        f"µs, 1/β {number(1e-9 / model.beta) if model.beta else '–'} GB/s; updates of "
        f"{number(1e3 * found.alone)} ms alone and {number(1e3 * found.together)} together; a sum "
        f"takes {number(1e3 * found.overhead)} ms more within a run",
        [
            "ranks",
            "ring, ms",
            "exact",
            "one update late, if hidden for free",
            "2·log N messages, ms",
            "exact",
            "one update late, if hidden for free",
            "measured",
        ],
        rows,
    )


def plot_scaling(result: dict[str, Any], path: Path) -> None:
    """Efficiency over ranks: what was measured, and what is predicted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runs = result["runs"]
    alone = rates(runs, 1, mode="weak")
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
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
        counts = [2**power for power in range(1, 11)]
        for name, seconds_of, style in (
            ("a ring", SumModel.ring, ":"),
            ("2·log N messages", SumModel.halving, "--"),
        ):
            ahead = predict(result, counts, seconds_of)
            exact, late = ([p.exact for p in ahead], [p.late for p in ahead])
            label = f"weak, predicted: {name}"
            axes.plot(counts, exact, f"C2{style}", label=label)
            axes.plot(counts, late, f"C3{style}", label=f"{label}, one update late")
    axes.set(xscale="log", xlabel="ranks", ylabel="efficiency", ylim=(0, 1.05))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title(f"{runs[0]['preset']} by {runs[-1]['backend']}")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
