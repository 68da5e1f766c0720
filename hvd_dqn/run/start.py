"""Whether a run starts or resumes, and from which checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from hvd_dqn.checkpoint import Store, open_store
from hvd_dqn.checkpoint.finder import find, report_read_errors, require_config
from hvd_dqn.checkpoint.manifest import Manifest, is_step, list_complete
from hvd_dqn.common.errors import UserError
from hvd_dqn.config import Config
from hvd_dqn.config.loading import load_config
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.agreement import agreement
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.summary import read_final
from hvd_dqn.run.zoo import is_policy

_FREE = (
    "preset",
    "time_limit_minutes",
    "checkpoint.",
    "env.restarts",
    "env.check_observations",
    "env.step_seconds",
    "evaluation.envs",
    "logging.info_keys",
    "logging.loggers",
    "logging.histograms",
    "logging.video",
    "distributed.hang_seconds",
    "distributed.threads_per_rank",
    "distributed.backend",
)
"""Settings that do not affect results, by prefix of the option's name; a resumed run may change
them.
"""


class Start(NamedTuple):
    """How a run starts.

    `store` is where it saves checkpoints; `manifest` is the checkpoint to resume from, in the store
    `source`; `continues` says whether the run directory already belongs to this run; `passed_over`
    lists newer checkpoints that cannot be used, with the reason; `changed` maps settings that the
    user allowed to change to their old and new values; `final` has the contents of `final.json` if
    the run has ended and there is nothing left to do.
    """

    store: Store
    source: Store
    manifest: Manifest | None = None
    continues: bool = False
    passed_over: Sequence[str] = ()
    changed: Mapping[str, list[Any]] = MappingProxyType({})
    final: dict[str, Any] | None = None

    @property
    def env_steps(self) -> int:
        """Global env steps at which the run resumes; 0 for a new run."""
        return 0 if self.manifest is None else self.manifest.env_steps

    @property
    def metrics_bytes(self) -> int:
        """Bytes of `metrics.jsonl` written before the checkpoint."""
        return self.manifest.metrics_bytes if self.manifest and self.is_in_place else 0

    @property
    def is_in_place(self) -> bool:
        """Whether the run resumes in place, not as a new run from another's checkpoint."""
        return self.continues and str(self.source) == str(self.store)


def plan(
    config: Config, comm: Communicator, run_dir: RunDirectory, *, resume: str, changes: Set[str]
) -> Start:
    """Resolve `--resume`: "auto", "never", or the directory of a run, of its checkpoints or of one
    checkpoint. Collective; writes nothing.

    Raises `UserError` on all ranks or on none.
    """
    with agreement(comm):
        if is_policy(run_dir.path):
            raise UserError(
                f"{run_dir} is a trained policy, which cannot be trained further",
                "choose another --run-dir",
            )
    named = resume not in ("auto", "never")
    continues = False
    place, only = None, None
    with agreement(comm):
        if named and comm.is_root:
            place, only = _locate(resume)
    place, only = comm.gather([place, only])[0]
    with agreement(comm):
        store = open_store(config.checkpoint.directory or str(run_dir.checkpoints))
        source = open_store(place) if named else store
        if comm.is_root:
            continues = resume != "never" and run_dir.config_file.exists()
            _require_possible(config, run_dir, store, source, resume, changes, continues=continues)
    continues = comm.gather(continues)[0]
    if resume == "never":
        return Start(store, source)
    found = find(source, comm, only=only)
    changed: dict[str, list[Any]] = {}
    with agreement(comm):
        if named and found.manifest is None:
            problems = "; ".join(found.passed_over) or f"{source} contains no checkpoint"
            raise UserError(
                f"--resume {resume}: {problems}",
                "name a run directory, or a checkpoint in it: RUN_DIR/checkpoints/step-…",
            )
        if found.manifest is None and found.passed_over:
            raise UserError(
                f"no checkpoint in {store} can be used: {'; '.join(found.passed_over)}",
                "choose another --run-dir to start a new run",
            )
        if comm.is_root and (found.manifest is not None or continues):
            saved = load_config(run_dir.config_file).flat() if found.manifest is None else {}
            saved = found.manifest.config if found.manifest is not None else saved
            _require_known(changes, config.flat() | saved)
            if config.total_env_steps > saved.get("total_env_steps", 0):
                changes = changes | {"total_env_steps"}  # extends the run
            changed = require_config(saved, config.flat(), free=_FREE, allowed=changes)
    start = Start(
        store, source, found.manifest, continues, found.passed_over, comm.gather(changed)[0]
    )
    ended = start.is_in_place and start.env_steps >= config.total_env_steps and not start.changed
    final = comm.gather(read_final(run_dir) if ended and comm.is_root else None)[0]
    if final is not None and final["env_steps"] != start.env_steps:
        final = None
    return start._replace(final=final)


def _locate(resume: str) -> tuple[str, str | None]:
    """Return where the checkpoints are that `--resume` names, and the name of one of them, or
    `None` for the newest.
    """
    where, _, last = resume.rstrip("/").rpartition("/")
    if is_step(last):
        return where or ".", last
    run_dir = RunDirectory(Path(resume))
    if "://" in resume or not run_dir.config_file.exists():
        return resume, None
    directory = load_config(run_dir.config_file).checkpoint.directory
    return directory or str(run_dir.checkpoints), None


def _require_possible(
    config: Config,
    run_dir: RunDirectory,
    store: Store,
    source: Store,
    resume: str,
    changes: Set[str],
    *,
    continues: bool,
) -> None:
    """Raise `UserError` if the directories or options do not allow this start."""
    if not continues:
        run_dir.require_new()
    with report_read_errors(store):
        taken = bool(list_complete(store))
    if taken and (resume == "never" or str(source) != str(store)):
        raise UserError(
            f"{store} contains checkpoints of another run",
            "choose another --run-dir or --checkpoint.directory, or resume it with --resume auto",
        )
    if not continues and resume in ("auto", "never"):
        _require_known(changes, config.flat())


def _require_known(changes: Set[str], known: Mapping[str, Any]) -> None:
    unknown = sorted(changes - known.keys())
    if unknown:
        raise UserError(
            f"--resume-changes {unknown[0]}: unknown option",
            "hvd-dqn train PRESET --help lists them",
        )
