"""`hvd-dqn bench`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import tyro

from hvd_dqn.commands.all_ranks import run_on_all_ranks
from hvd_dqn.commands.options import OptionalFile, parse, parse_train
from hvd_dqn.common.errors import EXIT_OK, AgreedError, UserError
from hvd_dqn.common.files import require_writable
from hvd_dqn.config.section import Section, non_negative, positive, ranged
from hvd_dqn.distributed.communicator import Communicator
from hvd_dqn.distributed.connect import connect
from hvd_dqn.distributed.launcher import detect_launch
from hvd_dqn.run.solver_ranks import solvers_of


@dataclass(frozen=True, kw_only=True)
class TrainBench(Section):
    """Measure how fast a preset trains and how the time is spent, on every rank of this launch:
    horovodrun -np 2 hvd-dqn bench train -- cartpole --replay.batch-size 128
    """

    prefix = "--"

    records: int = positive(15)
    """Number of the run's records to measure, of --logging.period-env-steps each."""
    json: OptionalFile = None
    """Write all measurements to this file."""


@dataclass(frozen=True, kw_only=True)
class AllreduceBench(Section):
    """Measure sums over the ranks of this launch, compared with another library's and with the
    bound of a ring: horovodrun -np 2 hvd-dqn bench allreduce
    """

    prefix = "--"

    backend: Literal["horovod", "mpi"] = "horovod"
    """Backend to measure."""
    beside: Literal["auto", "mpi", "nccl", "gloo"] = "auto"
    """Library to compare with: mpi (mpi4py, in host memory), nccl or gloo (torch.distributed).
    auto: nccl if the backend uses it, otherwise mpi.
    """
    seconds: float = positive(1.0)
    """Time to measure each size."""
    json: OptionalFile = None
    """Write all measurements to this file."""


@dataclass(frozen=True, kw_only=True)
class ScalingBench(Section):
    """Run a preset on one rank and on several, in turn, and predict efficiency on more:
    hvd-dqn bench scaling --ranks 1 2 4 -- cartpole
    """

    prefix = "--"

    ranks: tuple[int, ...] = ranged(
        (1, 2), lambda ranks: min(ranks, default=0) > 0, "one or more numbers greater than 0"
    )
    """Numbers of ranks; 1 is always added."""
    rounds: int = positive(3)
    """Number of times to run each."""
    records: int = positive(15)
    """Number of each run's records to measure."""
    launcher: Annotated[str, tyro.conf.arg(metavar="PROGRAM")] = "horovodrun"
    """Program that starts several ranks, with its options."""
    plot: OptionalFile = None
    """Plot the efficiencies to this file (.png, .svg or .pdf)."""
    json: OptionalFile = None
    """Write all measurements to this file."""


@dataclass(frozen=True, kw_only=True)
class LearningBench(Section):
    """Compute on this machine how fast a preset would learn on more ranks, by the single process
    that learns the same: hvd-dqn bench learning-at-scale --score 475 --ranks 1 2 4 8 -- cartpole
    """

    prefix = "--"

    score: float
    """Mean return of an evaluation to reach."""
    ranks: tuple[int, ...] = ranged(
        (1, 2, 4, 8), lambda ranks: min(ranks, default=0) > 0, "one or more numbers greater than 0"
    )
    """Numbers of ranks; 1 is always added."""
    rules: tuple[Literal["none", "sqrt", "linear"], ...] = ("none", "sqrt")
    """How the learning rate grows with the ranks; linear warms up over a twentieth of the updates.
    """
    seeds: int = positive(3)
    """Number of seeds, from 0 on."""
    latency_us: float = non_negative(20.0)
    """Predicted seconds: microseconds of a message between two ranks."""
    bandwidth_gb: float = positive(1.25)
    """Predicted seconds: GB/s between two ranks (1.25: 10 GbE)."""
    update_ms: float | None = positive(None)
    """Predicted seconds: milliseconds of an update of one rank, its environments included. None:
    as measured here.
    """
    run_dir: OptionalFile = None
    """Keep the runs in this directory; the same command continues them. None: a temporary one."""
    plot: OptionalFile = None
    """Plot env steps and updates to this file (.png, .svg or .pdf)."""
    json: OptionalFile = None
    """Write all measurements to this file."""


def run(arguments: Sequence[str]) -> int:
    """Run the benchmark that the first argument names."""
    if not arguments or arguments[0] not in _BENCHES:
        if arguments[:1] in (["-h"], ["--help"]):
            print(_USAGE)
            return EXIT_OK
        given = f" {arguments[0]}" if arguments else ""
        raise UserError(f"bench{given}", f"choose one of {', '.join(_BENCHES)}")
    split = arguments.index("--") if "--" in arguments else len(arguments)
    return _BENCHES[arguments[0]](arguments[1:split], arguments[split + 1 :])


