"""Weak and strong scaling: runs on one rank and on several, in turn."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hvd_dqn.common.files import replacing
from hvd_dqn.config import Config, ConfigError
from hvd_dqn.tools.bench.allreduce import SumModel
from hvd_dqn.tools.bench.launched import Keep, efficiencies, rates, run_bench, say_rate
from hvd_dqn.tools.bench.predictions import predict, print_predictions
from hvd_dqn.tools.bench.report import print_table, say, spread
from hvd_dqn.tools.drawing import load_matplotlib


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
    """Run the preset and options `words` on every number of ranks, in turn, `rounds` times.

    Weak scaling: each rank does the work of one. Strong scaling: the environments and the batch of
    one are divided among the ranks; numbers of ranks that do not divide them are skipped.
    """
    whole = {"env.num-envs": config.env.num_envs}
    if not config.rollout.steps:  # otherwise a rank's batch is a part of its environments' steps
        whole["replay.batch-size"] = config.replay.batch_size
    undivided = [count for count in ranks if not _divides(count, config, whole)]
    for count in undivided:
        what = " and ".join(f"--{name} {value}" for name, value in whole.items())
        say(f"no strong scaling on {count} ranks, which do not divide {what}")
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


def _divides(ranks: int, config: Config, whole: Mapping[str, int]) -> bool:
    """Whether `ranks` ranks can divide the work of one."""
    if any(value % ranks for value in whole.values()):
        return False
    share = {name.replace("-", "_"): value // ranks for name, value in whole.items()}
    try:
        config.changed(share)
    except ConfigError:  # minibatches that do not divide its rollouts
        return False
    return True


def print_scaling(result: dict[str, Any]) -> None:
    """Print measured and predicted scaling.

    The efficiency without waiting for sums shows what ranks lose to each other otherwise: to
    memory, caches, hardware threads of one core, or threads that compute sums meanwhile.
    """
    runs = result["runs"]
    rows = [
        _row(runs, mode, ranks)
        for mode in ("weak", "strong")
        for ranks in sorted({run["ranks"] for run in runs if run["mode"] == mode})
    ]
    print_table(
        f"{runs[0]['preset']} by {runs[-1]['backend']}, {runs[0]['average']} averaged: median "
        "(min … max) of the rounds",
        [
            "scaling",
            "ranks",
            "env steps/s",
            "efficiency",
            "without waiting for sums",
            "waiting for slower ranks",
            "waiting for the sum",
            "between sending and waiting",
        ],
        rows,
    )
    if result["allreduce"] is not None:
        print_predictions(result)


def _row(runs: list[dict[str, Any]], mode: str, ranks: int) -> list[str]:
    """Cells of the runs on `ranks` ranks in `mode`."""
    these = [run for run in runs if (run["ranks"], run["mode"]) == (ranks, mode)]
    alone, speeds = rates(runs, 1, mode="weak"), rates(runs, ranks, mode=mode)
    waiting = {run["round"]: run["shares"]["averaging"] for run in these}
    without = {number: speed / (1 - waiting[number]) for number, speed in speeds.items()}
    transfer = statistics.fmean(run["transfer_share"] for run in these)
    hidden = statistics.fmean(run["hidden_share"] for run in these)
    return [
        mode,
        str(ranks),
        str(spread(list(speeds.values()))),
        str(spread(efficiencies(speeds, ranks, alone))) if ranks > 1 else "1",
        str(spread(efficiencies(without, ranks, alone))) if ranks > 1 else "1",
        f"{statistics.fmean(waiting.values()) - transfer:.1%}",
        f"{transfer:.1%}",
        f"{hidden:.1%}",
    ]


def plot_scaling(result: dict[str, Any], path: Path) -> None:
    """Draw measured and predicted efficiency over the number of ranks."""
    load_matplotlib()
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
        label = f"{mode} scaling, measured"
        axes.errorbar(counts, shares, (below, above), fmt="o-", capsize=3, label=label)
    if result["allreduce"] is not None:
        counts = [2**power for power in range(1, 11)]
        for name, seconds_of, style in (
            ("a ring", SumModel.ring, ":"),
            ("2·log N messages", SumModel.halving, "--"),
        ):
            ahead = predict(result, counts, seconds_of)
            exact, delayed = [p.exact for p in ahead], [p.delayed for p in ahead]
            label = f"weak, predicted: {name}"
            axes.plot(counts, exact, f"C2{style}", label=label)
            axes.plot(counts, delayed, f"C3{style}", label=f"{label}, one update late")
    axes.set(xscale="log", xlabel="ranks", ylabel="efficiency", ylim=(0, 1.05))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title(f"{runs[0]['preset']} by {runs[-1]['backend']}")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    axes.grid(alpha=0.3)
    with replacing(path) as file:
        figure.savefig(file, dpi=150)
