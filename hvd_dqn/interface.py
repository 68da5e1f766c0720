"""Training from Python: in a script, under any launcher, or in a notebook.

import hvd_dqn
run = hvd_dqn.train("cartpole", {"seed": 1}, callbacks=[print])
run.policy().act(obs)
"""

from __future__ import annotations

import atexit
import functools
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from hvd_dqn import training
from hvd_dqn.common.errors import (
    EXIT_FAILED,
    AgreedError,
    LoneError,
    LostContactError,
    RunError,
    StoppedError,
    UserError,
    did_you_mean,
)
from hvd_dqn.common.output import tolerant_output
from hvd_dqn.common.signals import StopRequest
from hvd_dqn.config import Config
from hvd_dqn.distributed.agreement import agreement, require_same
from hvd_dqn.distributed.communicator import Communicator
from hvd_dqn.distributed.connect import connect
from hvd_dqn.policy import Policy, load_policy
from hvd_dqn.presets import preset, require_own_name
from hvd_dqn.reporting.metrics import Callback
from hvd_dqn.run import dry_run
from hvd_dqn.run.directory import RunDirectory, default_path
from hvd_dqn.run.solver_ranks import solvers_of
from hvd_dqn.run.summary import Summary


class TrainedRun(NamedTuple):
    """How a run ended. `stopped` says why if it was stopped early: by a callback, or, without a
    `summary`, by a signal or the time limit.
    """

    run_dir: Path
    summary: Summary | None
    stopped: str = ""

    def policy(self, network: str | int = "best") -> Policy:
        """See `load_policy`."""
        return load_policy(self.run_dir, network=network)


def train(
    config: Config | str = "cartpole",
    changes: Mapping[str, Any] | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: str = "auto",
    resume_changes: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
) -> TrainedRun:
    """Train a preset or a config, with `changes` to its settings (keys are `section.field`).
    Collective: every rank of a launch calls it with the same arguments.

    An existing run in `run_dir` is resumed, from its newest checkpoint if `resume` is "auto". A
    finished one is returned as it is; a larger `total_env_steps` extends it. `resume_changes` names
    the other settings that may differ from those of the run to resume. `callbacks` are called with
    an `Event` at every record and evaluation, on every rank at the same update.

    With `env.ranks_per_env`, this does not return on solver ranks: they end with their learner.

    If one rank is asked to stop, by a signal, Ctrl-C or a callback, all ranks save a checkpoint,
    from which the same call resumes. If only callbacks asked, the run then ends with its final
    evaluation; otherwise it returns without a summary. A second Ctrl-C ends it at once, by
    `KeyboardInterrupt` in a single process.

    Raises `UserError` for invalid arguments and `NonFiniteError` if the loss or a parameter is not
    finite, on all ranks. Any other exception on one rank aborts the other ranks. If a callback or
    an environment takes longer than `distributed.hang_seconds`, a single process raises `RunError`
    when it returns; several ranks are aborted.
    """
    problem: UserError | None = None
    chosen = Config()
    try:
        chosen = _config(config, changes or {})
    except UserError as error:
        problem = error
    comm = _connected(chosen, problem)
    with tolerant_output(), StopRequest() as stop:
        if comm.world_size > 1:
            stop.on_second_interrupt = functools.partial(comm.abort, EXIT_FAILED)
        else:
            stop.on_second_interrupt = lambda: stop.interrupt(KeyboardInterrupt())
        try:
            return train_together(
                comm,
                chosen,
                run_dir=run_dir,
                resume=resume,
                resume_changes=resume_changes,
                stop=stop,
                callbacks=callbacks,
                may_exit=False,
            )
        except (AgreedError, RunError):
            raise
        except LostContactError:
            comm.abort(EXIT_FAILED)
            raise
        except LoneError as error:
            failure: BaseException = error.cause
        except BaseException as error:
            failure = error
        _abort_others(comm, failure)
        raise failure


