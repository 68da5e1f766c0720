"""Training from Python: a script under any launcher, or a notebook.

import hvd_dqn
run = hvd_dqn.train("cartpole", {"seed": 1}, callbacks=[print])
run.policy().act(obs)
"""

from __future__ import annotations

import atexit
import difflib
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
    LostContactError,
    RunError,
    StoppedError,
    UserError,
)
from hvd_dqn.common.signals import StopRequest
from hvd_dqn.config import Config
from hvd_dqn.distributed.agreement import agreement, require_same
from hvd_dqn.distributed.communicator import Communicator
from hvd_dqn.distributed.connect import connect
from hvd_dqn.policy import Policy, load_policy
from hvd_dqn.presets import PRESETS
from hvd_dqn.reporting.metrics import Callback
from hvd_dqn.run.directory import RunDirectory, default_path
from hvd_dqn.run.observer import Summary


class TrainedRun(NamedTuple):
    """Where a run is, and how it ended; no summary where it was stopped before its end."""

    run_dir: Path
    summary: Summary | None

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
    """Train a preset, or a config, with some of its fields (`section.field`) changed; a run
    directory that holds a run of it goes on. Collective: every rank of a launch calls it, with the
    same arguments.

    `callbacks` are called with an `Event` at every record and evaluation, on every rank at the same
    update. Where a rank is asked to stop, by a signal, Ctrl-C or a callback, all stop with a
    checkpoint and the run has no summary; the same call goes on from there. Raises `UserError` for
    what is wrong in the arguments and `NonFiniteError` where the numbers go wrong, on all ranks
    alike; what a single rank raises ends the others.
    """
    problem: UserError | None = None
    chosen = Config()
    try:
        chosen = _config(config, changes or {})
    except UserError as error:
        problem = error
    comm = _connected(chosen.distributed.backend, problem)
    require_same(comm, "the config", chosen.flat())
    require_same(comm, "how it resumes", {"resume": resume, "changes": sorted(resume_changes)})
    path = Path(comm.gather(str(run_dir or default_path(chosen.preset)))[0])
    with StopRequest() as stop:
        stop.on_second_interrupt = functools.partial(comm.abort, EXIT_FAILED)
        try:
            summary = training.train(
                chosen,
                comm,
                RunDirectory(path),
                resume=resume,
                changes=set(resume_changes),
                stop=stop,
                callbacks=callbacks,
            )
        except StoppedError:
            return TrainedRun(path, None)
        except (AgreedError, RunError):
            raise
        except LostContactError:
            comm.abort(EXIT_FAILED)
            raise
        except BaseException:
            _end_the_others(comm)
            raise
    return TrainedRun(path, summary)


def _config(config: Config | str, changes: Mapping[str, Any]) -> Config:
    if isinstance(config, str):
        if config not in PRESETS:
            raise UserError(f"unknown preset {config!r}", f"take one of {', '.join(PRESETS)}")
        config = PRESETS[config]()
    for name in changes:
        if name not in config.flat():
            close = difflib.get_close_matches(name, config.flat(), n=1)
            meant = f"did you mean {close[0]!r}?" if close else "hvd-dqn presets NAME lists all"
            raise UserError(f"there is no setting {name!r}", meant)
    return config.changed(changes)


_met: dict[str, Communicator] = {}
"""Ranks meet once in a process, by each backend, and part when it ends."""


def _connected(backend: str, problem: UserError | None) -> Communicator:
    """Collective; a `problem` of one rank is told to all."""
    for comm in list(_met.values())[:1]:
        with agreement(comm):
            if problem is not None:
                raise problem
    if backend not in _met:
        _met[backend] = comm = connect(backend, problem)
        if comm.world_size > 1:
            _end_the_others_if_this_one_breaks(comm)
            atexit.register(comm.close)
    return _met[backend]


def _end_the_others_if_this_one_breaks(comm: Communicator) -> None:
    """They would wait for it where ranks part."""
    said = sys.excepthook

    def end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        said(kind, error, trace)
        comm.abort(EXIT_FAILED)

    sys.excepthook = end


def _end_the_others(comm: Communicator) -> None:
    """They may be waiting for this rank."""
    if comm.world_size > 1:
        traceback.print_exc()
        comm.abort(EXIT_FAILED)
