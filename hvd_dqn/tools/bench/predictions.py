"""Weak scaling beyond the measured number of ranks, predicted from measured runs and sums."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hvd_dqn.tools.bench.allreduce import SumModel, model_sums
from hvd_dqn.tools.bench.launched import efficiencies, rates
from hvd_dqn.tools.bench.report import number, print_table

_PREDICTED_RANKS = (8, 16, 64, 256, 1024)


class Prediction(NamedTuple):
    """Weak scaling with one allreduce algorithm."""

    ranks: int
    seconds: float
    """Of one sum."""
    exact: float
    """Efficiency if every update waits for its sum."""
    delayed: float
    """Efficiency if a sum overlaps the next update and takes no core time from it."""


class Calibration(NamedTuple):
    """Components of measured weak-scaling runs, in seconds per update: medians of the rounds."""

    alone: float
    """An update of one rank."""
    together: float
    """An update of several ranks without averaging; includes what ranks lose to each other."""
    overhead: float
    """Extra time of a sum within a run, compared with the sum alone: caches are cold, and the sum
    may wait for a core.
    """


def calibrate(result: dict[str, Any]) -> Calibration:
    """Derive the components from the runs on as many ranks as the sums were measured on."""
    sums, size = result["allreduce"], result["runs"][0]["parameter_bytes"]
    by_ranks: dict[int, list[tuple[float, dict[str, Any]]]] = {1: [], sums["ranks"]: []}
    for run in result["runs"]:
        if run["mode"] == "weak" and run["ranks"] in by_ranks:
            seconds = 1 / float(statistics.median(run["updates_per_second"]))
            by_ranks[run["ranks"]].append((seconds, run))
    several = by_ranks[sums["ranks"]]
    summing = statistics.median(seconds * run["transfer_share"] for seconds, run in several)
    sum_alone = model_sums(sums, size).ring(sums["ranks"], size)
    return Calibration(
        alone=statistics.median(seconds for seconds, _ in by_ranks[1]),
        together=statistics.median(
            seconds * (1 - run["shares"]["averaging"]) for seconds, run in several
        ),
        overhead=max(summing - sum_alone, 0.0),
    )


def predict(
    result: dict[str, Any], ranks: Sequence[int], seconds_of: Callable[[SumModel, int, int], float]
) -> list[Prediction]:
    """Predict weak scaling for each number of ranks; `seconds_of` is a method of `SumModel`."""
    size = result["runs"][0]["parameter_bytes"]
    model, found = model_sums(result["allreduce"], size), calibrate(result)
    predictions = []
    for count in ranks:
        seconds = seconds_of(model, count, size) + found.overhead
        exact = found.alone / (found.together + seconds)
        delayed = found.alone / max(found.together, seconds)
        predictions.append(Prediction(count, seconds, exact, delayed))
    return predictions


def print_predictions(result: dict[str, Any]) -> None:
    """Print predicted efficiencies beside those measured."""
    runs = result["runs"]
    measured = {
        count: statistics.median(
            efficiencies(rates(runs, count, mode="weak"), count, rates(runs, 1, mode="weak"))
        )
        for count in {run["ranks"] for run in runs}
    }
    counts = sorted({*measured, *_PREDICTED_RANKS} - {1})
    rows = []
    for by_ring, by_halving in zip(
        predict(result, counts, SumModel.ring),
        predict(result, counts, SumModel.halving),
        strict=True,
    ):
        cells = [f"{by_ring.ranks:,}"]
        for p in (by_ring, by_halving):
            cells += [number(1e3 * p.seconds), f"{p.exact:.2f}", f"{p.delayed:.2f}"]
        seen = measured.get(by_ring.ranks)
        rows.append([*cells, "–" if seen is None else f"{seen:.2f}"])
    print_table(
        _title(result),
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


def _title(result: dict[str, Any]) -> str:
    size = result["runs"][0]["parameter_bytes"]
    model, found = model_sums(result["allreduce"], size), calibrate(result)
    hosts = result["allreduce"]["hosts"]
    return (
        f"predicted weak scaling, if more ranks are connected like these {model.ranks} on {hosts} "
        f"host{'s' if hosts > 1 else ''}: sums of {size:,} bytes, α = {number(1e6 * model.alpha)} "
        f"µs, 1/β = {number(1e-9 / model.beta) if model.beta else '–'} GB/s; an update takes "
        f"{number(1e3 * found.alone)} ms alone and {number(1e3 * found.together)} ms together; a "
        f"sum takes {number(1e3 * found.overhead)} ms longer within a run"
    )