def train_together(
    comm: Communicator,
    config: Config,
    *,
    run_dir: str | Path | None,
    resume: str,
    resume_changes: Sequence[str],
    stop: StopRequest,
    callbacks: Sequence[Callback] = (),
    may_exit: bool = True,
) -> TrainedRun:
    """Train after checking that all ranks have the same settings and agree on the run directory,
    which is the root's. Both `train` and the command `hvd-dqn train` call this. Collective.
    `may_exit`: see `training.train`.

    Raises what `training.train` raises on all ranks, except `StoppedError`, and `LoneError` for an
    exception on this rank alone.
    """
    changes = {_field(name) for name in resume_changes}
    path = _agree(comm, config, run_dir, resume, changes)
    with agreement(comm):
        directory = RunDirectory(path)
    try:
        summary = training.train(
            config,
            comm,
            directory,
            resume=resume,
            changes=changes,
            stop=stop,
            callbacks=callbacks,
            may_exit=may_exit,
        )
    except StoppedError as error:
        return TrainedRun(directory.path, None, str(error))
    except (UserError, RunError, LostContactError):
        raise
    except Exception as error:
        raise LoneError(error, _write_traceback(error, directory.crash_file(comm.rank))) from error
    return TrainedRun(directory.path, summary, summary.stopped)


def examine_together(
    comm: Communicator,
    config: Config,
    *,
    run_dir: str | Path | None,
    resume: str,
    resume_changes: Sequence[str],
) -> dry_run.Facts:
    """Do what `train_together` does before the first update, see `dry_run.examine`. Collective."""
    changes = {_field(name) for name in resume_changes}
    path = _agree(comm, config, run_dir, resume, changes)
    return dry_run.examine(config, comm, RunDirectory(path), resume=resume, changes=changes)


def _agree(
    comm: Communicator, config: Config, run_dir: str | Path | None, resume: str, changes: set[str]
) -> Path:
    """Check that all ranks have the same settings, and return the root's run directory."""
    require_same(comm, "the config", config.flat())
    how = {"resume": resume, "resume-changes": sorted(changes)}
    require_same(comm, "how to resume", how)
    return Path(comm.gather(str(run_dir or default_path(config.preset)))[0])


def _write_traceback(error: Exception, file: Path) -> Path | None:
    """Write the traceback and return the file, or `None` if the run directory does not exist."""
    try:
        file.write_text(
            "".join(traceback.format_exception(error)), encoding="utf-8", errors="replace"
        )
    except OSError:
        return None
    return file


def _config(config: Config | str, changes: Mapping[str, Any]) -> Config:
    if isinstance(config, str):
        config = preset(config)
    known = config.flat()
    changes = {_field(name): value for name, value in changes.items()}
    for name in changes:
        if name not in known:
            remedy = did_you_mean(name, known, "hvd-dqn presets NAME lists all settings")
            raise UserError(f"unknown setting {name!r}", remedy)
    changed = config.changed(changes)
    require_own_name(changed, config.preset)
    return changed


def _field(option: str) -> str:
    """Return the field of an option, which errors and help write with hyphens."""
    return option.replace("-", "_")


_met: dict[str, Communicator] = {}
"""Communicators by backend: ranks connect once per process, and disconnect when it exits."""
_split: list[tuple[int, int]] = []
"""The first call's `env.num_envs` (0 without solver ranks) and `env.ranks_per_env`."""


def _connected(config: Config, problem: UserError | None) -> Communicator:
    """Return the communicator of the config's backend. Collective; every rank raises a `problem` of
    one. On a solver rank, serves its learner and ends the process.
    """
    backend, solvers = config.distributed.backend, solvers_of(config.env)
    wanted = (0, 0) if solvers is None else (solvers.num_envs, solvers.ranks_per_env)
    for comm in list(_met.values())[:1]:
        with agreement(comm):
            if problem is not None:
                raise problem
            if wanted != _split[0] or (solvers is not None and backend not in _met):
                raise UserError(
                    "the job's ranks were divided by an earlier call, with other values of "
                    "env.num-envs, env.ranks-per-env or distributed.backend",
                    "keep them, or start another process",
                )
    if backend not in _met:
        _met[backend] = comm = connect(backend, problem, solvers)
        _split[:] = [wanted]
        if comm.world_size > 1:
            _abort_others_on_exception(comm)
            atexit.register(comm.close)
    return _met[backend]


def _abort_others_on_exception(comm: Communicator) -> None:
    """Abort the other ranks if this one exits with an exception; they would wait for it forever."""
    print_exception = sys.excepthook

    def abort(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        print_exception(kind, error, trace)
        comm.abort(EXIT_FAILED)

    sys.excepthook = abort


def _abort_others(comm: Communicator, error: BaseException) -> None:
    """Print the exception and abort the other ranks, which may be waiting for this one."""
    if comm.world_size > 1:
        traceback.print_exception(error)
        comm.abort(EXIT_FAILED)
