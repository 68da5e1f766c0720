"""`hvd-dqn train`."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hvd_dqn.commands.all_ranks import run_on_all_ranks
from hvd_dqn.commands.options import TrainOptions, parse_train
from hvd_dqn.common.errors import EXIT_FAILED, EXIT_OK, StoppedError, UserError, typed_line
from hvd_dqn.common.numbers import mean_and_std
from hvd_dqn.common.signals import StopRequest
from hvd_dqn.distributed.communicator import Communicator
from hvd_dqn.distributed.connect import connect
from hvd_dqn.presets import PRESETS
from hvd_dqn.run.solver_ranks import solvers_of

if TYPE_CHECKING:
    from hvd_dqn.run.summary import Summary

_USAGE = """\
usage: hvd-dqn train PRESET [--section.field VALUE …] [--run-dir DIR]
       hvd-dqn train --env.id ENVIRONMENT [--section.field VALUE …] [--run-dir DIR]
       hvd-dqn train --config FILE [--section.field VALUE …] [--run-dir DIR]

Train a preset, an environment with the settings of the preset general, or the
settings of a file (YAML, TOML or JSON, such as the config.json of a run), on
every rank of this launch.

presets
{presets}

hvd-dqn presets says what each preset is. hvd-dqn train PRESET --help lists all
options, and hvd-dqn train PRESET --help SECTION those of one section."""


def run(arguments: Sequence[str]) -> int:
    """Train on every rank of this launch."""
    if arguments in (["-h"], ["--help"]):
        presets = textwrap.fill("  ".join(PRESETS), 78, break_on_hyphens=False)
        print(_USAGE.format(presets=textwrap.indent(presets, "  ")))
        return EXIT_OK
    problem: UserError | None = None
    options = TrainOptions(config=next(iter(PRESETS.values()))())
    try:
        options = parse_train(arguments)
    except UserError as error:
        problem = error
    with StopRequest() as stop:
        config = options.config
        comm = connect(config.distributed.backend, problem, solvers_of(config.env))
        stop.on_second_interrupt = lambda: _end_at_once(comm)
        code = run_on_all_ranks(comm, lambda: _train(comm, options, stop))
        if code != EXIT_OK:
            stop.ignore_signals()
        return code


def _end_at_once(comm: Communicator) -> NoReturn:
    """Abort all ranks, after a second Ctrl-C."""
    if comm.is_root:
        print("hvd-dqn: interrupted", file=sys.stderr, flush=True)
    comm.abort(EXIT_FAILED)
    os._exit(EXIT_FAILED)


def _train(comm: Communicator, options: TrainOptions, stop: StopRequest) -> None:
    from hvd_dqn.interface import examine_together, train_together

    changes = [name for name in options.resume_changes.split(",") if name]
    if options.dry_run:
        facts = examine_together(
            comm,
            options.config,
            run_dir=options.run_dir,
            resume=options.resume,
            resume_changes=changes,
        )
        if comm.is_root:
            print("\n".join(f"{name:12} {text}" for name, text in facts), flush=True)
        return
    here = Path.cwd()  # an environment may change it
    run_dir, summary, stopped = train_together(
        comm,
        options.config,
        run_dir=options.run_dir,
        resume=options.resume,
        resume_changes=changes,
        stop=stop,
    )
    shown = options.run_dir or Path(os.path.relpath(run_dir, here))
    if summary is None:
        raise StoppedError(f"{stopped}; run it again with --run-dir {shown} to resume")
    if not comm.is_root:
        return
    if summary.is_repeated:
        print(
            f"{shown} is finished: {_result(summary)}\nTo extend it, repeat the command with a "
            f"larger --total-env-steps, such as --total-env-steps "
            f"{2 * options.config.total_env_steps}.",
            flush=True,
        )
    else:
        _report(options.config.preset, run_dir, shown, summary)


def _report(preset: str, run_dir: Path, shown: Path, summary: Summary) -> None:
    """Draw the learning curve, and print the score and the directory as it is `shown`. The run is
    complete: no error here fails it.
    """
    try:
        from hvd_dqn.tools.plot import plot_runs

        plot_runs([run_dir])
    except Exception as error:
        text = f"hvd-dqn: the learning curve was not drawn: {typed_line(error)}"
        print(text, file=sys.stderr, flush=True)
    print(f"{preset}: {_result(summary)} · {shown}", flush=True)


def _result(summary: Summary) -> str:
    progress, score = summary.progress, summary.score
    return (
        f"return {mean_and_std(score.mean, score.std)} over {len(score.returns)} greedy episodes · "
        f"{progress.env_steps:,} env steps · {progress.updates:,} updates · "
        f"{summary.seconds:.1f} s"
    )
