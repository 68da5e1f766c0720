"""`hvd-dqn bench`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hvd_dqn.commands.all_ranks import run_on_all_ranks
from hvd_dqn.commands.options import OptionalFile, parse, parse_train
from hvd_dqn.common.errors import EXIT_OK, AgreedError, UserError
from hvd_dqn.common.files import require_writable
from hvd_dqn.distributed.communicator import Communicator
from hvd_dqn.distributed.connect import connect
from hvd_dqn.distributed.launcher import detect_launch


@dataclass(frozen=True, kw_only=True)
class TrainBench:
    """How fast a preset trains, and on what the time is spent, on every rank of this launch:
    horovodrun -np 2 hvd-dqn bench train -- cartpole --replay.batch_size 128
    """

    records: int = 15
    """How many of the run's records to measure; one is of logging.period_env_steps."""
    json: OptionalFile = None
    """Write every measurement here."""


@dataclass(frozen=True, kw_only=True)
class ReplayBench:
    """How fast Atari batches are drawn from a full replay, beside a plain copy of as many bytes."""

    capacity: tuple[int, ...] = (100_000,)
    """Rows: a million take 7.1 GB."""
    rounds: int = 200
    """Samples of each kind."""
    json: OptionalFile = None
    """Write every measurement here."""


@dataclass(frozen=True, kw_only=True)
class AllreduceBench:
    """How long sums over the ranks of this launch take, beside a library's own and a ring's bound:
    horovodrun -np 2 hvd-dqn bench allreduce
    """

    backend: Literal["horovod", "mpi"] = "horovod"
    """What sums."""
    beside: Literal["auto", "mpi", "nccl", "gloo"] = "auto"
    """The library whose own sums stand beside it: mpi4py's in the host's memory, or torch's; auto:
    NCCL where ours go by it, else mpi.
    """
    seconds: float = 1.0
    """How long to measure every size."""
    json: OptionalFile = None
    """Write every measurement here."""


@dataclass(frozen=True, kw_only=True)
class ScalingBench:
    """One rank and several, in turn: hvd-dqn bench scaling --ranks 1 2 4 -- cartpole"""

    ranks: tuple[int, ...] = (1, 2)
    """Numbers of ranks; one is always among them."""
    rounds: int = 3
    """How often each is run."""
    records: int = 15
    """How many of a run's records to measure."""
    launcher: Annotated[str, tyro.conf.arg(metavar="PROGRAM")] = "horovodrun"
    """What starts several ranks, with its options."""
    plot: OptionalFile = None
    """Draw the efficiencies into this file, as PNG, SVG or PDF."""
    json: OptionalFile = None
    """Write every measurement here."""


@dataclass(frozen=True, kw_only=True)
class CompareBench:
    """The same work beside other libraries on one core, and beside other ways of averaging on two
    ranks: make peers, then hvd-dqn bench compare --python .venv-peers/bin/python
    """

    python: Path | None = None
    """The Python of an environment with the other libraries; without it, only the ways of averaging
    are compared.
    """
    num_envs: tuple[int, ...] = (1, 8)
    """Environments of one process."""
    ranks: int = 2
    """Ranks to average over; 0: only the libraries are compared."""
    rounds: int = 3
    """How often each is run."""
    records: int = 8
    """How many of a run's records to measure."""
    launcher: Annotated[str, tyro.conf.arg(metavar="PROGRAM")] = "horovodrun"
    """What starts several ranks, with its options."""
    json: OptionalFile = None
    """Write every measurement here."""


def run(arguments: Sequence[str]) -> int:
    """Measure, and print."""
    if not arguments or arguments[0] not in _BENCHES:
        if arguments[:1] in (["-h"], ["--help"]):
            print(_USAGE)
            return EXIT_OK
        names = ", ".join(_BENCHES)
        wanted = f" {arguments[0]}" if arguments else ""
        raise UserError(f"hvd-dqn bench{wanted}", f"the benches are {names}")
    split = arguments.index("--") if "--" in arguments else len(arguments)
    return _BENCHES[arguments[0]](arguments[1:split], arguments[split + 1 :])


def _train(flags: Sequence[str], words: Sequence[str]) -> int:
    problem: UserError | None = None
    options, config = TrainBench(), parse_train(["cartpole"]).config
    try:
        options = parse(TrainBench, flags, program="hvd-dqn bench train")
        _at_least(options.records, "records")
        require_writable(options.json)
        config = parse_train(words or ["cartpole"]).config
    except UserError as error:
        problem = error
    comm = connect(config.distributed.backend, problem)

    def work() -> None:
        from hvd_dqn.tools.bench.report import finish
        from hvd_dqn.tools.bench.training import measure_training, print_training

        result = measure_training(config, comm, records=options.records)
        if comm.is_root:
            print_training(result)
            finish("train", result, options.json)

    return run_on_all_ranks(comm, work)


def _replay(flags: Sequence[str], words: Sequence[str]) -> int:
    from hvd_dqn.tools.bench.replay import measure_replay, print_replay, require_room
    from hvd_dqn.tools.bench.report import finish

    _no_words(words)
    options = parse(ReplayBench, flags, program="hvd-dqn bench replay")
    _at_least(options.rounds, "rounds")
    _at_least(min(options.capacity, default=0), "capacity", 1000)
    require_writable(options.json)
    require_room(max(options.capacity))
    rows = measure_replay(options.capacity, options.rounds)
    print_replay(rows)
    finish("replay", {"rows": rows}, options.json)
    return EXIT_OK


