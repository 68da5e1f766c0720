"""`hvd-dqn train`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hvd_dqn.commands.all_ranks import LoneError, run_on_all_ranks
from hvd_dqn.commands.options import TrainOptions, parse_train
from hvd_dqn.common.errors import (
    EXIT_FAILED,
    EXIT_OK,
    LostContactError,
    RunError,
    StoppedError,
    UserError,
)
from hvd_dqn.common.signals import StopRequest
from hvd_dqn.distributed.agreement import require_same
from hvd_dqn.distributed.communicator import Communicator
from hvd_dqn.distributed.connect import connect
from hvd_dqn.presets import PRESETS

if TYPE_CHECKING:
    from hvd_dqn.run.directory import RunDirectory
    from hvd_dqn.run.observer import Summary


def run(arguments: Sequence[str]) -> int:
    """Train, on every rank of this launch."""
    if arguments in (["-h"], ["--help"]):
        print(
            "usage: hvd-dqn train PRESET [--section.field VALUE …] [--run-dir DIR]\n       "
            "hvd-dqn train --config FILE …"
        )
        print(
            f"presets: {', '.join(PRESETS)}\nhvd-dqn train PRESET --help lists every option with "
            "that preset's values."
        )
        return EXIT_OK
    problem: UserError | None = None
    options = TrainOptions(config=next(iter(PRESETS.values()))())
    try:
        options = parse_train(arguments)
    except UserError as error:
        problem = error
    with StopRequest() as stop:
        comm = connect(options.config.distributed.backend, problem)
        stop.on_second_interrupt = lambda: _end_at_once(comm)
        code = run_on_all_ranks(comm, lambda: _train_together(comm, options, stop))
        if code != EXIT_OK:
            stop.ignore_signals()
        return code


def _end_at_once(comm: Communicator) -> NoReturn:
    """A second Ctrl-C."""
    if comm.is_root:
        print("hvd-dqn: interrupted", file=sys.stderr, flush=True)
    comm.abort(EXIT_FAILED)
    os._exit(EXIT_FAILED)


def _train_together(comm: Communicator, options: TrainOptions, stop: StopRequest) -> None:
    from hvd_dqn.run.directory import RunDirectory, default_path
    from hvd_dqn.training import train

    require_same(comm, "the config", options.config.flat())
    how = {"--resume": options.resume, "--resume-changes": options.resume_changes}
    require_same(comm, "the command line", how)
    path = comm.gather(str(options.run_dir or default_path(options.config.preset)))[0]
    run_dir = RunDirectory(Path(path))
    changes = {name for name in options.resume_changes.split(",") if name}
    try:
        summary = train(
            options.config, comm, run_dir, resume=options.resume, changes=changes, stop=stop
        )
        if comm.is_root:
            _report(options, summary, run_dir)
    except StoppedError as error:
        raise StoppedError(f"{error}; run it again with --run-dir {path} to go on") from None
    except (UserError, RunError, LostContactError):
        raise
    except Exception as error:
        raise LoneError(run_dir, error) from error


def _report(options: TrainOptions, summary: Summary, run_dir: RunDirectory) -> None:
    """The picture, and the closing line."""
    from hvd_dqn.tools.plot import plot_runs

    try:
        plot_runs([run_dir.path])
    except Exception as error:  # a picture is not worth a run
        print(f"hvd-dqn: {error}", file=sys.stderr, flush=True)
    progress, score = summary.progress, summary.score
    print(
        f"{options.config.preset}: return {score.mean:.1f} ± {score.std:.1f} over "
        f"{len(score.returns)} greedy episodes · {progress.env_steps:,} env steps · "
        f"{progress.updates:,} updates · {summary.seconds:.1f} s · {run_dir.path}",
        flush=True,
    )