def _train(flags: Sequence[str], words: Sequence[str]) -> int:
    problem: UserError | None = None
    options, config, file = TrainBench(), parse_train(["cartpole"]).config, None
    try:
        options = parse(TrainBench, flags, program="hvd-dqn bench train")
        file = _writable(options.json)
        config = parse_train(words or ["cartpole"]).config
    except UserError as error:
        problem = error
    comm = connect(config.distributed.backend, problem, solvers_of(config.env))

    def work() -> None:
        from hvd_dqn.tools.bench.report import finish
        from hvd_dqn.tools.bench.training import measure_training, print_training

        result = measure_training(config, comm, records=options.records)
        if comm.is_root:
            print_training(result)
            finish("train", result, file)

    return run_on_all_ranks(comm, work)


def _allreduce(flags: Sequence[str], words: Sequence[str]) -> int:
    if words:
        raise UserError(
            f"bench allreduce: {' '.join(words)} after --",
            "this benchmark takes no preset",
        )
    options = parse(AllreduceBench, flags, program="hvd-dqn bench allreduce")
    file = _writable(options.json)
    launch = detect_launch()
    comm = connect(options.backend if launch is not None and launch.world_size > 1 else "local")
    if comm.world_size == 1:
        raise UserError(
            "bench allreduce needs two or more ranks",
            "for example horovodrun -np 2 hvd-dqn bench allreduce",
        )

    def work(comm: Communicator = comm) -> None:
        from hvd_dqn.tools.bench.allreduce import measure_allreduce, print_allreduce
        from hvd_dqn.tools.bench.report import finish

        result = measure_allreduce(comm, seconds=options.seconds, beside=options.beside)
        if comm.is_root:
            print_allreduce(result)
            finish("allreduce", result, file)

    return run_on_all_ranks(comm, work)


def _scaling(flags: Sequence[str], words: Sequence[str]) -> int:
    from hvd_dqn.tools.bench.launched import require_launcher
    from hvd_dqn.tools.bench.report import finish, write
    from hvd_dqn.tools.bench.scaling import measure_scaling, plot_scaling, print_scaling

    launch = detect_launch()
    if launch is not None and launch.world_size > 1:
        raise AgreedError("bench scaling starts its ranks itself", "run it without a launcher")
    options = parse(ScalingBench, flags, program="hvd-dqn bench scaling")
    if max(options.ranks) > 1:
        require_launcher(options.launcher)
    file = _writable(options.json)
    plot = _picture(options.plot)
    words = words or ["cartpole"]
    result = measure_scaling(
        words,
        parse_train(words).config,
        sorted({1, *options.ranks}),
        rounds=options.rounds,
        records=options.records,
        launcher=options.launcher,
        keep=lambda so_far: write("scaling", so_far, file),
    )
    print_scaling(result)
    if plot is not None:
        plot_scaling(result, plot)
    finish("scaling", result, file)
    return EXIT_OK


def _learning_at_scale(flags: Sequence[str], words: Sequence[str]) -> int:
    from hvd_dqn.tools.bench import learning
    from hvd_dqn.tools.bench.report import finish, write

    launch = detect_launch()
    if launch is not None and launch.world_size > 1:
        raise AgreedError("bench learning-at-scale is one process", "run it without a launcher")
    options = parse(LearningBench, flags, program="hvd-dqn bench learning-at-scale")
    file, plot = _writable(options.json), _picture(options.plot)
    words = words or ["cartpole"]
    config = parse_train(words).config
    with ExitStack() as stack:
        result = learning.measure_learning(
            words,
            config,
            ranks=sorted({1, *options.ranks}),
            rules=options.rules,
            seeds=range(options.seeds),
            score=options.score,
            directory=options.run_dir or Path(stack.enter_context(TemporaryDirectory())),
            keep=lambda so_far: write("learning-at-scale", so_far, file),
        )
    network = learning.Network(1e-6 * options.latency_us, 1e9 * options.bandwidth_gb)
    update_seconds = None if options.update_ms is None else 1e-3 * options.update_ms
    rows = learning.rows_of(result, network, update_seconds)
    learning.print_learning(result, rows, network)
    if plot is not None:
        learning.plot_learning(result, rows, plot)
    finish("learning-at-scale", result, file)
    return EXIT_OK


def _picture(file: Path | None) -> Path | None:
    if file is not None and file.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot {file}", "must end in .png, .svg or .pdf")
    return _writable(file)


def _writable(file: Path | None) -> Path | None:
    return None if file is None else require_writable(file)


_BENCHES: dict[str, Callable[[Sequence[str], Sequence[str]], int]] = {
    "train": _train,
    "allreduce": _allreduce,
    "scaling": _scaling,
    "learning-at-scale": _learning_at_scale,
}
_USAGE = """usage: hvd-dqn bench NAME [OPTIONS] [-- PRESET [--section.field VALUE …]]

  train              env steps and updates per second, and how the time is spent
  allreduce          sums over the ranks of this launch, compared with plain MPI, NCCL or Gloo
  scaling            one rank and several: efficiency, and predictions for more ranks
  learning-at-scale  env steps and updates to a score as more ranks would learn, on one process

Run hvd-dqn bench NAME --help for the options of each. Comparisons with other
libraries are in the repository's benchmarks/ directory."""
