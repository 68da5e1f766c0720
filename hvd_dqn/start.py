"""Whether a run begins anew or goes on, and from which checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from hvd_dqn.checkpoint import Store, open_store
from hvd_dqn.checkpoint.manifest import Manifest, list_complete
from hvd_dqn.checkpoint.resuming import find, require_config
from hvd_dqn.command_line import load_config
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.agreement import agreement
from hvd_dqn.errors import UserError
from hvd_dqn.run_directory import RunDirectory

_FREE = (
    "preset",
    "time_limit_minutes",
    "checkpoint.",
    "env.restarts",
    "logging.tensorboard",
    "distributed.hang_seconds",
    "distributed.threads_per_rank",
    "distributed.backend",
)
"""What the numbers of a run do not depend on, by the beginnings of the options' names."""


class Start(NamedTuple):
    """How a run begins.

    store: where its checkpoints go; manifest: the checkpoint to go on from, in the store `source`;
    continues: the run directory is this run's already;
    passed_over: newer checkpoints, each with what is wrong with it; changed: fields of the config
    that the user let differ, with both values.
    """

    store: Store
    source: Store
    manifest: Manifest | None = None
    continues: bool = False
    passed_over: Sequence[str] = ()
    changed: Mapping[str, list[Any]] = MappingProxyType({})

    @property
    def env_steps(self) -> int:
        """Where the run goes on; 0 at its beginning."""
        return 0 if self.manifest is None else self.manifest.env_steps

    @property
    def metrics_bytes(self) -> int:
        """How much of `metrics.jsonl` is of the time before."""
        return self.manifest.metrics_bytes if self.manifest and self.continues else 0


def plan(
    config: Config, comm: Communicator, run_dir: RunDirectory, *, resume: str, changes: Set[str]
) -> Start:
    """What `--resume` (auto, never, or a checkpoint's directory) means here. Collective; raises
    `UserError` on all ranks or on none, and writes nothing.
    """
    continues = False
    with agreement(comm):
        named = Path(resume) if resume not in ("auto", "never") else None
        store = source = open_store(config.checkpoint.directory or str(run_dir.checkpoints))
        if comm.is_root:
            continues = resume != "never" and run_dir.config_file.exists()
            if not continues:
                run_dir.require_new()
            if resume == "never" and list_complete(store):
                raise UserError(
                    f"{store} holds checkpoints of another run",
                    "choose another checkpoint.directory, or go on with --resume auto",
                )
            unknown = sorted(changes - config.flat().keys())
            if unknown:
                raise UserError(
                    f"--resume-changes {unknown[0]}: no such option",
                    "hvd-dqn train PRESET --help lists them",
                )
        if named is not None:
            where, _, directory = resume.rstrip("/").rpartition("/")
            source = open_store(where or ".")
    continues = comm.gather(continues)[0]
    if resume == "never":
        return Start(store, source)
    found = find(source, comm, only=directory if named is not None else None)
    saved: dict[str, Any] | None = None
    with agreement(comm):
        if named is not None and found.manifest is None:
            raise UserError(f"--resume {resume}: {found.passed_over[0]}")
        if found.manifest is None and found.passed_over:
            raise UserError(
                f"no checkpoint in {store} can be used: {'; '.join(found.passed_over)}",
                "begin anew in another --run-dir",
            )
        if found.manifest is not None:
            saved = found.manifest.config
        elif continues:
            saved = json.loads(json.dumps(load_config(run_dir.config_file).flat()))
    if saved is None:
        return Start(store, source)
    changed = require_config(saved, config.flat(), free=_FREE, allowed=changes)
    return Start(store, source, found.manifest, continues, found.passed_over, changed)