def _allreduce(flags: Sequence[str], words: Sequence[str]) -> int:
    _no_words(words)
    options = parse(AllreduceBench, flags, program="hvd-dqn bench allreduce")
    if options.seconds <= 0:
        raise UserError(f"--seconds {options.seconds:g}", "must be above 0")
    require_writable(options.json)
    launch = detect_launch()
    comm = connect(options.backend if launch is not None and launch.world_size > 1 else "local")
    if comm.world_size == 1:
        raise UserError("hvd-dqn bench allreduce: there is one rank", "horovodrun -np 2 hvd-dqn …")

    def work(comm: Communicator = comm) -> None:
        from hvd_dqn.tools.bench.allreduce import measure_allreduce, print_allreduce
        from hvd_dqn.tools.bench.report import finish

        result = measure_allreduce(comm, seconds=options.seconds, beside=options.beside)
        if comm.is_root:
            print_allreduce(result)
            finish("allreduce", result, options.json)

    return run_on_all_ranks(comm, work)


def _scaling(flags: Sequence[str], words: Sequence[str]) -> int:
    from hvd_dqn.tools.bench.report import finish, write
    from hvd_dqn.tools.bench.scaling import (
        measure_scaling,
        plot_scaling,
        print_scaling,
        require_launcher,
    )

    _not_in_a_launch("scaling")
    options = parse(ScalingBench, flags, program="hvd-dqn bench scaling")
    _at_least(options.rounds, "rounds")
    _at_least(options.records, "records")
    _at_least(min(options.ranks, default=0), "ranks")
    if max(options.ranks) > 1:
        require_launcher(options.launcher)
    require_writable(options.json)
    if options.plot is not None and options.plot.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot {options.plot}", "name it .png, .svg or .pdf")
    require_writable(options.plot)
    words = words or ["cartpole"]
    result = measure_scaling(
        words,
        parse_train(words).config,
        sorted({1, *options.ranks}),
        rounds=options.rounds,
        records=options.records,
        launcher=options.launcher,
        keep=lambda so_far: write("scaling", so_far, options.json),
    )
    print_scaling(result)
    if options.plot is not None:
        plot_scaling(result, options.plot)
    finish("scaling", result, options.json)
    return EXIT_OK


def _compare(flags: Sequence[str], words: Sequence[str]) -> int:
    from hvd_dqn.tools.bench import compare
    from hvd_dqn.tools.bench.report import finish, write
    from hvd_dqn.tools.bench.scaling import require_launcher

    _not_in_a_launch("compare")
    options = parse(CompareBench, flags, program="hvd-dqn bench compare")
    _at_least(options.rounds, "rounds")
    _at_least(min(options.num_envs, default=0), "num-envs")
    _at_least(options.records, "records", 3)
    if options.ranks:
        _at_least(options.ranks, "ranks", 2)
        require_launcher(options.launcher)
    elif options.python is None:
        raise UserError("--ranks 0 without --python", "there is nothing to compare")
    require_writable(options.json)
    results: dict[str, object] = {}
    if options.python is not None:
        results["peer_versions"] = compare.peer_versions(options.python)
        results["peers"] = peers = compare.measure_peers(
            options.python,
            rounds=options.rounds,
            records=options.records,
            num_envs=options.num_envs,
            keep=lambda so_far: write("compare", results | {"peers": so_far["runs"]}, options.json),
        )
        compare.print_peers(peers)
    if options.ranks:
        results["ways"] = ways = compare.measure_ways(
            words or ["cartpole", "--distributed.threads_per_rank=1"],
            ranks=options.ranks,
            rounds=options.rounds,
            records=options.records,
            launcher=options.launcher,
            keep=lambda so_far: write("compare", results | {"ways": so_far["runs"]}, options.json),
        )
        compare.print_ways(ways, options.ranks)
    finish("compare", results, options.json)
    return EXIT_OK


def _not_in_a_launch(name: str) -> None:
    launch = detect_launch()
    if launch is not None and launch.world_size > 1:
        raise AgreedError(
            f"hvd-dqn bench {name} starts its ranks itself: run it without a launcher"
        )


def _at_least(value: int, name: str, least: int = 1) -> None:
    if value < least:
        raise UserError(f"--{name} {value}", f"must be {least} or more")


def _no_words(words: Sequence[str]) -> None:
    if words:
        raise UserError(f"hvd-dqn bench: {' '.join(words)} behind --", "this bench takes no preset")


_BENCHES: dict[str, Callable[[Sequence[str], Sequence[str]], int]] = {
    "train": _train,
    "replay": _replay,
    "allreduce": _allreduce,
    "scaling": _scaling,
    "compare": _compare,
}
_USAGE = """usage: hvd-dqn bench NAME [OPTIONS] [-- PRESET [--section.field VALUE …]]

  train      env steps and updates a second, and where the time goes
  replay     drawing batches, beside a plain copy of their bytes
  allreduce  sums over the ranks of this launch, beside plain MPI or NCCL
  scaling    one rank and several, efficiency, and predictions for more
  compare    the same work beside other libraries

hvd-dqn bench NAME --help says more."""
